"""Environments that fit the Q-network, and whose episodes can be played again."""

import gymnasium as gym
import numpy as np

from support.errors import WrongInput
from support.view import Frames, Window, has_display


def make_env(args):
    """Makes a Gymnasium environment that the Q-network fits.

    Args:
        args: `argparse.Namespace` with `env`, its registered name; and `view`, `images` and `gif`,
            by which it is watched.

    Returns:
        `Replayable` environment that counts its episodes (Gymnasium's `RecordEpisodeStatistics`).

    Raises:
        WrongInput: there is none of that name, or its observations are no vector, or its actions
            are not discrete, or it can't be drawn.
    """
    visible = args.view and has_display()
    render = {"render_mode": "rgb_array"} if visible or args.images or args.gif else {}
    try:
        env = gym.make(args.env, **render)
        if visible:
            env = Window(env, f"{args.env} - {args.model}")
    except Exception as error:  # whatever the constructor of somebody's environment raises
        raise WrongInput(f"--env {args.env}: {error}") from error
    if len(env.observation_space.shape or ()) != 1:
        raise WrongInput(
            f"--env {args.env}: its observations, {env.observation_space}, are no vector of "
            "numbers; choose an environment such as MountainCar-v0"
        )
    if not isinstance(env.action_space, gym.spaces.Discrete) or env.action_space.start != 0:
        raise WrongInput(
            f"--env {args.env}: its actions, {env.action_space}, are not discrete and "
            "counted from 0; choose an environment such as MountainCar-v0"
        )
    env = gym.wrappers.RecordEpisodeStatistics(env)
    if args.view or args.images or args.gif:
        env = Frames(env, args.view, args.images, args.gif)
    return Replayable(env)


class Replayable(gym.Wrapper):
    """Remembers how the present episode came about, so that it can be played again.

    So a run can be resumed in the middle of an episode, although Gymnasium's environments don't
    give their inner state. It takes an environment whose randomness comes from its `np_random`,
    and of which nothing but that outlives a reset. Observations are copies: some environments
    return one array again and again, and change it.
    """

    def reset(self, *, seed=None, options=None):
        self.random_at_reset = self._generator().state
        self.actions = []
        self.episode_return = 0.0
        observation, info = self.env.reset(seed=seed, options=options)
        self.observation = np.array(observation)
        return self.observation, info

    def step(self, action):
        self.actions.append(int(action))
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.observation = np.array(observation)
        self.episode_return += float(reward)
        return self.observation, reward, terminated, truncated, info

    def _generator(self):
        return self.unwrapped.np_random.bit_generator

    def _arrival(self):
        """Where the episode has arrived: all that can be seen of it from outside."""
        return {
            "observation": self.observation,
            "episode_return": self.episode_return,
            "random": self._generator().state,
        }

    def get_state(self):
        """The episode since its reset, and where it has arrived: a dict of arrays and JSON values.

        The reset must have been without a seed.
        """
        return {
            "random_at_reset": self.random_at_reset,
            "actions": np.array(self.actions, np.int64),
            "random_actions": self.action_space.np_random.bit_generator.state,
            **self._arrival(),
        }

    def set_state(self, state):
        """Plays the episode of `get_state` again.

        Raises:
            ValueError: it isn't one of this environment, or doesn't arrive where it did.
        """
        self._generator().state = state["random_at_reset"]
        self.reset()
        for action in state["actions"]:
            if not self.action_space.contains(action):
                raise ValueError(f"it has an action {action}, and there are {self.action_space}")
            self.step(action)
        self.action_space.np_random.bit_generator.state = state["random_actions"]
        for name, value in self._arrival().items():
            if not np.array_equal(value, state[name]):
                raise ValueError(
                    f"played again, its last episode has another {name}; only environments that "
                    "keep nothing over a reset and draw all chance from np_random can be resumed"
                )
