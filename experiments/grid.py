"""Is it better? Trains every combination of some hyperparameters with many seeds, side by side:

    python -m experiments.grid --train-epsilon 0.01 0.05 --seeds 10 --name epsilon

Each training is that of `python run.py` with one value of each and one seed, on one core. Ray Tune
distributes them over the cores of this machine or, with --address, of a cluster, and lets those
that died go on from their last checkpoint. Tables, plot and run directories come to NAME-grid;
experiments/report.py explains them.
"""

import contextlib
import io
import itertools
import json
import os
import secrets
import shutil
import signal
import socket
import sys
from pathlib import Path

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports: no traceback

import fast_tensorflow  # noqa: F401  # isort: skip (first: it keeps TensorFlow quiet)

import run
from checkpoints import CheckpointError, lock, write_file
from command_line import OneLineParser, WrongInput, check_name, make_env, number, one_line

# For Ray, before it is imported: no statistics over the network, and no event files of its own,
# which TensorBoard would take for further trainings.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # which prints whatever the verbosity
try:
    import ray
    from ray import tune

    from experiments import report
    from experiments.display import Display, announce
    from experiments.worker import pack, packed_in, steps_done, train_one, unpack
except ModuleNotFoundError as missing:
    install = "pip install -r experiments/requirements.txt"
    sys.exit(one_line(f"no module {missing.name}: {install}", status=2))

ROOT = Path(run.__file__).parent
RETRIES = 5  # of a training that died, with its worker or its node
WORKER = {  # what a worker needs to know: our modules, and that it has one core
    "working_dir": str(ROOT),
    "excludes": ["*", "!.", "!*.py", "!experiments"],
    "env_vars": {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"},
}


def parse_args(argv=None):
    """Reads and checks the command line; exits with status 2 if it is wrong.

    Args:
        argv: list of options and values; None for the program's own.

    Returns:
        `argparse.Namespace`, in which `folder` is the grid's directory, and `trainings` are those
        with which it was begun.
    """
    parser = OneLineParser(
        prog="grid",
        description="Trains combinations of hyperparameters, each with many seeds; compares them.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--name", help="name of the grid, for its directory NAME-grid")
    add("--resume", metavar="NAME", help="go on with a grid that was stopped or killed")
    add("--seeds", type=number(1, 10**6), default=10, help="trainings per setting (default: 10)")
    add("--first-seed", type=number(0, 2**31), default=0, help="lowest seed (default: 0)")
    add("--env", metavar="ID", default="MountainCar-v0", help="environment (default: %(default)s)")
    add("--cores", type=number(1, 10**6), metavar="N", help="cores to use (default: all)")
    add("--address", help="use the Ray cluster at this address, instead of this machine alone")
    add("--storage", help="path or URL that all its nodes can write to, for checkpoints")
    add("--format", choices=["png", "svg"], default="png", help="of the plot (default: png)")
    names = run.add_hyperparameters(parser, nargs="+", default=None)
    args = parser.parse_args(argv)
    given = {name for name, value in vars(args).items() if value != parser.get_default(name)}
    if args.resume is not None:
        for name in sorted(given - {"resume", "cores", "address", "storage", "format"}):
            option = name.replace("_", "-")
            parser.error(f"--resume goes on with a grid as it was begun; leave out --{option}")
    elif args.name is None:
        parser.error("--name NAME is missing; NAME-grid will be the directory of the results")
    if args.address is not None:
        check_address(parser, args)
    if args.storage is not None and "://" not in args.storage:
        if not (os.path.isdir(args.storage) and os.access(args.storage, os.W_OK)):
            parser.error(f"--storage {args.storage!r} is no directory to write to")
        args.storage = os.path.abspath(args.storage)
    name = args.name if args.resume is None else args.resume
    check_name(parser, "--name" if args.resume is None else "--resume", name)
    args.folder = Path(f"{name}-grid")
    description = args.folder / "grid.json"
    if args.resume is not None:
        if not description.is_file():
            parser.error(f"--resume {name}: there is no grid to go on with: no file {description}")
        try:
            args.trainings = json.loads(description.read_text())
            for training in args.trainings:
                check_name(parser, f"{description}: a run", training["name"])
        except (KeyError, TypeError, ValueError) as error:
            parser.error(f"{description} is damaged: {error!r}")
        return args
    if os.path.lexists(args.folder):
        parser.error(f"{args.folder} exists; choose another --name, or --resume {name}")
    try:
        make_env(args.env).close()
    except WrongInput as error:
        parser.error(error)
    options = {name: getattr(args, name) for name in names if name in given}
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    args.trainings = list_trainings(options, seeds, args.env)
    for training in args.trainings:
        check_name(parser, "a run would be named", training["name"])
    return args


def check_address(parser, args):
    """Ends the program where nothing answers at the address of the cluster."""
    if args.storage is None:
        parser.error("--address needs --storage, a path or URL that all nodes can write to")
    if args.cores is not None:
        parser.error("--cores counts this machine's; with --address, leave it out")
    host, _, port = args.address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        parser.error(f"--address {args.address!r} is no HOST:PORT of a `ray start --head`: {error}")


def list_trainings(options, seeds, env_id):
    """All trainings of a grid in the order in which they begin: the settings take turns.

    Args:
        options: dict of hyperparameters to lists of values.
        seeds: the seeds, ints.
        env_id: name of the environment.

    Returns:
        List of dicts: the `setting`, a string; `env` and `seed`; `name` of the run; its
        `max_steps`; and its command line for run.py, `argv`.
    """
    settings = list(itertools.product(*(dict.fromkeys(values) for values in options.values())))
    trainings = []
    shown = [name for name, values in options.items() if len(settings) == 1 or len(values) > 1]
    constants = run.parse_args([]).hyperparameters
    for seed, values in itertools.product(seeds, settings):
        chosen = dict(zip(options, values, strict=True))
        labels = [f"{name}={chosen[name]}" for name in shown]
        name = ",".join([*labels, f"seed={seed}"])
        argv = ["--name", name, "--seed", str(seed), "--env", env_id]
        for option, value in (constants | chosen).items():
            argv += [f"--{option.replace('_', '-')}", str(value)]
        trainings.append(
            {
                "setting": ",".join(labels) or report.AS_IN_RUN,
                "env": env_id,
                "seed": seed,
                "name": name,
                "max_steps": (constants | chosen)["max_steps"],
                "argv": argv,
            }
        )
    return trainings


def train_all(args):
    """Trains with Ray Tune what has not come to its end yet, on from the checkpoints that are here.

    Args:
        args: what `parse_args` returns.

    Returns:
        dict of the names of the trainings that failed to the reasons, strings.

    Raises:
        CheckpointError: another program trains this grid.
        OSError: a file can't be written.
        WrongInput: the storage can't be written to; there is no trace of a new grid then.
    """
    args.folder.mkdir(exist_ok=args.resume is not None)
    locked = lock(args.folder)
    write_file(args.folder / "grid.json", json.dumps(args.trainings, indent=1).encode())
    done, begun = steps_done(args.folder, args.trainings), {}
    left = [t for t in args.trainings if done[t["name"]] < t["max_steps"]]
    for name in (training["name"] for training in left):
        logdir = args.folder / f"{name}-log"
        if done[name]:
            begun[name] = ray.put(pack(logdir))
        elif logdir.exists():  # this program was killed before it had written the first checkpoint
            shutil.rmtree(logdir)
    storage = args.storage or os.path.abspath(args.folder / "ray")
    try:
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(train_one, begun=begun), {"cpu": 1}),
            param_space={"training": tune.grid_search(left)},
            tune_config=tune.TuneConfig(
                trial_dirname_creator=lambda trial: trial.config["training"]["name"]
            ),
            run_config=tune.RunConfig(
                name=f"{args.folder.name}-{secrets.token_hex(4)}",
                storage_path=storage,
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=3),
                callbacks=[Display(args.folder, args.trainings, done)],
                verbose=0,
            ),
        )
    except Exception as error:  # whatever the library for this kind of storage raises
        if args.resume is None:
            shutil.rmtree(args.folder)
        raise WrongInput(f"can't write checkpoints to {storage}: {error}") from error
    results, failed = tuner.fit() if left else [], {}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # after Ray's
    for result in results:
        reason = (result.metrics or {}).get("failed")
        if result.error:
            reason = f"{str(result.error).strip().splitlines()[-1]} (--resume tries again)"
        if reason is not None:
            failed[os.path.basename(result.path)] = reason
        if result.checkpoint:
            unpack(packed_in(result.checkpoint), args.folder)
    if left:
        with contextlib.suppress(OSError):  # it may hold what belongs to others on other nodes
            results.filesystem.delete_dir(results.experiment_path)
    shutil.rmtree(args.folder / "ray", ignore_errors=True)
    os.close(locked)
    return failed


