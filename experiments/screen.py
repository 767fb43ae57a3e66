"""Is it better? In minutes: trains combinations of some hyperparameters with many seeds each:

    python -m experiments.screen --hidden-units 32 128 --seeds 30 --name width

It trains with the constants, `create_model`, `predict` and `fit_batch` of run.py, as you have
changed them, but in a compiled loop of its own (experiments/loop.py), which is many times as fast.
So a change in `train`, `evaluate`, `epsilon_greedy_action` or ReplayBuffer is for
experiments.grid, as are other environments. Its random numbers are not those of run.py: the same
seed gives another run, of the same kind. Tables and plot are those of a grid, in NAME-screen;
the last network of each run is there, too.
"""

import sys

if not __package__:
    print("screen.py: start it with python -m experiments.screen", file=sys.stderr)
    sys.exit(2)

import support.fast_tensorflow  # noqa: F401  # isort: skip (first: it keeps TensorFlow quiet)

import contextlib
import io
import multiprocessing
import os
import re
import shutil
import signal
import tempfile
import threading
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import ClassVar

import keras
import psutil
import tensorflow as tf
from tqdm import tqdm

import run
from experiments import report
from experiments.loop import CONSTANTS, CompiledLoop
from experiments.rules import RULES
from experiments.runs import add_run_options, as_options, describe_mistake, plan_runs
from support.command_line import OneLineParser
from support.errors import GIGABYTE, ROOT, Diverged, WrongInput, plain_errors, print_error
from support.files import check_name
from support.options import load_lesson
from support.snapshots import write_snapshot

USES = (
    "What counts here is create_model, predict, fit_batch and the constants of run.py; a change in "
    "train, evaluate, epsilon_greedy_action or ReplayBuffer is for python -m experiments.grid."
)
MEMORY = 1.0  # gigabytes that a process takes, TensorFlow included
MEMORY_PER_SETTING = 0.02  # gigabytes more, for TensorFlow keeps all that it has compiled


def parse_args(argv=None):
    """Reads and checks the command line.

    Args:
        argv: list of options and values; None for those of the program.

    Returns:
        `argparse.Namespace`, in which `folder` is the directory of results, and `runs` are those
        to be trained.

    Raises:
        WrongInput: the command line is wrong.
    """
    parser = OneLineParser(
        prog="screen",
        description="Compares hyperparameters in minutes, with many seeds of each in a compiled "
        f"loop. {USES}",
    )
    parser.add_argument("--name", help="name of the comparison, for its directory NAME-screen")
    settings = run.options.constants
    report.check_names(settings)
    add_run_options(parser, settings)
    args = parser.parse_args(argv)
    if args.name is None:
        raise WrongInput("--name NAME is missing; NAME-screen will be the directory of results")
    check_name("--name", args.name)
    args.folder = Path(f"{args.name}-screen")
    if os.path.lexists(args.folder):
        raise WrongInput(f"{args.folder} exists; choose another --name")
    args.runs = plan_runs(args, settings)
    env_id = args.runs[0]["env"]
    if env_id not in RULES:
        raise WrongInput(
            f"--env {env_id}: this program has the rules of {', '.join(RULES)} only; "
            "python -m experiments.grid trains in any environment"
        )
    return args


def check_settings(args):
    """Checks what can be known before anything is trained.

    Args:
        args: what `parse_args` returned.

    Raises:
        WrongInput: a setting is impossible, or an option would change nothing, as what it sets
            isn't used here.
    """
    plans = {planned["setting"]: planned for planned in args.runs}.values()
    for planned in plans:
        make_loop(planned)
    for setting in run.options.constants:
        if getattr(args, setting.constant) is None or setting.constant in CONSTANTS:
            continue
        pairs = []
        for planned in plans:
            default = {**planned["hyperparameters"], setting.name: setting.default}
            if default != planned["hyperparameters"]:
                pairs.append((planned, {**planned, "hyperparameters": default}))
        if pairs and all(definition(one) == definition(other) for one, other in pairs):
            raise WrongInput(
                f"{setting.option} would change nothing here: {setting.constant} makes no "
                "difference to create_model, predict and fit_batch; if train uses it, compare with "
                "python -m experiments.grid"
            )


