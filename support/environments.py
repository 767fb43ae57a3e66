"""Environments that fit the Q-network, keep Gymnasium's rules, and can be replayed."""

import copy
import inspect
import math
import re
import warnings
import zlib

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator

from support.errors import BrokenEnvironment, WrongInput
from support.view import Frames, Window, has_display

SEE_PAGE = "docs/change-it.md shows how"
FLATTEN = f"wrap it in gymnasium.wrappers.FlattenObservation ({SEE_PAGE})"
DISCRETIZE = f"wrap it in gymnasium.wrappers.TransformAction ({SEE_PAGE})"
MAX_REPLAYED = 10_000  # steps of an episode that is replayed to see whether it is reproducible
NOT_REPRODUCIBLE = (
    "an episode goes differently when it is replayed: not all its randomness comes from "
    "np_random, or something outlasts a reset, as in a wrapper that scales by what it has seen "
    "(scale by fixed numbers instead). Snapshots may not reproduce the reported returns, either"
)


def make_env(env_id, view=False, images=False, gif=None, title=""):
    """Makes a Gymnasium environment, to learn in or to watch.

    Args:
        env_id: its name, as in `MountainCar-v0` or `module:Name-v0`.
        view: whether to show it in a window.
        images: whether to save what it shows at each step.
        gif: file for its first episode as an animated GIF; or None.
        title: text after the name of the environment in the title of the window.

    Returns:
        `Checked` environment that counts its episodes (Gymnasium's `RecordEpisodeStatistics`).

    Raises:
        WrongInput: no environment has that name; it breaks a rule of Gymnasium's; it can't be
            drawn; or it doesn't fit the network, which takes vectors of numbers, discrete actions
            counted from 0, and rewards that are numbers.
    """
    is_watched = view or images or gif is not None
    in_window = view and has_display()
    options = {"disable_env_checker": True}
    if in_window or images or gif is not None:
        options["render_mode"] = "rgb_array"
    try:
        if not re.fullmatch(r"([A-Za-z_][\w.]*:)?[\w./-]+", env_id):
            raise WrongInput("it is not a name such as MountainCar-v0 or module:Name-v0")
        with warnings.catch_warnings():  # which an imported module may turn into errors
            with gym.make(env_id, disable_env_checker=True) as plain:
                check_env(plain)
                problem = why_not_drawn(plain)
            if problem and "render_mode" in options:
                raise WrongInput(f"it can't be drawn: {problem}")
            env = gym.make(env_id, **options)
        if in_window:
            env.unwrapped.metadata = {"render_fps": 30, **env.unwrapped.metadata}
            env = Window(env, f"{env_id} - {title}")
    except (gym.error.Error, ImportError, WrongInput) as error:
        raise WrongInput(f"--env {env_id}: {error}") from error
    env = gym.wrappers.RecordEpisodeStatistics(Checked(env))
    return Frames(env, view, images, gif) if is_watched else env


def check_env(env):
    """Raises `WrongInput` where an environment doesn't fit the network or breaks Gymnasium's rules.

    It resets the environment and plays one step, inside each of its wrappers and in all of them.
    """
    name = type(env.unwrapped).__name__
    for attribute in ("observation_space", "action_space"):
        if not isinstance(getattr(env, attribute, None), gym.Space):
            raise WrongInput(f"{name} has no {attribute}, a gymnasium.spaces.Space")
    space, actions = env.observation_space, env.action_space
    if len(space.shape or ()) != 1:
        remedy = FLATTEN if is_flattenable(space) else f"choose its numbers first, then {FLATTEN}"
        raise WrongInput(f"its observations, {space}, are not vectors of numbers; {remedy}")
    if not isinstance(actions, gym.spaces.Discrete) or actions.start != 0:
        raise WrongInput(
            f"its actions, {actions}, are not discrete and counted from 0; {DISCRETIZE}"
        )
    layers = [env]
    while isinstance(layers[-1], gym.Wrapper):
        layers.append(layers[-1].env)
    for layer in reversed(layers):
        check_rules(layer)
    env = Checked(env)
    env.reset(seed=0)
    env.step(actions.sample())


