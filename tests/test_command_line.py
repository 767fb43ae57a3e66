"""Wrong input: one line with the value and the remedy, status 2, nothing made."""

import shutil
import subprocess
import sys
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from conftest import ROOT, constants_kept

import run
from support.snapshots import write_snapshot


class Continuous(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Box(-1, 1, (1,))


class CountsFromOne(Continuous):
    action_space = gym.spaces.Discrete(3, start=1)


class Picture(Continuous):
    observation_space = gym.spaces.Box(0, 255, (8, 8, 3), "uint8")
    action_space = gym.spaces.Discrete(2)


class VectorRewards(Continuous):
    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), np.zeros(2), False, False, {}


class OtherShape(VectorRewards):
    observation_space = gym.spaces.Box(-1, 1, (3,))


class Words(Picture):
    observation_space = gym.spaces.Dict(a=gym.spaces.Discrete(2))


ENVIRONMENTS = (Continuous, CountsFromOne, Picture, Words, VectorRewards, OtherShape)


@pytest.fixture(scope="module", autouse=True)
def environments():
    for env in ENVIRONMENTS:
        gym.register(f"{env.__name__}-v0", env)
    yield
    for env in ENVIRONMENTS:
        del gym.registry[f"{env.__name__}-v0"]


WRONG = {
    "--env NoSuchCar-v0": "NoSuchCar",
    "--env MountainCar-v7": "MountainCar-v7",
    "--env no_such_module:Car-v0": "no_such_module",
    "--env=": "it is not a name such as MountainCar-v0 or module:Name-v0",
    "--env ../car:Car-v0": "it is not a name such as MountainCar-v0 or module:Name-v0",
    "--env Continuous-v0": "are not discrete",
    "--env CountsFromOne-v0": "counted from 0",
    "--env Picture-v0": "are not vectors of numbers",
    "--env Words-v0": "are not vectors of numbers",
    "--env VectorRewards-v0": "the reward [0. 0.], which is not a single finite number; a wrapp",
    "--env OtherShape-v0": "of the shape (2,), where its observation space says (3,)",
    "--model missing.h5": "there is no file missing.h5",
    "--model text.h5": "text.h5 is not a readable snapshot",
    "--model cart-pole-1.h5": "(4, 32)",
    "--model small-1.h5": "it was trained with --hidden-units=8",
    "--model small-1.h5 --eval --hidden-units 64": (
        "--hidden-units=64 contradicts small-1.h5, which was made with 8; leave it out"
    ),
    "--learning-rate 0": "must be a number between 1e-12 and 1000000.0, not '0'",
    "--learning-rate nan": "must be a number between 1e-12 and 1000000.0, not 'nan'",
    "--learning-rate fast": "must be a number between 1e-12 and 1000000.0, not 'fast'",
    "--discount-factor-gamma 1.01": "must be a number between 0.0 and 1.0, not '1.01'",
    "--train-epsilon -0.1": "must be a number between 0.0 and 1.0, not '-0.1'",
    "--eval-epsilon inf": "must be a number between 0.0 and 1.0, not 'inf'",
    "--batch-size": "argument --batch-size: expected one argument",
    "--hidden-units 4097": "must be an integer between 1 and 4096, not '4097'",
    "--batch-size 0": "must be an integer between 1 and 1000000000, not '0'",
    "--max-steps 1.5": "must be an integer between 1 and 1000000000, not '1.5'",
    "--max-steps 99999999999": "must be an integer between 1 and 1000000000, not '99999999999'",
    "--seed -1": "must be an integer between 0 and 4294967295, not '-1'",
    "--seed 4294967296": "must be an integer between 0 and 4294967295, not '4294967296'",
    "--train-start 2": "MAX_STEPS 2 must be greater than TRAIN_START 2, the first step that learns",
    "--n-steps 6 --train-start 5 --max-steps 9": (
        "N_STEPS 6 must not be greater than TRAIN_START 5: lower --n-steps or raise --train-start"
    ),
    "--n-steps 6 --replay-buffer-size 5 --train-start 6 --max-steps 9": (
        "N_STEPS 6 must not be greater than REPLAY_BUFFER_SIZE 5: lower --n-steps or raise"
    ),
    "--n-steps 6 --train-start 6 --q-validation-size 5 --max-steps 9": (
        "N_STEPS 6 must not be greater than Q_VALIDATION_SIZE 5: lower --n-steps or raise"
    ),
    "--model cart-pole-1.h5 --eval --train-start 200000": (
        "MAX_STEPS 2 must be greater than TRAIN_START 200000, the first step that learns"
    ),
    "--name taken": "taken-log exists; choose another name, or --resume taken",
    "--name file": "file-log can't be made: Not a directory",
    "--name a/b": "'a/b' is not a valid file name",
    "--name ..": "'..' is not a valid file name",
    "--name .": "'.' is not a valid file name",
    "--name=": "'' is not a valid file name",
    "--name=a\nb": "is not a valid file name",
    "--name=a\0b": "is not a valid file name",
    "--name " + 201 * "x": "is too long",
    "--model=": "--model needs the name of a file",
    "--model cart-pole-1.h5 --gif folder.gif": "must be a .gif file",
    "--model cart-pole-1.h5 --gif text.h5/car.gif": "in a directory that can be written to",
    "--eval": "need a trained --model",
    "--view": "need a trained --model",
    "--images": "need a trained --model",
    "--gif car.gif": "need a trained --model",
    "--model cart-pole-1.h5 --eval --name x": "--name names a run",
    "--model cart-pole-1.h5 --gif cart-pole-1.h5": "must be a .gif file",
    "--model cart-pole-1.h5 --gif nowhere/car.gif": "in a directory that can be written to",
    "--max-step 5": "--max-step 5; did you mean --max-steps?",
    "--veiw": "unrecognized arguments: --veiw; did you mean --view?",
    "--view cart-pole-1.h5": "did you mean --model cart-pole-1.h5?",
    "--model snapshots": "snapshots is a directory; its snapshots are: a-1.h5, b-best.h5",
    "--model taken-log": "taken-log is a directory; its snapshots are: none",
    "--resume doen": "no checkpoint.npz; there is done-log",
    "--resume=": "there is no run to resume, no checkpoint.npz",
    "--resume done --batch-size 64": "leave out --batch-size",
    "--resume done --seed 0": "leave out --seed",
    "--resume done --view": "leave out --view",
    "--eager True": "instead of True and False, write --NAME and --no-NAME",
    "--name=-x": "'-x' is not a valid file name",
    "5": "unrecognized arguments: 5",
}


