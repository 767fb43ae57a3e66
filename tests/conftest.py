import contextlib
import os
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import run  # isort: skip (before Keras, to keep TensorFlow quiet)

import gymnasium as gym
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator, plugin_event_accumulator
from tensorboard.util.tensor_util import make_ndarray

from support.checkpoints import encode, read_checkpoint, write_checkpoint
from support.errors import plain_errors
from support.options import load_lesson
from support.snapshots import write_snapshot

ROOT = Path(run.__file__).parent


@contextlib.contextmanager
def constants_kept():
    """Gives the constants of `run` their values back in the end, and `run` its name."""
    before = {name: value for name, value in vars(run).items() if name.isupper()}
    try:
        yield
    finally:
        vars(run).update(before)
        sys.modules["run"] = run


def main(words, **replacements):
    """Does what `python run.py WORDS` does, in this process; returns what its `main` does.

    `replacements` are put in the place of functions of run.py.
    """
    lesson = load_lesson(ROOT / "run.py", words.split())
    vars(lesson).update(replacements)
    return lesson.main(lesson.options)


def scalars(logdir):
    """What TensorBoard shows of a run, the same in both its readers: tags to (step, value)s."""
    everything = {"scalars": 0, "tensors": 0}
    events = event_accumulator.EventAccumulator(str(logdir), everything).Reload()
    shown = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }
    server = plugin_event_accumulator.EventAccumulator(str(logdir), everything).Reload()
    assert shown == {
        tag: [(event.step, make_ndarray(event.tensor_proto)) for event in server.Tensors(tag)]
        for tag in server.Tags()["tensors"]
        if not tag.startswith("_hparams_/")
    }
    return shown


def wait_until(happened, process, seconds):
    """Waits until a function gives something, as long as a process runs; returns that."""
    end = time.monotonic() + seconds
    while not (result := happened()):
        assert time.monotonic() < end, f"not yet in {seconds} s"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
            pytest.fail(f"it has ended: {process.communicate()}")
    return result


def read_until(text, process):
    """Reads a program's output up to a line with a text; returns that line."""
    for line in process.stdout:
        if text in line:
            return line
    pytest.fail(f"it has ended without {text!r}: {process.communicate()}")


def start_experiment(program, folder, *arguments, replacements=None):
    """Starts a program of experiments/ in a copy of the project, in a process group of its own.

    `replacements` are texts in run.py and what is to stand there instead.
    """
    copied = (
        "*.py",
        "requirements.txt",
        "support/*.py",
        "experiments/**/*.py",
        "experiments/*.txt",
    )
    for file in (file for pattern in copied for file in ROOT.glob(pattern)):
        copy = folder / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    for old, new in (replacements or {}).items():
        source = (folder / "run.py").read_text()
        assert old in source
        (folder / "run.py").write_text(source.replace(old, new))
    return subprocess.Popen(
        [sys.executable, "-m", f"experiments.{program}", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RAY_worker_niceness": "0"},  # in no other program's favour
        start_new_session=True,
    )


def finish(process):
    """(exit status, standard output, standard error) of a program."""
    output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


def pytest_addoption(parser):
    parser.addoption("--draws", type=int, default=100, help="samples drawn to test statistics")
    parser.addoption("--kills", type=int, default=4, help="how often a run is killed and resumed")
    parser.addoption("--damages", type=int, default=20, help="how many damaged files are read")


@pytest.fixture(scope="module")
def env():
    return gym.make("MountainCar-v0")


@pytest.fixture(autouse=True)
def same_constants():
    with constants_kept():
        yield


@pytest.fixture
def model(env):
    keras.utils.set_random_seed(0)
    return run.create_model(env)


def set_rolling(model):
    """Gives a network the weights of a policy that pushes the way the car rolls."""
    zeros = map(np.zeros_like, model.get_weights())
    first, first_bias, second, second_bias, last, last_bias = zeros
    first[1, :2] = 1000, -1000
    second[:2, :2] = np.eye(2)
    last[:2] = [0, 0, 1], [1, 0, 0]
    last_bias[:] = 0, 0, 0.001
    model.set_weights([first, first_bias, second, second_bias, last, last_bias])


@pytest.fixture
def rolling(model, tmp_path, monkeypatch):
    """rolling-0.h5 in an empty directory, which gets to the flag; untrained-0.h5 beside it."""
    monkeypatch.chdir(tmp_path)
    write_snapshot("untrained-0.h5", model)
    set_rolling(model)
    write_snapshot("rolling-0.h5", model)
    return model


def rewrite(logdir, change):
    """Writes the checkpoint of a run again with a changed state."""
    state = read_checkpoint(logdir)
    del state["file"]
    change(state)
    state["run"]["evaluations"] = np.array(state["run"]["evaluations"], float).reshape(-1, 5)
    write_checkpoint(logdir, {part: encode(values) for part, values in state.items()})


def exit_status(main, *arguments):
    """What a program's exit status would be, after its `main` with these arguments."""
    try:
        with plain_errors():
            main([str(argument) for argument in arguments])
    except SystemExit as error:
        return error.code or 0
    return 0


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs `python run.py ARGUMENTS` in an empty directory: gives exit status, output, errors.

    `script` is another file to run instead.
    """
    monkeypatch.chdir(tmp_path)

    def call(*arguments, script=ROOT / "run.py"):
        keras.backend.clear_session(free_memory=False)  # layers are named as in a new process
        monkeypatch.setattr(sys, "argv", ["run.py", *map(str, arguments)])
        status = 0
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as error:
            status = error.code or 0
        finally:
            tf.config.run_functions_eagerly(False)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call
