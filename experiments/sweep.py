"""Is it better? Trains combinations of hyperparameters, each with many seeds, and compares them:

    python -m experiments.sweep --hidden-units 32 128 --seeds 30 --name width

There are two ways to train a run. The compiled one calls `create_model`, `predict` and `fit_batch`
of your run.py in a loop of its own, which is many times as fast as the exact one, which does what
`python run.py` does. The program takes the one that measures what you have changed, and says which.
The runs share the cores of this machine or, with --address, of a cluster. Tables, plot and what was
trained are in NAME-sweep; --resume continues what has not finished.
"""

import sys

if not __package__:
    print("sweep.py: start it with python -m experiments.sweep", file=sys.stderr)
    sys.exit(2)

import contextlib
import os
from pathlib import Path

from experiments.common.plan import add_plan_options, make_plan, read_plan
from experiments.common.record import PLAN, Record, holds_something
from experiments.common.results import RESULTS, check_names, read_results
from support.command_line import OneLineParser, number
from support.environments import make_env
from support.errors import ROOT, WrongInput, exit_with_error, plain_errors, print_message
from support.files import check_name, lock, quote, write_file
from support.options import check_environment, read_constants

LESSON = ROOT / "run.py"


def parse_args(argv=None):
    """Reads and checks the command line.

    Args:
        argv: list of options and values; None for those of the program.

    Returns:
        `argparse.Namespace`, in which `folder` is the directory of the sweep, and `plan` its
        `Plan`.

    Raises:
        WrongInput: the command line is wrong.
    """
    parser = OneLineParser(
        prog="sweep",
        description="Trains combinations of hyperparameters, each with many seeds; compares them.",
    )
    add = parser.add_argument
    add("--name", help="name of the sweep, for its directory NAME-sweep")
    add("--resume", metavar="NAME", help="continue a sweep that was stopped or killed")
    add("--cores", type=number(1, 10**6), metavar="N", help="cores to use (default: all)")
    add("--address", metavar="HOST:PORT", help="use the Ray cluster there instead of this machine")
    add("--format", choices=["png", "svg"], help="file format of the plot (default: png)")
    constants = read_constants(LESSON)
    check_names(constants)
    add_plan_options(parser, constants)
    args = parser.parse_args(argv)
    if args.address is not None and args.cores is not None:
        raise WrongInput("--cores counts this machine's; with --address, leave it out")
    if args.resume is not None and not os.path.isdir(f"{args.resume}-sweep"):
        args.resume = os.path.normpath(args.resume).removesuffix("-sweep")  # the directory itself
    name = args.name if args.resume is None else args.resume
    if name is None:
        raise WrongInput("--name NAME is missing; NAME-sweep will be the directory of results")
    check_name("--name" if args.resume is None else "--resume", name)
    args.folder = Path(f"{name}-sweep")
    if args.resume is not None:
        args.plan = resumed_plan(args, constants)
    elif holds_something(args.folder):
        hint = f", or --resume {name}" if (args.folder / PLAN).exists() else ""
        raise WrongInput(f"{args.folder} exists; choose another --name{hint}")
    else:
        args.plan = make_plan(args, constants, LESSON)
    return args


def resumed_plan(args, constants):
    """The `Plan` of a sweep to be resumed.

    Args:
        args: what was parsed.
        constants: list of the `Setting`s of run.py.

    Raises:
        WrongInput: there is no such sweep, or it is damaged, or contradicts other options.
    """
    for name, value in vars(args).items():
        allowed = ("resume", "env", "cores", "address", "format", "folder")
        if value is not None and name not in allowed:
            option = value if name == "engine" else name.lower().replace("_", "-")
            raise WrongInput(
                f"--resume continues a sweep with its own settings; leave out --{option}"
            )
    filename = args.folder / PLAN
    if not filename.is_file():
        raise WrongInput(f"--resume {args.resume}: there is no sweep to resume, no {filename}")
    plan = read_plan(filename, constants)
    if args.env not in (None, plan.env):
        raise WrongInput(
            f"--env {args.env} contradicts {filename}, whose environment is {plan.env}"
        )
    check_environment(filename, plan.env, args.env)
    return plan


if __name__ == "__main__":
    with plain_errors():
        args = parse_args()  # before the imports below, which take seconds

from experiments.common import cluster
from experiments.common.choice import announce, choose_engine
from experiments.common.progress import Progress


