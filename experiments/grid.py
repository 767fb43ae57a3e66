"""Is it better? Trains every combination of some hyperparameters with many seeds, side by side:

    python -m experiments.grid --train-epsilon 0.01 0.05 --seeds 10 --name epsilon

Each run does what `python run.py` does with one value of each and one seed, on one core. Ray Tune
distributes the runs over the cores of this machine or, with --address, of a cluster; a run that
dies goes on from its last checkpoint, and a mistake in the code stops the grid. Tables, plot and
run directories are written to NAME-grid; experiments/report.py explains them.
"""

import sys

if not __package__:
    print("grid.py: start it with python -m experiments.grid", file=sys.stderr)
    sys.exit(2)

import support.fast_tensorflow  # noqa: F401  # isort: skip (first: it keeps TensorFlow quiet)

import contextlib
import io
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
from pathlib import Path

import run
from support.command_line import OneLineParser
from support.environments import make_env
from support.errors import ROOT, WrongInput, plain_errors, print_error
from support.files import check_name, lock, write_file

# Ray reads these when it is imported. It is to send no statistics about its use, and to write no
# event files of its own, which TensorBoard would take for more runs.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # which would print at any verbosity

import ray
from ray import tune

from experiments import report
from experiments.display import Display
from experiments.runs import add_run_options, plan_runs, read_runs
from experiments.worker import pack, packed_in, read_progress, train_one, unpack

RETRIES = 5  # of a run that died, with its worker or its node
WORKER = {  # what a worker needs to know: our modules, and that it has one core
    "working_dir": str(ROOT),
    "excludes": ["*", "!.", "!*.py", "!requirements.txt", "!support", "!experiments"],
    "env_vars": {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"},
}


def parse_args(argv=None):
    """Reads and checks the command line.

    Args:
        argv: list of options and values; None for those of the program.

    Returns:
        `argparse.Namespace`, in which `folder` is the grid's directory, and `runs` are those
        with which it was started.

    Raises:
        WrongInput: the command line is wrong.
    """
    parser = OneLineParser(
        prog="grid",
        description="Trains combinations of hyperparameters, each with many seeds; compares them.",
    )
    add = parser.add_argument
    add("--name", help="name of the grid, for its directory NAME-grid")
    add("--resume", metavar="NAME", help="continue a grid that was stopped or killed")
    add("--address", help="use the Ray cluster at this address, instead of this machine alone")
    add("--storage", help="path or URL for checkpoints that all nodes can write to")
    settings = run.options.constants
    report.check_names(settings)
    add_run_options(parser, settings)
    args = parser.parse_args(argv)
    check_cluster(args)
    name = args.name if args.resume is None else args.resume
    if name is None:
        raise WrongInput("--name NAME is missing; NAME-grid will be the directory of results")
    check_name("--name" if args.resume is None else "--resume", name)
    args.folder = Path(f"{name}-grid")
    if args.resume is not None:
        args.runs = resumed_runs(args, settings)
    elif os.path.lexists(args.folder):
        raise WrongInput(f"{args.folder} exists; choose another --name, or --resume {name}")
    else:
        args.runs = plan_runs(args, settings)
    make_env(args.runs[0]["env"]).close()
    return args


def check_cluster(args):
    """Raises `WrongInput` if no cluster answers at the address, or the storage can't be used."""
    if args.address is not None:
        if args.storage is None:
            raise WrongInput("--address needs --storage, a path or URL that all nodes can write to")
        if args.cores is not None:
            raise WrongInput("--cores counts this machine's; with --address, leave it out")
        host, _, port = args.address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, ValueError, OverflowError) as error:
            what = f"--address {args.address!r} is not the HOST:PORT of a `ray start --head`"
            raise WrongInput(f"{what}: {error}") from error
    if args.storage is not None and "://" not in args.storage:
        if not (os.path.isdir(args.storage) and os.access(args.storage, os.W_OK)):
            raise WrongInput(
                f"--storage {args.storage!r} is not a directory that can be written to"
            )
        args.storage = os.path.abspath(args.storage)