def make_loop(planned):
    """The `CompiledLoop` of one of `list_runs`, not compiled yet."""
    lesson = load_lesson(Shared.lesson, as_options(planned))
    return CompiledLoop(lesson, planned["env"])


def definition(planned):
    """What would be compiled for one of `list_runs`, to be compared."""
    keras.utils.clear_session()  # so that layers are numbered from 1 each time
    return make_loop(planned).compile().definition()


class Shared:
    """What the processes share with the one that has started them.

    Attributes:
        lesson: path of the lesson.
        steps: array with the number of steps that each run has taken.
        is_stopped: value that is true when they are to stop.
        folder: directory for the networks.
        loops: dict of the loops that this process has compiled, by their options.
    """

    lesson = ROOT / "run.py"
    steps = None
    is_stopped = None
    folder = None
    loops: ClassVar = {}

    @classmethod
    def set(cls, lesson, steps, is_stopped, folder):
        """Sets them in a new process, which ends when the one that has started it is killed."""
        cls.lesson, cls.steps, cls.is_stopped, cls.folder = lesson, steps, is_stopped, folder
        threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent():
    """Waits until the parent process has ended, and ends this one then."""
    multiprocessing.parent_process().join()
    os._exit(1)


def train_one(number, planned):
    """Trains a run in a process of its own, and saves its last network.

    Args:
        number: its place in `Shared.steps`.
        planned: one of `list_runs`.

    Returns:
        (evaluations, failed, is_mistake): what `CompiledLoop.train` returned; why the run failed, a
        string or None; whether that is a mistake in the code, which every run may come to.
    """

    def is_stopped(step):
        Shared.steps[number] = step
        return Shared.is_stopped.value

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            options = tuple(as_options(planned))
            if options not in Shared.loops:
                Shared.loops[options] = make_loop(planned).compile()
            loop = Shared.loops[options]
            evaluations = loop.train(planned["seed"], is_stopped)
            if evaluations is not None:
                save_model(loop, planned)
            return evaluations, None, False
    except (Diverged, WrongInput) as error:
        return None, str(error), False
    except tf.errors.OpError as error:
        return None, describe_operation(error), True
    except Exception as error:
        return None, describe_mistake(error), True


def save_model(loop, planned):
    """Saves the network of a run that has ended, as run.py would name it."""
    filename = Shared.folder / f"{planned['name']}-{loop.lesson.MAX_STEPS}.h5"
    settings = {**loop.lesson.options.settings, "seed": planned["seed"]}
    write_snapshot(filename, loop.model, settings)


def describe_operation(error):
    """What says that XLA can't compile an operation, in one line, with where that is in run.py."""
    operation = re.search(r"on XLA_CPU_JIT: (\w+)", str(error))
    lines = re.findall(r'run\.py", line (\d+)', str(error))
    if not operation or not lines:
        return describe_mistake(error)
    return (
        f"run.py, line {lines[-1]}: a loop compiled by XLA can't have the operation {operation[1]} "
        "in it (tf.print makes a StringFormat); leave it out, or use python -m experiments.grid"
    )


