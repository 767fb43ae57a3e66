"""A random agent in Mountain Car: pushes left, right or not at all, and never gets to the flag."""

import contextlib

from support.view import open_window

EPISODES = 5


def main():
    env = open_window("MountainCar-v0", "random agent")
    for episode in range(1, EPISODES + 1):
        env.reset()
        episode_return = 0
        done = False
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
