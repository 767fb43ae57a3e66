"""Trained policies: loads them from snapshots, and plays them."""

import os
from types import ModuleType
from typing import NamedTuple

import gymnasium as gym
import keras

import run
from support.environments import make_env
from support.errors import ROOT
from support.options import load_lesson
from support.snapshots import load_weights


class TrainedPolicy(NamedTuple):
    """A trained policy.

    Attributes:
        filename: of its snapshot.
        env_id: name of the environment that it is played in.
        env: that environment.
        model: Q-network.
        lesson: run.py with the constants that the snapshot has recorded.
    """

    filename: str
    env_id: str
    env: gym.Env
    model: keras.Model
    lesson: ModuleType

    @property
    def gamma(self):
        """Discount factor with which it was trained; that of run.py if none is recorded."""
        return float(self.lesson.DISCOUNT_FACTOR_GAMMA)

    def q_values(self, observations):
        """Q-values, float32 (n, n actions), for observations (n, observation size)."""
        return self.lesson.predict(self.env, self.model, observations)

    def act(self, observation):
        """The greedy action, an int, for one observation."""
        return self.lesson.greedy_action(self.env, self.model, observation)


def load_policy(filename, env_id=None):
    """Loads a snapshot as `python run.py --model FILENAME --eval` does.

    Args:
        filename: .h5 file.
        env_id: name of the environment to play in; None for the one recorded in the file.

    Returns:
        `TrainedPolicy`.

    Raises:
        WrongInput: the file can't be read, or doesn't fit the environment.
    """
    arguments = [f"--model={filename}", "--eval"]
    if env_id is not None:
        arguments.append(f"--env={env_id}")
    lesson = load_lesson(ROOT / "run.py", arguments)
    options = lesson.options
    env = make_env(options.env)
    model = lesson.create_model(env)
    load_weights(model, filename, options.settings)
    return TrainedPolicy(filename, options.env, env, model, lesson)


def play_episode(env, choose, seed=None):
    """Plays one episode: for a `TrainedPolicy`, the first of `run.evaluate` with the same seed.

    Args:
        env: environment.
        choose: function from an observation to an action.
        seed: seed of the environment and of random actions; None to keep its generators.

    Yields:
        At the reset and after each step: the observation; the return so far, a float; whether the
        episode is terminated; whether it is truncated.
    """
    if seed is not None:
        env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    episode_return = 0.0
    yield observation, episode_return, False, False
    for _ in range(run.EVAL_STEPS):  # an episode need not end
        observation, reward, terminated, truncated, _ = env.step(choose(observation))
        episode_return += float(reward)
        yield observation, episode_return, terminated, truncated
        if terminated or truncated:
            break


def readable(filename):
    """A file's name in which bytes that are not text, and can't be drawn, are replaced."""
    return os.fsencode(filename).decode(errors="replace")
