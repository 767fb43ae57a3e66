import contextlib
import runpy
import subprocess
import sys
import time
from pathlib import Path

import run  # isort: skip (before Keras, to keep TensorFlow quiet)

import gymnasium as gym
import keras
import pytest

from support.options import parse_args

ROOT = Path(run.__file__).parent


def main(words):
    """Does what `python run.py WORDS` does, in this process; returns what `run.main` does."""
    return run.main(parse_args(vars(run), words.split()))


def wait_until(happened, process, seconds):
    """Waits until a function gives something, as long as a process runs; returns that."""
    end = time.monotonic() + seconds
    while not (result := happened()):
        assert time.monotonic() < end, f"not yet in {seconds} s"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
            pytest.fail(f"it has ended: {process.communicate()}")
    return result


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=5, help="how often a run is killed and resumed")
    parser.addoption("--grids", action="store_true", help="train all grids of the pages, shortened")
    parser.addoption("--damages", type=int, default=60, help="how many damaged files are read")


@pytest.fixture(scope="module")
def env():
    return gym.make("MountainCar-v0")


@pytest.fixture
def model(env):
    keras.utils.set_random_seed(0)
    return run.create_model(env)


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs `python run.py ARGUMENTS` in an empty directory: gives exit status, output, errors."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        keras.backend.clear_session()  # layers are named as in a new process
        monkeypatch.setattr(sys, "argv", ["run.py", *map(str, arguments)])
        status = 0
        try:
            runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
        except SystemExit as error:
            status = error.code or 0
        except BaseException:
            try:
                sys.excepthook(*sys.exc_info())  # as Python does at the end of a program
            except SystemExit as error:
                status = error.code
            else:
                raise
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call
