"""The project's own `train` learns a problem whose answer is known."""

import gymnasium as gym
import numpy as np
import pytest
from conftest import main

import run

LENGTH = 5
GAMMA = 0.8


class Corridor(gym.Env):
    """`LENGTH` cells in a row; -1 a step, until action 1 (right) leads out of the last cell."""

    observation_space = gym.spaces.Box(0.0, 1.0, (LENGTH,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def _observe(self):
        return np.eye(LENGTH, dtype=np.float32)[self.cell]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell = int(self.np_random.integers(LENGTH))
        return self._observe(), {}

    def step(self, action):
        out = action == 1 and self.cell == LENGTH - 1
        self.cell = int(np.clip(self.cell + (1 if action else -1), 0, LENGTH - 1))
        return self._observe(), -1.0, out, False, {}


def optimal_q_values():
    """Value iteration; also by hand: -1 at the way out, -1 - 0.8 before it, and so on."""
    q_values = np.zeros((LENGTH, 2))
    for _ in range(200):
        values = q_values.max(axis=1)
        for cell in range(LENGTH):
            q_values[cell, 0] = -1 + GAMMA * values[max(cell - 1, 0)]
            q_values[cell, 1] = -1 + (GAMMA * values[cell + 1] if cell < LENGTH - 1 else 0)
    assert np.isclose(q_values[LENGTH - 1, 1], -1)
    assert np.isclose(q_values[LENGTH - 2, 1], -1 - GAMMA)
    return q_values


@pytest.mark.slow
def test_training_finds_the_optimal_q_values_of_a_corridor(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(
        gym.registry, "Corridor-v0", gym.envs.registration.EnvSpec("Corridor-v0", Corridor)
    )
    # Q-learning learns the optimal policy while it acts at random: epsilon is 1.
    episode_return_avg = main(
        f"--env Corridor-v0 --name corridor --seed 0 --discount-factor-gamma {GAMMA} "
        "--train-epsilon 1 --train-start 200 --q-validation-size 500 --replay-buffer-size 2000 "
        "--target-update-every 100 --max-steps 6000 --eval-every 6000 --eval-steps 1000"
    )
    env = Corridor()
    model = run.load_or_create_model(env, "corridor-log/corridor-6000.h5")
    q_values = run.predict(env, model, np.eye(LENGTH, dtype=np.float32))
    np.testing.assert_allclose(q_values, optimal_q_values(), rtol=0.05)
    assert abs(episode_return_avg + (LENGTH + 1) / 2) < 0.2  # 1 to 5 steps, each as likely
