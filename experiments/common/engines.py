"""The two engines of a sweep, each of which trains one run in a process of its own.

`train_exact` does what `python run.py` does. `train_compiled` calls run.py's functions in a loop
that is compiled as a whole, and many times as fast.
"""

import support.fast_tensorflow  # noqa: F401  # isort: skip (first: it keeps TensorFlow quiet)

import contextlib
import functools
import io
import os
import re
import shutil
import signal
import tempfile
import textwrap
import time

import keras
import tensorflow as tf

from experiments.common.compiled_loop import CompiledLoop
from experiments.common.packing import pack, unpack
from experiments.common.state import State
from support.checkpoints import read_checkpoint
from support.errors import (
    ROOT,
    Diverged,
    WrongInput,
    is_fault_of_machine,
    is_machinery,
    own_frames,
)
from support.options import load_lesson
from support.snapshots import write_snapshot

LESSON = ROOT / "run.py"
MAX_MESSAGE = 200  # characters of a mistake's message that are reported
PAUSE = 1.0  # seconds between two reports of how far a compiled run is


def train_exact(run, begun, report):
    """Trains a run as `python run.py` does, from its start or its last checkpoint.

    Args:
        run: `Run`.
        begun: its directory, packed, if it has begun before; or None.
        report: function that is called with a `State` at the start and after each checkpoint.

    Returns:
        `State` at its end.

    Raises:
        OSError: a file can't be written, or the machine is at fault otherwise.
    """
    logdir = f"{run.name}-log"
    with in_own_directory():
        if begun is not None:
            unpack(begun, ".")
        done = read_checkpoint(logdir) if begun is not None else None
        if done and done["run"]["step"] == run.max_steps:
            return end_of(run, logdir)
        if done and done["file"]["missing"]:  # it can't be resumed, so it starts again
            shutil.rmtree(logdir)
            done = None
        report(State(done["run"]["step"] if done else 0))
        arguments = [f"--name={run.name}", f"--seed={run.seed}", *run.options()]
        if done:
            arguments = ["--resume", logdir, f"--max-steps={run.max_steps}", f"--env={run.env}"]
        try:
            keras.utils.clear_session()  # as in a new process
            lesson = load_lesson(LESSON, arguments)
            lesson.Run = functools.partial(
                lesson.Run, on_checkpoint=lambda step: report(State(step, files=pack(logdir)))
            )
            lesson.main(lesson.options)
            return end_of(run, logdir)
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            files = pack(logdir) if os.path.isdir(logdir) else None
            return failed(error)._replace(files=files)


def end_of(run, logdir):
    """The `State` of a run whose training has ended, from its directory."""
    state = read_checkpoint(logdir)["run"]
    return State(
        state["step"],
        state["evaluations"],
        failed=find_difference(run, state),
        files=pack(logdir),
        is_over=True,
    )


def find_difference(run, state):
    """How the state in a checkpoint differs from that of a finished run: a string, or None.

    Args:
        run: `Run`.
        state: `run` of what `read_checkpoint` returned.
    """
    steps = [evaluation.step for evaluation in state["evaluations"]]
    if steps != run.evaluated_steps():
        every = run.hyperparameters["eval_every"]
        found = f"evaluations at {', '.join(map(str, steps)) or 'no'} steps"
        return (
            f"{run.name}-log has {found}, not every {every} and at {run.max_steps}; only "
            "whole runs are compared, so none may end early"
        )
    settings = {"env": run.env, "seed": run.seed, **run.hyperparameters}
    other = [name for name in settings if state["settings"].get(name) != settings[name]]
    return f"{run.name}-log was trained with a different {', '.join(other)}" if other else None


def train_compiled(run, begun, report):
    """Trains a run in a compiled loop; see `train_exact`. It always begins at the start."""
    reported = time.monotonic()

    def show(step):
        nonlocal reported
        if time.monotonic() - reported > PAUSE:
            reported = time.monotonic()
            report(State(step))

    report(State(0))
    with in_own_directory():
        try:
            loop = make_loop(tuple(run.options()))
            evaluations = loop.train(run.seed, show)
            filename = f"{run.name}-{loop.lesson.MAX_STEPS}.h5"
            settings = {**loop.lesson.options.settings, "seed": run.seed}
            write_snapshot(filename, loop.model, settings)
        except (Exception, SystemExit) as error:
            return failed(error)
        return State(loop.lesson.MAX_STEPS, evaluations, files=pack(filename), is_over=True)


@functools.cache
def make_loop(options):
    """The `CompiledLoop` of run.py with options, a tuple; each process compiles it once."""
    lesson = load_lesson(LESSON, options)
    return CompiledLoop(lesson, lesson.options.env)


@contextlib.contextmanager
def in_own_directory():
    """A directory of its own for a run, with links to the project's files; nothing is printed."""
    silent = io.StringIO()
    with (
        tempfile.TemporaryDirectory(prefix=".run-", dir=".") as folder,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(silent),
        contextlib.redirect_stderr(silent),
    ):
        for path in ROOT.glob("[!.]*"):  # a reader's code may read its data
            with contextlib.suppress(OSError):  # where links are not allowed
                os.symlink(path, path.name)
        yield


def failed(error):
    """The `State` of a run that an exception has ended.

    Raises:
        Exception: the same, if the machine is at fault, so that the run may be tried again.
        SystemExit: a signal has stopped it, so that it may be tried again, too.
    """
    for fault in (error, error.__cause__):
        if is_fault_of_machine(fault):
            raise fault
    if isinstance(error, KeyboardInterrupt):  # a signal has stopped it
        # This ends its process, so that it is started again.
        raise SystemExit(128 + signal.SIGINT) from error
    if isinstance(error, (Diverged, WrongInput)):
        return State(failed=str(error), is_over=True)
    return State(failed=describe_mistake(error), is_mistake=True, is_over=True)


def describe_mistake(error):
    """An exception in one line, with the last line of the reader's own code that led to it."""
    if isinstance(error, tf.errors.OpError):
        operation = re.search(r"on XLA_CPU_JIT: (\w+)", str(error))
        lines = re.findall(r'run\.py", line (\d+)', str(error))
        if operation and lines:
            return (
                f"run.py, line {lines[-1]}: a loop compiled by XLA can't have the operation "
                f"{operation[1]} in it (tf.print makes a StringFormat); leave it out, or use "
                "--exact"
            )
    frames = own_frames(error.__traceback__)
    frames = [frame for frame in frames if not is_machinery(frame.filename)]
    message = re.sub(r"\{\{.*?\}\} ?", "", str(error))  # with which TensorFlow names its nodes
    message = f"{type(error).__name__}: {message}".removesuffix(": ")
    message = textwrap.shorten(message, MAX_MESSAGE, placeholder=" ...")
    if frames:
        file = os.path.basename(frames[-1].filename)
        message += f" ({file}, line {frames[-1].lineno}: {frames[-1].line})"
    return "; ".join([message, *getattr(error, "__notes__", ())])
