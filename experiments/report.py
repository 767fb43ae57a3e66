"""Tables and plot of runs. A sweep ends with them; this compares the runs of several sweeps:

    python -m experiments.report A-sweep/results.csv B-sweep/results.csv --plot both.png

or lists the evaluations of a single run, and compares several, also with those of sweeps:

    python -m experiments.report first-log
    python -m experiments.report first-log second-log A-sweep/results.csv --csv all.csv

One run says little, so a configuration is judged by all its seeds: how many succeed, how a typical
run does, and the worst.
"""

import sys

if not __package__:
    print("report.py: start it with python -m experiments.report", file=sys.stderr)
    sys.exit(2)

import itertools
import os

from experiments.common.statistics import (
    FEWEST,
    MEASURES,
    SIZES,
    measure_runs,
    reward_threshold,
    runs_to_detect,
    summarize,
)
from experiments.common.tables import table
from support.command_line import OneLineParser, new_file, number
from support.errors import WrongInput, plain_errors


def parse_args(argv=None):
    """Reads the command line: `argparse.Namespace`; raises `WrongInput`."""
    parser = OneLineParser(
        prog="report",
        description="Lists the evaluations of a run, or compares those of several runs and sweeps.",
    )
    add = parser.add_argument
    add(
        "results",
        nargs="+",
        metavar="NAME-log or NAME-sweep",
        help="the directory of a run or of a sweep, or the results.csv of a sweep",
    )
    add(
        "--measure",
        choices=MEASURES,
        default="last evaluation",
        help="what the figures are about (default: %(default)s)",
    )
    add(
        "--detect",
        metavar="DIFFERENCE",
        type=number(0.001, 1e9),
        help="say how many seeds of each configuration would find such a true difference",
    )
    add(
        "--plot",
        metavar="FILE",
        type=new_file(".png", ".svg"),
        help="draw to a .png or .svg file",
    )
    add(
        "--csv",
        metavar="FILE.csv",
        type=new_file(".csv"),
        help="write all evaluations, in the form of a results.csv",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    with plain_errors():
        args = parse_args()  # before the imports below, which take seconds

import numpy as np
import pandas as pd

from experiments.common.plots import plot_curves, save_figure
from experiments.common.results import (
    RESULTS,
    check_configurations,
    evaluation_rows,
    frame,
    read_results,
)
from support.checkpoints import CHECKPOINT, read_checkpoint
from support.files import write_file


def read_runs(logdirs):
    """Reads the evaluations of runs from their checkpoints; says which runs are not at their end.

    Args:
        logdirs: list of their directories.

    Returns:
        List of pandas.DataFrames for `summarize`, one for each run, with its settings as columns.

    Raises:
        WrongInput: a directory is not that of a run, or its checkpoint is damaged.
    """
    runs = [read_run(logdir) for logdir in logdirs]
    frames = []
    names = name_configurations(logdirs, runs)
    for logdir, state, name in zip(logdirs, runs, names, strict=True):
        row = {**state["settings"], "name": state["name"], "setting": name, "failed": np.nan}
        row["env"] = state["settings"].get("env", "unknown")  # a run of your own may lack it
        row["seed"] = state["settings"].get("seed", 0)
        if type(row["env"]) is not str or type(row["seed"]) is not int:
            raise WrongInput(f"{logdir} is not the directory of a run of this program")
        frames.append(frame(evaluation_rows(row, state["evaluations"])))
        max_steps = state["settings"].get("max_steps")
        if type(max_steps) is int and state["step"] < max_steps:
            print(f"{logdir} is at step {state['step']} of {max_steps}")
    return frames


def read_run(logdir):
    """What the checkpoint in the directory of a run says about it, a dict; raises `WrongInput`."""
    if not os.path.isfile(os.path.join(logdir, CHECKPOINT)):
        raise WrongInput(
            f"{logdir} is not the directory of a run or of a sweep: it has no {CHECKPOINT} and no "
            f"{RESULTS}"
        )
    return read_checkpoint(logdir)["run"]


def name_configurations(logdirs, runs):
    """Names for the configurations of runs: the values that differ, as in `hidden_units=64`.

    Where the values and the seeds don't tell all runs apart, or nothing but the seed differs, each
    is a configuration of its own, with the name of its directory.

    Args:
        logdirs: list of their directories.
        runs: list of what `read_run` returned.

    Returns:
        List of strings.
    """
    settings = [dict(state["settings"]) for state in runs]
    seeds = [str(values.pop("seed", None)) for values in settings]
    for values in settings:
        values.pop("env", None)
    varied = [
        name
        for name in dict.fromkeys(itertools.chain(*settings))
        if len({str(values.get(name)) for values in settings}) > 1
    ]
    names = [
        ",".join(f"{name}={values.get(name, 'none')}" for name in varied) for values in settings
    ]
    are_told_apart = len({*zip(names, seeds, strict=True)}) == len(runs)
    return names if varied and are_told_apart else logdirs


def list_evaluations(results):
    """The evaluations of one run as a table, a string; `results` are its `pandas.DataFrame`."""
    if results["step"].isna().all():
        return "no evaluation yet"
    columns = ["step", "return", "episodes", "avg_max_q_value", "seconds"]
    formats = {"return": "{:.3f}", "avg_max_q_value": "{:.3f}", "seconds": "{:.1f}"}
    formatters = {name: text.format for name, text in formats.items()}
    return results[columns].to_string(index=False, formatters=formatters)


def seeds_to_detect(results, measure, difference):
    """How many seeds of each configuration find a true difference, in words.

    Args:
        results, measure: as for `summarize`.
        difference: between two configurations, in units of the return, a float.
    """
    samples = measure_runs(results, measure)
    comparisons = max(len(samples) - 1, 1)
    lines = [
        f"Seeds of each configuration that find a true difference of {difference:g} in the "
        f"{measure} four times in five, for {comparisons} comparison{'s' * (comparisons > 1)}:"
    ]
    for name, sample in samples.items():
        if len(sample) < FEWEST or np.isnan(sample).any():
            lines.append(f"{name}: unknown without {FEWEST} runs, evaluated to their end")
            continue
        runs = runs_to_detect(sample, difference, comparisons)
        enough = f"more than {SIZES[-1]:,}" if runs is None else f"about {runs}"
        lines.append(f"{name}: {enough}, if the other scatters like this one")
    return "\n".join(lines)


def main(args):
    """Prints the tables of some runs, and writes the files that are asked for.

    Args:
        args: what `parse_args` returned.

    Raises:
        WrongInput: the runs can't be read or compared.
        OSError: a file can't be written.
    """
    paths = [
        os.path.join(path, RESULTS) if os.path.isfile(os.path.join(path, RESULTS)) else path
        for path in args.results
    ]
    is_run = [os.path.isdir(path) for path in paths]
    logdirs = [os.path.normpath(path) for path in itertools.compress(paths, is_run)]
    runs = iter(read_runs(logdirs))
    results = pd.concat(
        next(runs) if is_dir else read_results(path)
        for path, is_dir in zip(paths, is_run, strict=True)
    )
    if results.empty:
        raise WrongInput(f"{args.results} have no runs")
    if results.duplicated(["setting", "seed", "step"]).any():
        raise WrongInput(f"{args.results} have runs of the same configuration and seed in common")
    if results["env"].nunique() > 1:
        envs = " and ".join(results["env"].unique())
        raise WrongInput(f"runs in {envs} can't be compared")
    check_configurations(results)
    if is_run == [True]:
        print(list_evaluations(results))
    else:
        print(table(summarize(results, args.measure), reward_threshold(results)))
    if args.detect is not None:
        print()
        print(seeds_to_detect(results, args.measure, args.detect))
    if args.plot is not None:
        save_figure(plot_curves(results), args.plot)
    if args.csv is not None:
        write_file(args.csv, results.to_csv(index=False).encode(errors="replace"))
        print(f"Wrote {args.csv}")


if __name__ == "__main__":
    with plain_errors():
        main(args)