def choose(record, signals):
    """Chooses the engine of a sweep; says which, why, and how long the sweep will take.

    Args:
        record: `Record`, whose plan has the engine with which the sweep began, if it is resumed.
        signals: list that gets longer when the program is to stop.

    Returns:
        `Plan` with an engine.

    Raises:
        WrongInput: no run can be trained, or its engine doesn't measure what was changed since.
    """
    plan = record.plan
    first_runs = plan.first_runs()
    is_decided = plan.is_by_hand or plan.engine == "exact"  # which measures every change
    by_hand = plan.engine if is_decided else None
    choice = cluster.call(signals, choose_engine, first_runs, by_hand)
    if choice.is_mistake:
        exit_with_error(f"stopped by a mistake in the code: {choice.problem}", status=1)
    if choice.problem is not None:
        raise WrongInput(choice.problem)
    if plan.engine not in (None, choice.engine):
        raise WrongInput(
            f"{record.folder} began in the compiled loop, but {choice.why}; undo that, or start "
            "another sweep"
        )
    plan = plan._replace(engine=choice.engine)
    places = cluster.count_places(len(first_runs))
    print(announce(plan, choice, record.left(), places), file=sys.__stdout__, flush=True)
    return plan


def train(record, signals):
    """Trains the runs of a sweep that have not ended, and writes down what they come to.

    Args:
        record: `Record`.
        signals: list that gets longer when the program is to stop.

    Returns:
        Whether a mistake in the code has stopped it.

    Raises:
        OSError: a file can't be written.
    """
    progress = Progress(record.runs, record.states)
    try:
        for news in cluster.train(record.left(), record.plan.engine, record.find_begun):
            record.write(news)
            progress.show(news)
            if any(state.is_mistake for _, state in news):
                return True
            if signals:
                return False
        return False
    finally:
        progress.close()


def write_tables(folder, plot_format):
    """Writes summary.csv and the plot of what is in results.csv; prints the tables.

    Args:
        folder: path of the sweep's directory.
        plot_format: png or svg; None for png.
    """
    import pandas as pd  # here, for what these load takes time

    from experiments.common import plots, statistics, tables

    results = read_results(folder / RESULTS)
    summaries = {name: statistics.summarize(results, name) for name in statistics.MEASURES}
    summary = pd.concat(summaries.values()).to_csv(index=False)
    write_file(folder / "summary.csv", summary.encode())
    plots.save_figure(plots.plot_curves(results), folder / f"curves.{plot_format or 'png'}")
    print(tables.table(summaries["last evaluation"], statistics.reward_threshold(results)))
    for (name, reason), group in results.groupby(["setting", "failed"], sort=False):
        seeds = ", ".join(map(str, group["seed"].unique()))
        print_message(f"failed: {name}, seed {seeds}: {reason}")
    if (results["episodes"] == 0).any():
        print("In some evaluations, no episode ended within EVAL_STEPS: raise it.")
    print(f"Wrote {folder}")


def main(args):
    make_env(args.plan.env).close()
    args.folder.mkdir(exist_ok=True)
    locked = lock(args.folder)
    record = Record(args.folder, args.plan)
    is_mistaken = False
    signals = []
    try:
        record.read()
        if record.left():
            print("Starting Ray", flush=True)
            with (
                cluster.connect(args.address, args.cores) as signals,
                contextlib.suppress(KeyboardInterrupt),  # one has come before it has begun
            ):
                record.plan = choose(record, signals)
                record.begin()
                is_mistaken = train(record, signals)
        if not record.left():
            write_tables(args.folder, args.format)
    except OSError as error:
        hint = how_to_continue(args, record) if holds_something(args.folder) else ""
        raise OSError(f"{error}{hint}") from error
    finally:
        locked.release()
        if args.resume is None:
            record.remove_if_empty()
    if is_mistaken:
        message = f"stopped by a mistake in the code{how_to_continue(args, record, is_mistaken)}"
        exit_with_error(message, status=1)
    if record.left():
        print(f"Stopped{how_to_continue(args, record)}")
        sys.exit(128 + signals[0])
    if record.all_have_failed():
        sys.exit(1)


def how_to_continue(args, record, is_mistaken=False):
    """What to do once a sweep has been stopped, the end of a sentence."""
    if not record.folder.exists():
        return "; fix it, and start it again" if is_mistaken else ", before anything had finished"
    env_id = record.plan.env
    name = quote(args.name or args.resume)
    where = f" --address {args.address}" if args.address else ""
    where += f" --env {env_id}" if ":" in env_id else ""
    return f"; to continue: python -m experiments.sweep --resume {name}{where}"


if __name__ == "__main__":
    with plain_errors():
        main(args)