def resumed_runs(args, settings):
    """Reads the runs of a grid to be resumed.

    Args:
        args: what was parsed.
        settings: list of `Setting`s.

    Returns:
        What `list_runs` returned when the grid was started.

    Raises:
        WrongInput: there is no such grid, or it is damaged, or contradicts other options.
    """
    for name, value in vars(args).items():
        allowed = ("resume", "env", "cores", "address", "storage", "format", "folder")
        if value is not None and name not in allowed:
            option = name.lower().replace("_", "-")
            raise WrongInput(
                f"--resume continues a grid with its own settings; leave out --{option}"
            )
    filename = args.folder / "grid.json"
    if not filename.is_file():
        raise WrongInput(f"--resume {args.resume}: there is no grid to resume, no {filename}")
    runs = read_runs(filename, settings)
    env_id = runs[0]["env"]
    if args.env not in (None, env_id):
        raise WrongInput(f"--env {args.env} contradicts {filename}, whose environment is {env_id}")
    if ":" in env_id and args.env is None:
        raise WrongInput(
            f"{filename} would import a module for its environment; if you trust it, repeat "
            f"--env {env_id}"
        )
    return runs


def train_all(args):
    """Trains all runs that are not finished, each from its last checkpoint.

    Args:
        args: what `parse_args` returns.

    Returns:
        (failed, is_mistaken): a dict from the names of the runs that failed to the reasons,
        strings; and whether one of them is a mistake in the code, which has stopped the grid.

    Raises:
        OSError: a file can't be written.
        WrongInput: a checkpoint can't be read, there is no Ray, or it can't write to the storage.
    """
    done, left = {}, []
    for planned in args.runs:
        name = planned["name"]
        done[name] = read_progress(args.folder, planned)["step"]
        if done[name] < planned["hyperparameters"]["max_steps"]:
            left.append(planned)
    steps = sum(planned["hyperparameters"]["max_steps"] - done[planned["name"]] for planned in left)
    count = f"{len(args.runs)} run{'s' if len(args.runs) > 1 else ''}"
    if not left:
        print(f"{count}, all done")
        return {}, False
    print(f"{count} with {steps:,} steps to go; starting Ray", flush=True)
    here = {"address": "local", "num_cpus": args.cores, "include_dashboard": False}
    cluster = {"address": args.address} if args.address else here
    interrupts = []
    signal.signal(signal.SIGINT, lambda *_: interrupts.append(True))  # Ctrl-C can crash ray.init
    try:
        ray.init(**cluster, runtime_env=WORKER, log_to_driver=False, logging_level="CRITICAL")
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        problem = f"--address {args.address}: {error}; is RAY_AUTH_MODE the same as there?"
        raise WrongInput(problem if args.address else error) from error
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if interrupts:
            raise KeyboardInterrupt
        cores = int(ray.cluster_resources().get("CPU", 1))
        print(f"{min(cores, len(left))} at a time", flush=True)
        with contextlib.redirect_stdout(io.StringIO()):  # Ray's reports of workers that died
            return tune_all(args, left, done)
    finally:
        ray.shutdown()


