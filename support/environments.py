"""Environments that fit the Q-network, and whose episodes can be played again."""

import copy
import re

import gymnasium as gym
import numpy as np

from support.errors import WrongInput
from support.view import Frames, Window, has_display


def make_env(env_id, view=False, images=False, gif=None, title=""):
    """Makes a Gymnasium environment, to learn in or to watch.

    Args:
        env_id: its name, as in `MountainCar-v0` or `module:Name-v0`.
        view: whether to show it in a window.
        images: whether to save what it shows at each step.
        gif: file for its first episode as an animated GIF; or None.
        title: text after the name of the environment in the title of the window.

    Returns:
        Environment that counts its episodes (Gymnasium's `RecordEpisodeStatistics`).

    Raises:
        WrongInput: there is none of that name; it can't be drawn; or it doesn't fit the network,
            which takes vectors of numbers, discrete actions and rewards that are numbers.
    """
    is_watched = view or images or gif is not None
    in_window = view and has_display()
    is_drawn = in_window or images or gif is not None
    try:
        if not re.fullmatch(r"([A-Za-z_][\w.]*:)?[\w./-]+", env_id):
            raise WrongInput("it is not a name such as MountainCar-v0 or module:Name-v0")
        plain = gym.make(env_id, disable_env_checker=True)
        check_env(plain)
        if is_drawn and not can_be_drawn(plain):
            raise WrongInput("it can't be drawn: its metadata name no render mode rgb_array")
        env = gym.make(env_id, render_mode="rgb_array") if is_drawn else gym.make(env_id)
        if in_window:
            env = Window(env, f"{env_id} - {title}")
    except (gym.error.Error, ImportError, WrongInput) as error:
        raise WrongInput(f"--env {env_id}: {error}") from error
    env = gym.wrappers.RecordEpisodeStatistics(env)
    return Frames(env, view, images, gif) if is_watched else env


def check_env(env):
    """Raises `WrongInput` where the Q-network doesn't fit an environment; plays one step of it."""
    space, actions = env.observation_space, env.action_space
    instead = "; choose one such as MountainCar-v0"
    if len(space.shape or ()) != 1:
        raise WrongInput(f"its observations, {space}, are not vectors of numbers{instead}")
    if not isinstance(actions, gym.spaces.Discrete) or actions.start != 0:
        raise WrongInput(f"its actions, {actions}, are not discrete and counted from 0{instead}")
    reward_space = getattr(env.unwrapped, "reward_space", None)
    if getattr(reward_space, "shape", ()) != ():
        raise WrongInput(f"its rewards, {reward_space}, are not single numbers{instead}")
    with env:
        observation, _ = env.reset(seed=0)
        next_observation, reward, *_ = env.unwrapped.step(actions.sample())
    for seen in (observation, next_observation):
        if np.shape(seen) != space.shape:
            shapes = f"{np.shape(seen)}, its observation space says {space.shape}"
            raise WrongInput(f"its observations have the shape {shapes}")
    if np.shape(reward) != () or np.asarray(reward).dtype.kind not in "biuf":
        raise WrongInput(f"its rewards, such as {reward}, are not single numbers{instead}")


def can_be_drawn(env):
    """Whether an environment says that it gives pictures of itself."""
    return "rgb_array" in (env.metadata or {}).get("render_modes", ())


class Replayable(gym.Wrapper):
    """Remembers random state and actions of the present episode, so that it can be replayed.

    So a run can be resumed in the middle of an episode, although Gymnasium's environments don't
    give their inner state. This needs an environment that takes all its randomness from
    `np_random`, and whose reset clears all other state. Observations are copies, because some
    environments return one array again and again, and change it.
    """

    def __init__(self, env):
        super().__init__(env)
        # Its own, for a class may have one for all its environments, and evaluations seed that; and
        # here, because looking it up through all wrappers is slow.
        self.action_space = copy.deepcopy(env.action_space)

    def reset(self, *, seed=None, options=None):
        self.generator_at_reset = self._generator().state
        self.actions = []
        observation, info = self.env.reset(seed=seed, options=options)
        self.observation = np.array(observation)
        return self.observation, info

    def step(self, action):
        self.actions.append(int(action))
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.observation = np.array(observation)
        return self.observation, reward, terminated, truncated, info

    def _generator(self):
        return self.unwrapped.np_random.bit_generator

    def get_state(self):
        """Returns what is needed to replay the episode since its reset (without a seed): a dict."""
        return {
            "generator_at_reset": self.generator_at_reset,
            "actions": np.array(self.actions, np.int64),
            "generator": self._generator().state,
            "observation": self.observation,
            "action_generator": self.action_space.np_random.bit_generator.state,
        }

    def set_state(self, state):
        """Plays an episode again; raises ValueError if it takes another course."""
        self._generator().state = state["generator_at_reset"]
        self.reset()
        for action in state["actions"]:
            if not self.action_space.contains(action):
                raise ValueError(f"{action} is not an action of {self.action_space}")
            self.step(action)
        arrived = np.array_equal(self.observation, state["observation"])
        if not arrived or self._generator().state != state["generator"]:
            raise ValueError(
                "its episode takes another course when it is played again; for a run to be "
                "resumed, an environment must take all its randomness from np_random, and its "
                "reset must clear all other state"
            )
        self.action_space.np_random.bit_generator.state = state["action_generator"]
