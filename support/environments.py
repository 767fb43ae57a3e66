"""Environments that fit the Q-network, and whose episodes can be played again."""

import gymnasium as gym
import numpy as np

from support.errors import WrongInput
from support.view import Frames, Window, has_display


def make_env(args):
    """Makes the Gymnasium environment that `args.env` names, watched as `args` ask.

    Returns a `Replayable` environment that counts its episodes (Gymnasium's
    `RecordEpisodeStatistics`). Raises `WrongInput` where there is none of that name, its
    observations are no vector, its actions are not discrete, or it can't be drawn.
    """
    visible = args.view and has_display()
    render = {"render_mode": "rgb_array"} if visible or args.images or args.gif else {}
    try:
        env = gym.make(args.env, **render)
        if visible:
            env = Window(env, f"{args.env} - {args.model}")
    except Exception as error:  # whatever the constructor of somebody's environment raises
        raise WrongInput(f"--env {args.env}: {error}") from error
    space, actions, problem = env.observation_space, env.action_space, None
    if len(space.shape or ()) != 1:
        problem = f"its observations, {space}, are no vector of numbers"
    elif not isinstance(actions, gym.spaces.Discrete) or actions.start != 0:
        problem = f"its actions, {actions}, are not discrete and counted from 0"
    if problem:
        raise WrongInput(f"--env {args.env}: {problem}; choose one such as MountainCar-v0")
    env = gym.wrappers.RecordEpisodeStatistics(env)
    if args.view or args.images or args.gif:
        env = Frames(env, args.view, args.images, args.gif)
    return Replayable(env)


class Replayable(gym.Wrapper):
    """Remembers how the present episode came about, so that it can be played again.

    So a run can be resumed in the middle of an episode, although Gymnasium's environments don't
    give their inner state. It takes an environment that draws all chance from its `np_random`, and
    of which nothing else outlives a reset. Observations are copies, because some environments
    return one array again and again, and change it.
    """

    def __init__(self, env):
        super().__init__(env)
        self.action_space = env.action_space  # at hand: asking through all wrappers takes a while

    def reset(self, *, seed=None, options=None):
        self.random_at_reset, self.actions = self._random().state, []
        observation, info = self.env.reset(seed=seed, options=options)
        self.observation = np.array(observation)
        return self.observation, info

    def step(self, action):
        self.actions.append(int(action))
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.observation = np.array(observation)
        return self.observation, reward, terminated, truncated, info

    def _random(self):
        return self.unwrapped.np_random.bit_generator

    def get_state(self):
        """The episode since its reset without a seed, and where it is: arrays and JSON values."""
        return {
            "random_at_reset": self.random_at_reset,
            "actions": np.array(self.actions, np.int64),
            "random": self._random().state,
            "observation": self.observation,
            "random_actions": self.action_space.np_random.bit_generator.state,
        }

    def set_state(self, state):
        """Plays an episode again; raises ValueError where it doesn't get where it was."""
        self._random().state = state["random_at_reset"]
        self.reset()
        for action in state["actions"]:
            if not self.action_space.contains(action):
                raise ValueError(f"{action} is no action of {self.action_space}")
            self.step(action)
        arrived = np.array_equal(self.observation, state["observation"])
        if not arrived or self._random().state != state["random"]:
            raise ValueError(
                "its episode, played again, goes another way; to be resumed, an environment has to "
                "draw all chance from np_random and to keep nothing else over a reset"
            )
        self.action_space.np_random.bit_generator.state = state["random_actions"]