def is_flattenable(space):
    """Whether Gymnasium can make a vector of the observations of a space."""
    try:
        return space.is_np_flattenable
    except NotImplementedError:  # of a space that isn't Gymnasium's own
        return False


def check_rules(env):
    """Raises `WrongInput` where `reset` or `step` of an environment break Gymnasium's rules."""
    name = type(env).__name__
    for parameter in ("seed", "options"):
        if not takes(env.reset, parameter):
            raise WrongInput(
                f"{name}.reset takes no {parameter}; begin it with def reset(self, *, seed=None, "
                "options=None)"
            )
    result = env.reset(seed=0)
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise WrongInput(f"{name}.reset must return observation and info, a dict; not {result}")
    result = env.step(env.action_space.sample())
    if not (isinstance(result, tuple) and len(result) == 5 and isinstance(result[4], dict)):
        count = f"{len(result)} values" if isinstance(result, tuple) else f"{result}"
        raise WrongInput(
            f"{name}.step must return observation, reward, terminated, truncated and info, a dict; "
            f"not {count}"
        )


def takes(function, parameter):
    """Whether a function can be called with a parameter by name."""
    parameters = inspect.signature(function).parameters
    is_open = any(other.kind is other.VAR_KEYWORD for other in parameters.values())
    return parameter in parameters or is_open


def why_not_drawn(env):
    """Why an environment gives no pictures of itself, a string; None if it gives them."""
    if "rgb_array" not in (env.metadata or {}).get("render_modes", ()):
        return "its metadata name no render mode rgb_array"
    creator = env.spec.entry_point if env.spec else None
    if isinstance(creator, str):
        creator = load_env_creator(creator)
    if creator is not None and not takes(creator, "render_mode"):
        return "it accepts no render_mode, which its __init__ has to keep"
    return None


class Checked(gym.Wrapper):
    """Raises `BrokenEnvironment` as soon as it returns something that can't be learned from.

    That is an observation that isn't a vector of finite numbers of the space's shape, or a reward
    that isn't a finite number. An `episode` that the environment itself puts into `info` is
    removed, because `RecordEpisodeStatistics` puts its own there.
    """

    def __init__(self, env):
        super().__init__(env)
        self.shape = env.observation_space.shape
        # A copy: some environments make a new one, without a seed, at each reset; some share one.
        self.action_space = copy.deepcopy(env.action_space)

    def reset(self, *, seed=None, options=None):
        observation, info = self.env.reset(seed=seed, options=options)
        return self.check_observation(observation), info

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        observation = self.check_observation(observation)
        if type(reward) is not float or not math.isfinite(reward):
            self.check_reward(reward)
        info.pop("episode", None)
        return observation, reward, terminated, truncated, info

    def check_observation(self, observation):
        """Returns it as an array, although it may be a list."""
        array = np.asarray(observation)
        if array.shape != self.shape:
            raise BrokenEnvironment(
                f"the environment returned an observation of the shape {array.shape}, where its "
                f"observation space says {self.shape}"
            )
        if array.dtype.kind not in "biuf":
            raise BrokenEnvironment(
                f"the environment returned {observation}, which is not made of numbers"
            )
        if not math.isfinite(np.add.reduce(array)):  # a quick check
            is_finite = np.isfinite(array)
            place = int(np.argmin(is_finite))
            if not is_finite[place]:
                raise BrokenEnvironment(
                    f"the environment returned {array[place]} in observation[{place}]"
                )
        return array

    def check_reward(self, reward):
        try:
            is_number = np.ndim(reward) == 0 and math.isfinite(reward)
        except TypeError:
            is_number = False
        if not is_number:
            remedy = f"; a wrapper can make it one ({SEE_PAGE})" if np.ndim(reward) else ""
            raise BrokenEnvironment(
                f"the environment returned the reward {reward}, which is not a single finite "
                f"number{remedy}"
            )


