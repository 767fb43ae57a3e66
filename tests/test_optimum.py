"""The optimum is what the rules of Mountain Car allow, and networks are compared with it."""

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
from test_experiments import exit_status_of

import run
from experiments import optimum
from experiments.common import value_iteration
from experiments.common.plots import OPTIMUM
from experiments.common.trained_policies import play_episode
from experiments.common.value_iteration import Solution
from support.snapshots import write_snapshot


@pytest.fixture(scope="module")
def solution():
    return Solution(100, 1.0)


def test_its_policy_gets_to_the_flag_in_the_real_environment(env, solution):
    *_, (_, episode_return, terminated, _) = play_episode(env, solution.act, seed=1)
    assert terminated
    assert -106 <= episode_return <= -100


def test_its_values_are_the_returns_of_its_policy(env, solution):
    returns, values = [], []
    for seed in range(10):
        (start, *_), *_, (_, episode_return, *_) = play_episode(env, solution.act, seed)
        returns.append(episode_return)
        values.append(solution.q_values(start[np.newaxis]).max())
    assert np.mean(values) == pytest.approx(np.mean(returns), abs=5)  # a coarse grid


def test_its_values_are_right_in_any_state(solution):
    car = gym.make("MountainCar-v0")
    rng = np.random.default_rng(0)
    states = rng.uniform([-1.1, -0.06], [0.4, 0.06], (20, 2))
    played = []
    for state in states:
        car.reset(seed=0)
        car.unwrapped.state = observation = state
        steps, terminated, truncated = 0, False, False
        while not (terminated or truncated):
            observation, _, terminated, truncated, _ = car.step(solution.act(observation))
            steps += 1
        assert terminated
        played.append(-steps)
    values = solution.q_values(states).max(axis=1)
    assert np.mean(values) == pytest.approx(np.mean(played), abs=5)


@pytest.mark.slow
def test_the_line_in_plots_is_what_it_computes():
    steps = value_iteration.play(Solution(400, 1.0).q_values, value_iteration.MAX_PLAYED)
    assert -steps.mean() == pytest.approx(OPTIMUM["MountainCar-v0"], abs=value_iteration.PRECISION)


def test_it_prints_the_optimum_with_and_without_discount(monkeypatch, capsys):
    monkeypatch.setattr(value_iteration, "COARSEST", 30)
    monkeypatch.setattr(value_iteration, "PRECISION", 10)
    assert exit_status_of(optimum, "--gamma", 0.9) == 0
    heading, *grids, last = capsys.readouterr().out.splitlines()
    assert heading.endswith("discounted by 0.9")
    assert grids[0].startswith("30 x 30") and grids[1].startswith("60 x 60")
    assert float(grids[-1].split()[-1]) == pytest.approx(-10, abs=0.01)
    assert last.startswith("The optimum is -98.")


def test_values_are_compared_in_the_states_that_a_policy_visits(rolling, monkeypatch, capsys):
    monkeypatch.setattr(optimum, "POINTS", 100)
    monkeypatch.setattr(optimum, "EPISODES", 2)
    assert exit_status_of(optimum, "rolling-0.h5", "untrained-0.h5", "--save", "x.csv") == 0
    heading, rolls, untrained, mean, saved = capsys.readouterr().out.splitlines()
    assert heading.split()[0] == "return"
    assert -200 < float(rolls.split()[1]) < float(-100)
    assert float(untrained.split()[1]) == -200
    assert float(untrained.split()[2]) > 20  # it says about 0, although many steps follow
    assert mean.startswith("mean")
    assert saved == "Saved x.csv"
    figures = pd.read_csv("x.csv", index_col="snapshot")
    assert list(figures.index) == ["rolling-0.h5", "untrained-0.h5"]
    assert f"{figures['return'].mean():.2f}" == mean.split()[1]
    assert 0 < figures.loc["rolling-0.h5", "lost"] < figures.loc["untrained-0.h5", "lost"]


def test_a_return_is_the_mean_over_all_starts(env, solution):
    steps = value_iteration.play(solution.q_values, 200)
    for number in range(0, value_iteration.STARTS, 100):
        env.reset()
        env.unwrapped.state = observation = np.array([-0.6 + 0.0002 * number, 0.0])
        count, terminated = 0, False
        while not terminated:
            observation, _, terminated, _, _ = env.step(solution.act(observation))
            count += 1
        assert abs(steps[number] - count) <= 1  # states in the environment are float32
    assert (value_iteration.play(lambda states: np.eye(3)[[1] * len(states)], 50) == 50).all()


def test_nothing_to_save_is_one_line(capsys):
    assert exit_status_of(optimum, "--save", "x.csv") == 2
    assert "name some" in capsys.readouterr().err


def test_a_gamma_that_would_change_nothing_is_one_line(rolling, capsys):
    assert exit_status_of(optimum, "rolling-0.h5", "--gamma", 0.5) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert "--gamma is for the optimum alone; leave it out" in errors


def test_a_snapshot_for_another_environment_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pole = run.create_model(gym.make("CartPole-v1"))
    write_snapshot("pole-0.h5", pole, {"env": "CartPole-v1"})
    assert exit_status_of(optimum, "pole-0.h5") == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert "pole-0.h5 is for CartPole-v1, and not for MountainCar-v0" in errors
