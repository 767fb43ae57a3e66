"""Wrong input: one line with the value and the remedy, status 2, nothing made."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from conftest import ROOT

import run


class Continuous(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Box(-1, 1, (1,))


class CountsFromOne(Continuous):
    action_space = gym.spaces.Discrete(3, start=1)


class Picture(Continuous):
    observation_space = gym.spaces.Box(0, 255, (8, 8, 3), "uint8")
    action_space = gym.spaces.Discrete(2)


class Words(Picture):
    observation_space = gym.spaces.Dict(a=gym.spaces.Discrete(2))


@pytest.fixture(scope="module", autouse=True)
def environments():
    for env in (Continuous, CountsFromOne, Picture, Words):
        gym.register(f"{env.__name__}-v0", env)
    yield
    for env in (Continuous, CountsFromOne, Picture, Words):
        del gym.registry[f"{env.__name__}-v0"]


WRONG = {
    "--env NoSuchCar-v0": "NoSuchCar",
    "--env MountainCar-v7": "MountainCar-v7",
    "--env no_such_module:Car-v0": "no_such_module",
    "--env Continuous-v0": "are not discrete",
    "--env CountsFromOne-v0": "counted from 0",
    "--env Picture-v0": "no vector",
    "--env Words-v0": "no vector",
    "--model missing.h5": "there is no file missing.h5",
    "--model text.h5": "text.h5 is no readable snapshot",
    "--model cart-pole-1.h5": "(4, 32)",
    "--learning-rate 0": "'0' is no number from",
    "--learning-rate nan": "'nan' is no number from",
    "--learning-rate fast": "'fast' is no number from",
    "--discount-factor-gamma 1.01": "'1.01' is no number from 0.0 to 1.0",
    "--train-epsilon -0.1": "'-0.1' is no number from 0.0 to 1.0",
    "--eval-epsilon inf": "'inf' is no number from 0.0 to 1.0",
    "--batch-size 0": "'0' is no whole number from 1",
    "--max-steps 1.5": "'1.5' is no whole number from 1",
    "--max-steps 99999999999": "'99999999999' is no whole number",
    "--seed -1": "'-1' is no whole number from 0",
    "--seed 4294967296": "'4294967296' is no whole number from 0 to 4294967295",
    "--eval-every 5000": "Q_VALIDATION_SIZE 10000 has to be at most EVAL_EVERY 5000",
    "--train-start 2": "MAX_STEPS 2 has to be more than TRAIN_START 2, the first step that learns",
    "--name taken": "taken-log exists",
    "--name a/b": "'a/b' is no plain file name",
    "--name ..": "'..' is no plain file name",
    "--name .": "'.' is no plain file name",
    "--name=": "'' is no plain file name",
    "--name=a\nb": "is no plain file name",
    "--name=a\0b": "is no plain file name",
    "--name " + 201 * "x": "is too long",
    "--model=": "--model '' is no file",
    "--model cart-pole-1.h5 --gif folder.gif": "is no .gif file",
    "--model cart-pole-1.h5 --gif text.h5/car.gif": "in a directory to write to",
    "--eval": "need a trained --model",
    "--gif car.gif": "need a trained --model",
    "--model cart-pole-1.h5 --eval --name x": "--name names a training",
    "--model cart-pole-1.h5 --gif cart-pole-1.h5": "is no .gif file",
    "--model cart-pole-1.h5 --gif nowhere/car.gif": "in a directory to write to",
    "--max-step 5": "--max-step 5; did you mean --max-steps?",
    "--veiw": "unrecognized arguments: --veiw; did you mean --view?",
    "--view cart-pole-1.h5": "did you mean --model cart-pole-1.h5?",
    "--model snapshots": "snapshots is a directory; its snapshots are: a-1.h5, b-best.h5",
    "--model taken-log": "taken-log is a directory; its snapshots are: none",
    "--resume done": "no checkpoint.npz; there is done-log",
    "--name=-x": "'-x' is no plain file name",
    "5": "unrecognized arguments: 5",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_input_ends_in_one_line_and_makes_nothing(arguments, command, tmp_path):
    (tmp_path / "text.h5").write_text("weights")
    (tmp_path / "taken-log").mkdir()
    (tmp_path / "folder.gif").mkdir()
    (tmp_path / "snapshots").mkdir()
    for name in ("b-best.h5", "a-1.h5", "notes.txt"):
        (tmp_path / "snapshots" / name).touch()
    (tmp_path / "done-log").mkdir()
    (tmp_path / "done-log" / "checkpoint.npz").touch()
    run.save_model(run.create_model(gym.make("CartPole-v1")), 1, tmp_path, "cart-pole")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    words = arguments.split(" ") if "=" not in arguments else [arguments]
    soon = ["--max-steps", 2, "--train-start", 1]  # ends soon where it isn't refused
    status, _, errors = command(*(soon if "--resume" not in words else []), *words)
    assert status == 2
    assert errors.startswith("run.py: ")
    assert WRONG[arguments] in errors
    assert errors.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    "program, problem",
    [
        ("run.py", "not installed: filelock, gymnasium, keras"),
        ("see.py", "not installed: filelock, gymnasium, keras"),
    ],
)
def test_without_its_libraries_a_program_says_how_to_install_them(program, problem, tmp_path):
    # -S leaves out the folder in which pip installs.
    command = [sys.executable, "-S", ROOT / program]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert result.stderr.startswith(f"{program}: {problem}")
    assert result.stderr.endswith("; pip install -r requirements.txt\n")


def test_see_has_a_help_and_refuses_what_it_does_not_know(tmp_path):
    for argument, status in [("--help", 0), ("5", 2)]:
        command = [sys.executable, ROOT / "see.py", argument]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == status
        expected = "A random agent in Mountain Car" if status == 0 else "arguments: 5\n"
        assert expected in " ".join((result.stdout + result.stderr).split(" "))


@pytest.mark.parametrize("fields", [4, 1000])
def test_a_replay_buffer_that_does_not_fit_into_memory_ends_in_one_line(
    fields, command, tmp_path, monkeypatch
):
    class Wide(Continuous):
        observation_space = gym.spaces.Box(-1, 1, (fields,), np.float64)
        action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return self.observation_space.sample(), {}

    spec = gym.envs.registration.EnvSpec("Wide-v0", Wide)
    monkeypatch.setitem(gym.registry, "Wide-v0", spec)
    status, _, errors = command("--env", "Wide-v0", "--replay-buffer-size", 10**9)
    assert (status, errors.count("\n")) == (2, 1)
    assert errors.startswith("run.py: too little memory: ")
    assert list(tmp_path.iterdir()) == []
