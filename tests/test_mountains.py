"""The returns on other mountains are those of Gymnasium's own car there."""

import itertools
import re

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
from test_experiments import exit_status_of

import run
from experiments import mountains
from experiments.common.dynamics import DYNAMICS, MountainCar

MOUNTAINS = [(1.0, 1.0), (0.5, 1.5), (1.5, 0.7), (1.5, 1.5)]  # gravity, force


@pytest.fixture(autouse=True)
def few_mountains(monkeypatch):
    monkeypatch.setattr(mountains, "FACTORS", (0.6, 1.0, 1.3))


def mountain(gravity, force):
    env = gym.make("MountainCar-v0")
    env.unwrapped.gravity *= gravity
    env.unwrapped.force *= force
    return env


def test_each_step_is_bit_for_bit_that_of_gymnasium():
    envs = [mountain(*factors) for factors in MOUNTAINS * 4]
    dynamics = MountainCar(gym.make("MountainCar-v0"), *np.array(MOUNTAINS * 4).T)
    states = [env.reset(seed=seed) and env.unwrapped.state for seed, env in enumerate(envs)]
    states = np.array(states)
    rng, walls = np.random.default_rng(0), 0
    for start in range(0, 200, 40):
        fixed = rng.integers(3, size=len(envs))
        for _ in range(start, start + 40):  # now and then to a wall, now and then at random
            actions = np.where(rng.random(len(envs)) < 0.9, fixed, rng.integers(3, size=len(envs)))
            states, rewards, terminated = dynamics.step(states, actions)
            answers = [
                env.unwrapped.step(int(action)) for env, action in zip(envs, actions, strict=True)
            ]
            assert np.array_equal(states, [env.unwrapped.state for env in envs])
            observations, *others, _, _ = zip(*answers, strict=True)
            assert np.array_equal(dynamics.observe(states), observations)
            assert np.array_equal([rewards, terminated], others)
            walls += np.count_nonzero((states[:, 0] == -1.2) & (states[:, 1] == 0))
    assert walls


@pytest.mark.parametrize("env_id", DYNAMICS)
def test_a_step_of_many_is_the_step_of_each(env_id):
    env = gym.make(env_id)
    dynamics = DYNAMICS[env_id](env)
    random = np.random.default_rng(0)
    starts = dynamics.draw_starts(random, 40).reshape(8, 5, -1)
    states = starts * random.uniform(-40, 40, (8, 5, 1))  # where some episodes end
    actions = random.integers(env.action_space.n, size=(8, 5))
    observations, stepped = dynamics.observe(states), dynamics.step(states, actions)
    assert 0 < np.count_nonzero(stepped[2]) < 40
    for place in np.ndindex(8, 5):
        alone = dynamics.step(states[place], actions[place])
        assert [part.dtype for part in alone] == [part.dtype for part in stepped]
        for together, part in zip(stepped, alone, strict=True):
            np.testing.assert_allclose(together[place], part, rtol=1e-12)
        np.testing.assert_allclose(observations[place], dynamics.observe(states[place]), rtol=1e-6)


def test_the_means_are_those_of_run_evaluate_there(env, rolling):
    gravity, force = zip(*MOUNTAINS, strict=True)
    averages = mountains.mean_returns(
        env, lambda seen: run.predict(env, rolling, seen).argmax(axis=1), 4, gravity, force
    )
    assert len(set(averages)) == len(MOUNTAINS)
    for factors, average in zip(MOUNTAINS, averages, strict=True):
        run.EVAL_STEPS = round(-4 * average)
        assert run.evaluate(mountain(*factors), rolling, mountains.SEED) == (average, 4)


def test_every_policy_is_on_every_mountain(rolling, tmp_path):
    arguments = ["rolling-0.h5", "untrained-0.h5", "--episodes", 3, "--save", "x.csv"]
    assert exit_status_of(mountains, *arguments) == 0
    results = pd.read_csv("x.csv")
    assert tuple(results.columns) == mountains.COLUMNS
    expected = itertools.product(
        ["rolling-0.h5", "untrained-0.h5"], mountains.FACTORS, [0.6, 1, 1.3]
    )
    assert list(results[["policy", "force", "gravity"]].itertuples(index=False)) == list(expected)
    assert (results["episodes"] == 3).all()
    assert (results.loc[results["policy"] == "untrained-0.h5", "return"] == -200).any()


