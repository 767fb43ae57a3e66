"""Trained policies: loads them out of snapshots, and plays them."""

import os
from typing import NamedTuple

import gymnasium as gym
import keras

import run
from support.environments import make_env
from support.errors import WrongInput
from support.options import environment_of, network_value
from support.settings import read_settings, shaping
from support.snapshots import read_snapshot, use_weights


class Policy(NamedTuple):
    """A trained policy.

    Attributes:
        filename: of its snapshot.
        env_id: name of the environment that it is played in.
        env: that environment.
        model: Q-network.
        gamma: discount factor with which it was trained; that of run.py if the file doesn't tell.
    """

    filename: str
    env_id: str
    env: gym.Env
    model: keras.Model
    gamma: float

    def q_values(self, observations):
        """Q-values, float32 (n, n actions), for observations (n, observation size)."""
        return run.predict(self.env, self.model, observations)

    def act(self, observation):
        """The greedy action, an int, for one observation."""
        return run.greedy_action(self.env, self.model, observation)


def load_policy(filename, env_id=None):
    """Loads a snapshot, with the environment and the network that it tells of itself.

    Args:
        filename: .h5 file.
        env_id: name of an environment, instead of what the file tells; or None.

    Returns:
        `Policy`.

    Raises:
        WrongInput: it can't be read, or doesn't fit the environment.
    """
    snapshot = read_snapshot(filename)
    env_id = environment_of(snapshot, env_id)
    env = make_env(env_id)
    model = create_model(env, snapshot)
    use_weights(model, snapshot)
    gamma = snapshot.settings.get("discount_factor_gamma", run.DISCOUNT_FACTOR_GAMMA)
    if type(gamma) not in (int, float) or not 0 <= gamma <= 1:
        raise WrongInput(f"{filename} tells of a discount factor of {gamma!r}")
    return Policy(filename, env_id, env, model, float(gamma))


def create_model(env, snapshot):
    """Does what `run.create_model` does, with the constants that a `Snapshot` tells of."""
    constants = vars(run)
    network = shaping(read_settings(constants), constants)
    before = {setting.constant: constants[setting.constant] for setting in network}
    try:
        for setting in network:
            constants[setting.constant] = network_value(snapshot, setting, setting.default)
        return run.create_model(env)
    finally:
        constants.update(before)


def play(env, choose, seed=None):
    """Plays one episode; a policy's is the first of `run.evaluate` with the same seed.

    Args:
        env: environment.
        choose: function from an observation to an action.
        seed: seed of the environment and of random actions; None to go on with its generators.

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
    """A file's name without bytes that are no text, which can neither be drawn nor tabulated."""
    return os.fsencode(filename).decode(errors="replace")
