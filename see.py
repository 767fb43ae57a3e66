"""A random agent in Mountain Car: pushes left, right or not at all, and never gets to the flag."""

from support.options import OneLineParser  # isort: skip (first: it says what isn't installed)

import contextlib

import gymnasium as gym

from support.view import Window, has_display

EPISODES = 5


def main():
    OneLineParser(description=__doc__).parse_args()
    env = gym.make("MountainCar-v0", render_mode="rgb_array")
    if has_display():
        env = Window(env, "MountainCar-v0 - random agent")
    for episode in range(1, EPISODES + 1):
        env.reset()
        episode_return, done = 0, False
        while not done:
            action = env.action_space.sample()
            _, reward, terminated, truncated, _ = env.step(action)
            episode_return += reward
            done = terminated or truncated
        print(f"episode {episode} return {episode_return}")
    env.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C, or the window was closed
        main()