@pytest.mark.slow
def test_the_data_gives_the_same_tables_data_and_picture_again(rolling, tmp_path, capsys):
    names, printed = ["rolling-0.h5", "untrained-0.h5"], []
    for sources, to in ((names, "a"), (names, "b"), (["a.csv"], "c")):
        files = ["--save", f"{to}.csv", "--plot", f"{to}.png"]
        assert exit_status_of(mountains, *sources, "--episodes", 3, *files) == 0
        printed.append(capsys.readouterr().out.split("Saved")[0])
    assert printed[0] == printed[1] == printed[2]
    for kind in ("csv", "png"):
        contents = {(tmp_path / f"{name}.{kind}").read_bytes() for name in "abc"}
        assert len(contents) == 1
    assert (tmp_path / "a.png").stat().st_size < 150_000


def results(returns):
    """Results of policies 0, 1, ..., each of which returns the same on all mountains."""
    rows = [
        (f"{number}.h5", gravity, force, 5, value)
        for number, value in enumerate(returns)
        for force, gravity in itertools.product(mountains.FACTORS, repeat=2)
    ]
    return pd.DataFrame(rows, columns=mountains.COLUMNS)


def test_the_tables_show_the_typical_policy_and_who_ever_gets_there():
    data = results([-200.0, -150.0, -110.0, -100.0, -90.0])
    flat = mountains.over_policies(data) * 0 - 99
    grid, gravity, force = mountains.table(data, flat).split("\n\n")[1:]
    assert grid.count("-130") == 9
    for lines in (gravity, force):
        assert len(re.findall(r"-120\.0 \[-\d+\.\d, -\d+\.\d\]", lines)) == 3
        assert lines.count("80%") == 3
        assert lines.count("-99.0") == 3


def test_a_car_that_pushes_as_it_rolls_needs_no_training(env):
    (average,) = mountains.mean_returns(env, mountains.push_as_it_rolls, 10, [1.0], [1.0])
    assert -150 < average < -100


@pytest.mark.parametrize(
    "arguments, problem",
    [
        (["none.h5"], "there is no file none.h5"),
        (["none.csv"], "none.csv is not a .csv file of --save"),
        (["other.csv"], "other.csv is not a .csv file of --save"),
        (["words.csv"], "words.csv is not a .csv file of --save"),
        (["empty.csv"], "numbers are missing"),
        (["holes.csv"], "numbers are missing"),
        (["half.csv"], "half.csv is not a .csv file of --save: episodes"),
        (["good.csv", "good.csv"], "0.h5 is given twice"),
        (["longer.csv"], "not every policy has played as many episodes per mountain: 20 and 40"),
        (["fewer.csv"], "not every policy has been to the same mountains"),
        (["elsewhere.csv"], "not every policy has been to the same mountains"),
        (["good.csv", "--episodes", "0"], "must be an integer between 1 and 1000, not '0'"),
        (["good.csv", "--save", "x.h5"], "must be a .csv file in"),
        (["good.csv", "--plot", "x.csv"], "must be a .png or .svg file in"),
    ],
)
def test_wrong_input_is_one_line(arguments, problem, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    good = results([-100.0, -120.0])
    files = {
        "good": good,
        "other": good.drop(columns="force"),
        "words": good.assign(force="strong"),
        "empty": good.iloc[:0],
        "holes": good.replace(-120.0, np.nan),
        "half": good.assign(episodes=0.5),
        "longer": good.assign(episodes=np.where(good["policy"] == good["policy"][0], 20, 40)),
        "fewer": good.iloc[:-1],
        "elsewhere": good[good["gravity"] != 1],
    }
    for name, frame in files.items():
        frame.to_csv(f"{name}.csv", index=False)
    before = sorted(tmp_path.iterdir())
    assert exit_status_of(mountains, "--plot", "x.png", "--save", "x.csv", *arguments) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and problem in errors
    assert sorted(tmp_path.iterdir()) == before