def tune_all(args, left, done):
    """Lets Ray Tune train the runs; see `train_all`.

    Args:
        args: what `parse_args` returns.
        left: list of the runs that are not finished.
        done: dict from the names of all runs to the numbers of steps already done, ints.
    """
    begun = {}
    for name in (planned["name"] for planned in left):
        logdir = args.folder / f"{name}-log"
        if done[name]:
            begun[name] = ray.put(pack(logdir))
        elif logdir.exists():  # the grid was killed before this run's first checkpoint
            shutil.rmtree(logdir)
    storage = args.storage or os.path.abspath(args.folder / "ray")
    display = Display(args.folder, args.runs, done)
    try:
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(train_one, begun=begun), {"cpu": 1}),
            param_space={"run": tune.grid_search(left)},
            tune_config=tune.TuneConfig(
                trial_dirname_creator=lambda trial: trial.config["run"]["name"]
            ),
            run_config=tune.RunConfig(
                name=f"{args.folder.name}-{secrets.token_hex(4)}",
                storage_path=storage,
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=3),
                callbacks=[display],
                verbose=0,
            ),
        )
    except Exception as error:  # the library of each kind of storage has its own
        raise WrongInput(f"can't write checkpoints to {storage}: {error}") from error
    results = tuner.fit()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in place of Ray's
    for result in results:
        if result.checkpoint:
            unpack(packed_in(result.checkpoint), args.folder)
    with contextlib.suppress(OSError):  # on other nodes, files may belong to other users
        results.filesystem.delete_dir(results.experiment_path)
    shutil.rmtree(args.folder / "ray", ignore_errors=True)
    return display.failed, display.is_mistaken


def collect(args, failed):
    """Collects the evaluations in the checkpoints of a grid.

    Args:
        args: what `parse_args` returns.
        failed: dict from the names of the runs that failed to the reasons.

    Returns:
        pandas.DataFrame for `report.summarize`; None while a run has neither finished nor
        failed.

    Raises:
        WrongInput: a checkpoint can't be read.
    """
    rows = []
    for planned in args.runs:
        name, hyperparameters = planned["name"], planned["hyperparameters"]
        state = read_progress(args.folder, planned)
        if name not in failed and state["step"] < hyperparameters["max_steps"]:
            return None
        reason = failed.get(name) or mismatch(planned, state)
        rows += report.run_rows(planned, state["evaluations"], reason)
    return report.frame(rows)


def mismatch(planned, state):
    """How what `read_progress` returned differs from the finished run: a string, or None."""
    hyperparameters = planned["hyperparameters"]
    every, max_steps = hyperparameters["eval_every"], hyperparameters["max_steps"]
    expected = sorted({*range(every, max_steps + 1, every), max_steps})
    steps = [int(step) for step, *_ in state["evaluations"]]
    if steps != expected:
        found = f"evaluations at {', '.join(map(str, steps)) or 'no'} steps"
        return f"{planned['name']}-log has {found}, not every {every} and at {max_steps}"
    settings = {"env": planned["env"], "seed": planned["seed"], **hyperparameters}
    other = [name for name in settings if state["settings"].get(name) != settings[name]]
    return (
        f"{planned['name']}-log was trained with a different {', '.join(other)}" if other else None
    )


def main(argv=None):
    args = parse_args(argv)
    args.folder.mkdir(exist_ok=args.resume is not None)
    locked = lock(args.folder)
    try:
        if args.resume is None:
            write_file(args.folder / "grid.json", json.dumps(args.runs, indent=1).encode())
        failed, is_mistaken = train_all(args)
        frame = None if is_mistaken else collect(args, failed)
        if frame is not None:
            return report.write_results(frame, args.folder, args.format)
    except BaseException:
        if args.resume is None and not any(args.folder.glob("*-log")):  # nothing has begun
            shutil.rmtree(args.folder)
        raise
    finally:
        locked.release()
    where = f" --address {args.address} --storage {args.storage}" if args.address else ""
    env = args.runs[0]["env"]
    where += f" --env {env}" if ":" in env else ""
    name = shlex.quote(args.name or args.resume)
    again = f"python -m experiments.grid --resume {name}{where}"
    if is_mistaken:
        message = f"stopped by a mistake in the code; once it is mended, continue with: {again}"
        sys.exit(print_error(message, status=1))
    print(f"Stopped. To continue: {again}")
    sys.exit(130)


if __name__ == "__main__":
    with plain_errors():
        try:
            main()
        except (tune.TuneError, ray.exceptions.RayError) as error:
            sys.exit(print_error(error, status=1))