class Replayable(gym.Wrapper):
    """Records random state and actions of the present episode, so that it can be replayed.

    So a run can be resumed in the middle of an episode, although Gymnasium's environments don't
    give their inner state. This needs an environment that takes all its randomness from
    `np_random`, and whose reset clears all other state. Observations are copies, because some
    environments return the same array every time, and change it.

    Attributes:
        observation: the newest one.
    """

    def __init__(self, env):
        super().__init__(env)
        # Here, because looking it up through all wrappers is slow.
        self.action_space = env.action_space
        self.episodes = -1  # completed
        self.actions = []
        self.episode_return = 0.0
        self.checksum = 0  # of the observations of the episode
        self.generator_at_reset = self.observation = None

    def reset(self, *, seed=None, options=None):
        self.last_episode = self.generator_at_reset, self.actions, self.outcome()
        self.generator_at_reset = self.generator_state()
        self.episodes += 1
        self.actions = []
        self.episode_return = 0.0
        observation, info = self.env.reset(seed=seed, options=options)
        self.observation = np.array(observation)
        self.checksum = zlib.crc32(self.observation.tobytes())
        return self.observation, info

    def step(self, action):
        self.actions.append(int(action))
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.episode_return += reward
        self.observation = np.array(observation)
        self.checksum = zlib.crc32(self.observation.tobytes(), self.checksum)
        return self.observation, reward, terminated, truncated, info

    def generator_state(self):
        """State of the environment's random generator, a dict; None if that is not NumPy's."""
        generator = self.unwrapped.np_random
        return generator.bit_generator.state if isinstance(generator, np.random.Generator) else None

    def outcome(self):
        """What must be the same when the episode is replayed: a tuple."""
        return self.checksum, float(self.episode_return), self.generator_state()

    def replay(self, generator_state, actions):
        """Plays an episode from a reset (without a seed) with a state of the random generator."""
        episodes = self.episodes
        self.unwrapped.np_random.bit_generator.state = generator_state
        self.reset()
        self.episodes = episodes
        for action in actions:
            if not self.action_space.contains(action):
                raise ValueError(f"{action} is not an action of {self.action_space}")
            self.step(action)

    def is_reproducible(self):
        """Whether the episode before the last reset has the same outcome when it is replayed.

        A copy replays it, so that the environment stays as it is; where none can be made, or it
        doesn't work, that proves nothing. The first episode is tried, the second, the fourth, the
        eighth and so on; long ones aren't.
        """
        generator_state, actions, outcome = self.last_episode
        is_tried = self.episodes.bit_count() == 1 and len(actions) <= MAX_REPLAYED
        if not is_tried:
            return True
        try:
            env = copy.deepcopy(self)
        except Exception:  # of any kind, from an object of another language
            return True
        try:
            env.replay(generator_state, actions)
        except ValueError:
            return False
        except Exception:
            return True
        return env.outcome() == outcome

    def get_state(self):
        """Returns what is needed to replay the episode since its reset (without a seed): a dict.

        Raises ValueError where the environment's random generator is not NumPy's.
        """
        if self.generator_at_reset is None:
            raise ValueError("its np_random is not a numpy.random.Generator")
        return {
            "generator_at_reset": self.generator_at_reset,
            "actions": np.array(self.actions, np.int64),
            "generator": self.generator_state(),
            "checksum": self.checksum,
            "action_generator": self.action_space.np_random.bit_generator.state,
        }

    def set_state(self, state):
        """Replays an episode; raises ValueError if its outcome is another one."""
        self.replay(state["generator_at_reset"], state["actions"])
        now = self.checksum, self.generator_state()
        if now != (state["checksum"], state["generator"]):
            raise ValueError(
                "its episode goes differently when it is replayed; for a run to be "
                "resumed, an environment must take all its randomness from np_random, and its "
                "reset must clear all other state"
            )
        self.action_space.np_random.bit_generator.state = state["action_generator"]