@pytest.fixture(scope="module")
def mentioned(tmp_path_factory):
    """A directory with all that the wrong command lines mention."""
    folder = tmp_path_factory.mktemp("mentioned")
    (folder / "text.h5").write_text("weights")
    (folder / "folder.gif").mkdir()
    (folder / "taken-log").mkdir()
    (folder / "taken-log" / "notes.txt").touch()
    (folder / "file-log").touch()
    (folder / "snapshots").mkdir()
    for name in ("b-best.h5", "a-1.h5", "notes.txt"):
        (folder / "snapshots" / name).touch()
    (folder / "done-log").mkdir()
    (folder / "done-log" / "checkpoint.npz").touch()
    write_snapshot(folder / "cart-pole-1.h5", run.create_model(gym.make("CartPole-v1")))
    with constants_kept():
        run.HIDDEN_UNITS = 8
        small = run.create_model(gym.make("MountainCar-v0"))
    write_snapshot(folder / "small-1.h5", small, {"hidden_units": 8})
    return folder


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_input_ends_in_one_line_and_makes_nothing(arguments, command, mentioned, tmp_path):
    shutil.copytree(mentioned, tmp_path, dirs_exist_ok=True)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    words = arguments.split(" ") if "=" not in arguments else [arguments]
    soon = ["--max-steps", 2, "--train-start", 1]  # ends soon where it isn't refused
    status, _, errors = command(*(soon if "--resume" not in arguments else []), *words)
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


@pytest.mark.parametrize("env_id, needed", [("MountainCar-v0", 5.4), ("CartPole-v1", 8.4)])
def test_a_replay_buffer_that_does_not_fit_into_memory_ends_in_one_line(
    env_id, needed, command, tmp_path, monkeypatch
):
    memory = SimpleNamespace(free=2 * 1024**3)
    monkeypatch.setattr("support.errors.find_memory", lambda: memory)
    size = 10**8  # transitions of 29 or 45 bytes, and a copy of them
    status, _, errors = command("--env", env_id, "--replay-buffer-size", size)
    told = f"REPLAY_BUFFER_SIZE {size} would need {needed} GB of memory, and 2.0 GB are free"
    assert (status, errors) == (2, f"run.py: {told}; lower it\n")
    assert list(tmp_path.iterdir()) == []


def test_without_its_libraries_an_experiment_says_how_to_install_them():
    command = [sys.executable, "-S", "-m", "experiments.sweep"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert "not installed: filelock, " in result.stderr
    assert result.stderr.endswith("; pip install -r requirements.txt\n")


@pytest.mark.slow
def test_resume_takes_the_name_of_a_run_as_well(command):
    short = "--train-start 1 --max-steps 2 --eval-steps 1 --seed 1".split()
    assert command("--name", "x", *short)[0] == 0
    status, output, _ = command("--resume", "x", "--max-steps", 3)
    assert status == 0
    assert "Resumed x-log at step 2\n" in output
