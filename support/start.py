"""What `python run.py` does around `main`: one-line mistakes, --eager, --test."""

import contextlib
import tempfile

import numpy as np

from support.errors import plain_errors
from support.fast_tensorflow import run_eagerly
from support.options import load_lesson

SAME = "--env CartPole-v1 --seed 1 --eval-steps 1000".split()  # where returns differ
TRAIN = (
    "--name test --train-start 100 --q-validation-size 200 --eval-every 400 --max-steps 400"
).split()
EVALUATE = "--model test-log/test-400.h5 --eval".split()


def start(main, options):
    """Does what the command line asks for; mistakes in it end in one line.

    Args:
        main: function of the options.
        options: what `read_options` returned.
    """
    with plain_errors():
        if options.eager:
            run_eagerly()
        if options.test:
            check_installation(options.filename)
        else:
            main(options)


def check_installation(filename):
    """Trains for a few hundred steps in a temporary directory, then loads and evaluates that.

    Args:
        filename: of the lesson.

    Raises:
        OSError: the two don't agree.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        trained, loaded = [run(filename, [*SAME, *words]) for words in (TRAIN, EVALUATE)]
    if not np.array_equal(trained, loaded, equal_nan=True):
        raise OSError(f"the trained network returns {trained}, but once loaded {loaded}")
    print("The installation works: the network was trained, saved and loaded.")


def run(filename, arguments):
    """Does what `python FILENAME ARGUMENTS` does, in this process; returns what `main` does."""
    lesson = load_lesson(filename, arguments)
    return lesson.main(lesson.options)