def collect(args, failed):
    """Gathers what the runs of a grid have logged.

    Args:
        args: what `parse_args` returns.
        failed: what `train_all` returns.

    Returns:
        pandas.DataFrame for `report.summarize`; None while a training has neither come to its end
        nor failed.
    """
    done, rows = steps_done(args.folder, args.trainings), []
    for training in args.trainings:
        name = training["name"]
        if name not in failed and done[name] < training["max_steps"]:
            return None
        row = {key: training[key] for key in ("setting", "env", "seed")}
        row["failed"] = failed.get(name)
        rows += report.read_run(args.folder / f"{name}-log", row)
    return report.frame(rows)


def main(argv=None):
    args = parse_args(argv)
    here = {"address": "local", "num_cpus": args.cores, "include_dashboard": False}
    cluster = {"address": args.address} if args.address else here
    try:
        ray.init(**cluster, runtime_env=WORKER, log_to_driver=False, logging_level="CRITICAL")
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        problem = f"--address {args.address}: {error}; is RAY_AUTH_MODE the same as there?"
        sys.exit(one_line(problem if args.address else error, status=2))
    try:
        announce(args.trainings, steps_done(args.folder, args.trainings))
        with contextlib.redirect_stdout(io.StringIO()):  # Ray's reports of workers that died
            failed = train_all(args)
    finally:
        ray.shutdown()
    frame = collect(args, failed)
    if frame is None:
        where = f" --address {args.address} --storage {args.storage}" if args.address else ""
        name = args.name or args.resume
        print(f"Stopped. To go on: python -m experiments.grid --resume {name}{where}")
        sys.exit(130)
    frame.to_csv(args.folder / "results.csv", index=False)
    summary = report.summarize(frame)
    summary.to_csv(args.folder / "summary.csv", index=False)
    report.plot(frame, args.folder / f"curves.{args.format}")
    print(report.table(summary, report.reward_threshold(frame)))
    for setting, group in frame[frame["failed"].notna()].groupby("setting", sort=False):
        print(f"failed: {setting}: {group['failed'].iloc[0]}")
    print(f"Wrote {args.folder}")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
    except (WrongInput, CheckpointError) as error:
        sys.exit(one_line(error, status=2))
    except (OSError, tune.TuneError, ray.exceptions.RayError) as error:
        sys.exit(one_line(error, status=1))
    except KeyboardInterrupt:
        sys.exit(130)