class Screening:
    """Trains runs side by side, a process for each core, and shows how far they are.

    Args:
        runs: list that `list_runs` returned.
        cores: how many processes there are at most.
        folder: directory in which their last networks are saved.

    Attributes:
        evaluations: dict from the names of the runs that are finished to their evaluations.
        failed: dict from the names of the runs that have failed to the reasons, strings.
        is_mistaken: whether one of them is a mistake in the code, which stops the others.
    """

    def __init__(self, runs, cores, folder):
        self.runs = runs
        self.cores = cores
        self.folder = folder
        self.evaluations = {}
        self.failed = {}
        self.is_mistaken = False

    def train(self):
        """Trains until all runs have ended, or Ctrl-C or SIGTERM stops it."""
        context = multiprocessing.get_context("spawn")
        steps = context.Array("q", len(self.runs), lock=False)
        is_stopped = context.Value("b", False, lock=False)
        # TensorFlow reads these when it is imported: each process has one core.
        os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
        shared = Shared.lesson, steps, is_stopped, self.folder
        pool = ProcessPoolExecutor(self.cores, context, Shared.set, shared)
        bar = tqdm(
            total=sum(planned["hyperparameters"]["max_steps"] for planned in self.runs),
            unit=" steps",
            smoothing=0.1,
            disable=None,  # where standard error is not a terminal
            dynamic_ncols=True,
        )
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # in the processes, which inherit it
        futures = {
            pool.submit(train_one, number, planned): planned
            for number, planned in enumerate(self.runs)
        }
        # An exception would leave locks of the pool behind, so Ctrl-C only sets a value.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: setattr(is_stopped, "value", True))
        left = set(futures)
        try:
            while left and not is_stopped.value:
                done, left = wait(left, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in done:
                    self.take(futures[future]["name"], *future.result())
                    if bar.disable:
                        print(self.text(), flush=True)
                bar.set_description(self.text(), refresh=False)
                bar.update(sum(steps) - bar.n)
                is_stopped.value |= self.is_mistaken
            if left:
                tqdm.write("Stopping")
        finally:
            is_stopped.value = True
            bar.close()
            pool.shutdown(cancel_futures=True)

    def take(self, name, evaluations, failed, is_mistake):
        """Takes note of the end of a run; says so if it has failed, and none has for this reason.

        A run that was stopped has neither evaluations nor failed.

        Args:
            name: of the run.
            evaluations, failed, is_mistake: what `train_one` returned.
        """
        if failed is None:
            if evaluations is not None:
                self.evaluations[name] = evaluations
            return
        if failed not in self.failed.values():
            tqdm.write(f"failed: {name}: {failed}")
        self.failed[name] = failed
        self.is_mistaken |= is_mistake

    def text(self):
        """Says how many runs are done and have failed."""
        return f"{len(self.evaluations)} of {len(self.runs)} done, {len(self.failed)} failed"


def share_memory(args):
    """How many processes there are work, a core and memory for, and how much each takes.

    Args:
        args: what `parse_args` returned.

    Returns:
        (processes, gigabytes), an int and a float.
    """
    settings = len({planned["setting"] for planned in args.runs})
    gigabytes = MEMORY + MEMORY_PER_SETTING * (settings - 1)
    free = psutil.virtual_memory().available / GIGABYTE
    processes = min(len(args.runs), args.cores or os.cpu_count(), int(free / gigabytes))
    return max(1, processes), gigabytes


def main(argv=None):
    args = parse_args(argv)
    print(USES, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        Shared.lesson = Path(folder, "run.py")  # a copy, for the reader may go on changing it
        shutil.copy(ROOT / "run.py", Shared.lesson)
        try:
            check_settings(args)
        except WrongInput:
            raise
        except Exception as error:
            sys.exit(print_error(f"stopped by a mistake: {describe_mistake(error)}", status=1))
        args.folder.mkdir()
        try:
            sys.exit(compare(args))
        finally:
            if not (args.folder / "results.csv").exists():
                shutil.rmtree(args.folder)


def compare(args):
    """Trains all runs and writes their results; returns the exit status."""
    processes, gigabytes = share_memory(args)
    count = f"{len(args.runs)} run{'s' if len(args.runs) > 1 else ''}"
    print(f"{count}, {processes} at a time, each in {gigabytes:.1f} GB of memory", flush=True)
    screening = Screening(args.runs, processes, args.folder)
    status = 0
    try:
        screening.train()
    except BrokenProcessPool:
        message = "a process was killed, perhaps for lack of memory; try it with fewer --cores"
        status = print_error(message, status=1)
    if screening.is_mistaken:
        return print_error("stopped by a mistake in the code", status=1)
    rows = []
    for planned in args.runs:
        name = planned["name"]
        if name in screening.evaluations:
            rows += report.run_rows(planned, screening.evaluations[name])
        elif name in screening.failed:
            rows += report.run_rows(planned, (), screening.failed[name])
    if rows:
        report.write_results(report.frame(rows), args.folder, args.format)
    if any((evaluations[:, -1] == 0).any() for evaluations in screening.evaluations.values()):
        print("In some evaluations, no episode ended within EVAL_STEPS: raise it.")
    if len(screening.evaluations) + len(screening.failed) < len(args.runs) and status == 0:
        print(f"Stopped. {len(screening.evaluations)} of {count} had finished.")
        status = 130
    return status


if __name__ == "__main__":
    with plain_errors():
        main()
