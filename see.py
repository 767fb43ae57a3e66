"""A random agent in Mountain Car: pushes left, right or not at all, and never gets to the flag."""

import contextlib

import gymnasium as gym

from view import has_display, window_closed

EPISODES = 5


def main():
    env = gym.make("MountainCar-v0", render_mode="human" if has_display() else None)
    for episode in range(1, EPISODES + 1):
        env.reset()
        episode_return, done = 0, False
        while not done and not window_closed():
            action = env.action_space.sample()
            _, reward, terminated, truncated, _ = env.step(action)
            episode_return += reward
            done = terminated or truncated
        if window_closed():
            break
        print(f"episode {episode} return {episode_return}")
    env.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
