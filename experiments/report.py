"""Tables and plot of runs. A grid ends with them; this compares the runs of several grids:

    python -m experiments.report A-grid/results.csv B-grid/results.csv --plot both.png

or lists the evaluations of a single run, and compares several, also with those of grids:

    python -m experiments.report first-log
    python -m experiments.report first-log second-log A-grid/results.csv --csv all.csv

One run says little, so a setting is judged by all its seeds, and each mean comes with its 95%
interval (percentile bootstrap; with a handful of seeds, it is too narrow). Beside the mean stands
the interquartile mean (IQM), that of the middle half, which single lucky or unlucky seeds don't
move (Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", 2021).
"""

import sys

if not __package__:
    print("report.py: start it with python -m experiments.report", file=sys.stderr)
    sys.exit(2)

import functools
import itertools
import os
import textwrap

import gymnasium as gym
import matplotlib
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from scipy import stats

from experiments.figures import OPTIMUM, PLOTS, save_figure
from support.checkpoints import CHECKPOINT, read_checkpoint
from support.command_line import OneLineParser, new_file
from support.errors import WrongInput, plain_errors
from support.files import write_file

matplotlib.use("Agg")  # to files, without a window

COLUMNS = ("setting", "env", "seed", "step", "return", "seconds", "failed")
EVALUATION = ("step", "return", "avg_max_q_value", "seconds", "episodes")  # as in a checkpoint
KINDS = {"setting": str, "env": str, "step": float, "return": float}
NONE = {name: "" for name in ("step", "return", "seconds", "failed")}  # a setting may be named NA
MEASURES = {  # what is measured of a run, given the returns of its evaluations by step
    "last evaluation": lambda returns: returns.iloc[-1],
    "best evaluation": lambda returns: returns.max(),
    "second half": lambda returns: returns[returns.index >= returns.index[-1] / 2].mean(),
    "mean of all evaluations": lambda returns: returns.mean(),
}
MAX_FAINT = 4  # settings in a plot that shows single runs, too
STATISTICS = {
    "mean": np.mean,
    "IQM": functools.partial(stats.trim_mean, proportiontocut=0.25),
}


def evaluation_rows(row, evaluations):
    """Rows of results, dicts: one for each evaluation of a run, or one without any.

    Args:
        row: dict of what they have in common.
        evaluations: those of a checkpoint, float array (evaluations, 5).
    """
    rows = []
    for numbers in evaluations:
        found = dict(zip(EVALUATION, numbers, strict=True))
        found |= {name: int(found[name]) for name in ("step", "episodes")}
        rows.append({**row, **found})
    return rows or [row]


def check_names(settings):
    """Raises `WrongInput` where the name of one of the `Setting`s is a column of the results."""
    for setting in settings:
        if setting.name in (*COLUMNS, *EVALUATION, "name"):
            raise WrongInput(
                f"{setting.constant} can't be the name of a constant, for {setting.name} is a "
                "column of the results; rename the constant"
            )


def run_rows(planned, evaluations, failed=None):
    """Rows of results, dicts: those of one run.

    Args:
        planned: one of `list_runs`.
        evaluations: those of a checkpoint, float array (evaluations, 5).
        failed: why it failed, a string; or None.
    """
    row = {name: planned[name] for name in ("setting", "env", "seed")}
    row |= {"failed": failed, **planned["hyperparameters"], "name": planned["name"]}
    return evaluation_rows(row, evaluations)


def frame(rows):
    """pandas.DataFrame of dicts, one per row, in which no column of `COLUMNS` is missing."""
    results = pd.DataFrame(rows)
    return results.reindex(columns=list(dict.fromkeys([*COLUMNS, *results.columns])))


def read_results(filename):
    """Reads the results.csv of a grid: pandas.DataFrame for `summarize`; raises `WrongInput`."""
    try:
        results = pd.read_csv(filename, dtype=KINDS, keep_default_na=False, na_values=NONE)
    except (OSError, ValueError) as error:
        raise WrongInput(
            f"{filename} can't be read; give the directory of a run, or the results.csv of a "
            f"grid: {error}"
        ) from error
    missing = [name for name in COLUMNS if name not in results and name != "seconds"]
    if missing:
        raise WrongInput(
            f"{filename} isn't the results.csv of a grid: it has no column {missing[0]}"
        )
    return results


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
    for logdir, state, setting in zip(logdirs, runs, name_settings(logdirs, runs), strict=True):
        row = {**state["settings"], "name": state["name"], "setting": setting, "failed": np.nan}
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
        results = os.path.join(logdir, "results.csv")
        hint = f"; give {results}" if os.path.isfile(results) else ""
        raise WrongInput(f"{logdir} is not the directory of a run: it has no {CHECKPOINT}{hint}")
    return read_checkpoint(logdir)["run"]


def name_settings(logdirs, runs):
    """Names for the settings of runs: the values in which these differ, as in `hidden_units=64`.

    Where the values and the seeds don't tell all runs apart, or nothing but the seed differs, each
    is a setting of its own, with the name of its directory.

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


def interval(statistic, *samples):
    """95% bootstrap interval of a statistic.

    Args:
        statistic: function of the samples and of `axis`.
        samples: float arrays (..., observations), of which the last axis is resampled.

    Returns:
        (low, high), each of shape (...); nan where a sample is of one observation or has a nan.
    """
    unknown = any(sample.shape[-1] < 2 or np.isnan(sample).any() for sample in samples)
    if unknown and samples[0].ndim == 1:
        return np.nan, np.nan
    if unknown:
        return np.transpose([interval(statistic, *rows) for rows in zip(*samples, strict=True)])
    rng = np.random.default_rng(0)
    result = stats.bootstrap(samples, statistic, axis=-1, method="percentile", rng=rng, batch=1000)
    return result.confidence_interval


def summarize(results, compared="last evaluation"):
    """Summarizes runs, by setting.

    Args:
        results: pandas.DataFrame with a row per run and evaluation: `setting` and `env`,
            strings; `seed`; `step`; `return`, the mean return of the evaluation; `failed`, a
            message if the run did not finish, else nan. A run without evaluations has
            one row, whose step and return are nan.
        compared: the one of `MEASURES` by which settings are compared.

    Returns:
        pandas.DataFrame with a row per setting, in their order, whose figures are those of the
        runs that finished. `reached` counts those of which at least one evaluation reached the
        reward threshold of the environment. `gain` is the mean of the measure compared, minus that
        of the first setting. `P(better)` is the probability that it is higher for a run than
        for one of the first setting, ties counted half (Mann-Whitney's U / n / m), and `p` that
        test's p-value, not corrected for the number of settings compared.
    """
    finished = results[results["failed"].isna() & results["step"].notna()].sort_values(
        "step", kind="stable"
    )
    returns = finished.set_index("step").groupby(["setting", "seed"], sort=False)["return"]
    measures = pd.DataFrame({name: returns.agg(measure) for name, measure in MEASURES.items()})
    threshold = reward_threshold(results)
    rows, first = [], None
    for setting, group in results.groupby("setting", sort=False):
        values = measures[measures.index.get_level_values("setting") == setting]
        failed = group.loc[group["failed"].notna(), "seed"].nunique()
        row = {"setting": setting, "runs": group["seed"].nunique(), "failed": failed}
        if threshold is not None:
            row["reached"] = np.count_nonzero(values["best evaluation"] >= threshold)
        for measure, (name, statistic) in itertools.product(MEASURES, STATISTICS.items()):
            sample = values[measure].to_numpy()
            if len(sample):
                add_interval(row, f"{measure}, {name}", statistic, sample)
        sample = values[compared].to_numpy()
        if first is None:
            first = sample
        elif len(first) and len(sample):
            add_interval(row, "gain", difference, sample, first)
            test = stats.mannwhitneyu(sample, first)
            row |= {"P(better)": test.statistic / len(sample) / len(first), "p": test.pvalue}
        rows.append(row)
    return pd.DataFrame(rows)


def difference(sample, other, axis=-1):
    """Difference of the means of two samples."""
    return np.mean(sample, axis=axis) - np.mean(other, axis=axis)


def add_interval(row, name, statistic, *samples):
    """Puts a statistic of samples and its interval into `row`, as name, name low, name high."""
    row[name] = statistic(*samples)
    row[f"{name} low"], row[f"{name} high"] = interval(statistic, *samples)


def reward_threshold(results):
    """The mean return at which the environment counts as solved, a float; None if unknown."""
    env_id = results["env"].iloc[0]
    return gym.spec(env_id).reward_threshold if env_id in gym.registry else None


def table(summary, threshold, compared="last evaluation"):
    """The tables that are printed, a string.

    Args:
        summary: what `summarize` returns.
        threshold: what `reward_threshold` returns.
        compared: what `summarize` was given.
    """

    def cell(row, name):
        value, low, high = (row.get(name + end, np.nan) for end in ("", " low", " high"))
        bounds = f" [{low:.1f}, {high:.1f}]" if low == low else ""
        return f"{value:.1f}{bounds}" if value == value else "-"

    measured, gains = [], []
    for _, row in summary.iterrows():
        for measure in MEASURES:
            cells = {f"{name} [95%]": cell(row, f"{measure}, {name}") for name in STATISTICS}
            setting = row["setting"] if not measured or measure == next(iter(MEASURES)) else ""
            measured.append({"setting": setting, "return of": measure, **cells})
        counts = {"setting": row["setting"], "runs": row["runs"], "failed": row["failed"]}
        if threshold is not None:
            counts[f"reached {threshold:g}"] = row["reached"]
        chance = row.get("P(better)", np.nan)
        p = f"p = {row['p']:.3f}" if row.get("p", np.nan) >= 0.0005 else "p < 0.001"
        better = f"{chance:.2f} ({p})" if chance == chance else "-"
        gain = {f"gain of {compared} [95%]": cell(row, "gain"), "P(better)": better}
        gains.append({**counts, **gain})
    return "\n\n".join(pd.DataFrame(rows).to_string(index=False) for rows in (measured, gains))


def plot(results):
    """Draws return against steps: the mean of each setting with its 95% band.

    Args:
        results: as for `summarize`.

    Returns:
        Figure of pyplot.
    """
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    looks = zip(
        itertools.cycle(matplotlib.color_sequences["petroff10"]),  # distinct to the colour-blind
        itertools.cycle("osD^vPX*"),  # distinct without colour
        itertools.cycle(["-", "--", "-.", ":"]),
    )
    finished = results[results["failed"].isna() & results["step"].notna()]
    few = finished["setting"].nunique() <= MAX_FAINT
    for (setting, group), (colour, marker, line) in zip(
        finished.groupby("setting", sort=False), looks, strict=False
    ):
        curves = group.pivot(index="step", columns="seed", values="return")
        if few:
            axes.plot(curves, color=colour, linestyle=line, linewidth=0.8, alpha=0.25)
        low, high = interval(np.mean, curves.to_numpy())
        axes.fill_between(curves.index, low, high, color=colour, alpha=0.25, linewidth=0)
        label = textwrap.fill(f"{setting} (n = {curves.shape[1]})".replace(",", ", "), 80)
        mean = curves.mean(axis=1)
        axes.plot(mean, color=colour, linestyle=line, marker=marker, linewidth=2, label=label)
    threshold = reward_threshold(results)
    optimum = OPTIMUM.get(results["env"].iloc[0])
    for name, value, line, side in (
        ("reward threshold", threshold, ":", "top"),
        ("optimum", optimum, "--", "bottom"),
    ):
        if value is not None:
            axes.axhline(value, color="black", linewidth=0.8, linestyle=line)
            place = {"xy": (0.005, value), "xycoords": ("axes fraction", "data"), "va": side}
            axes.annotate(f"{name} {value:g}", **place)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlabel="training steps", ylabel="mean return of an evaluation")
    axes.set_title(f"Mean with 95% band{'; single runs faint' * few}", fontsize="medium")
    axes.grid(alpha=0.3)
    if not finished.empty:
        figure.legend(loc="outside lower center")
    return figure


def write_results(results, folder, plot_format=None):
    """Writes results.csv, summary.csv and the plot of a grid or a screen; prints the tables.

    Args:
        results: pandas.DataFrame for `summarize`.
        folder: path of its directory.
        plot_format: png or svg; None for png.
    """
    summary = summarize(results)
    write_file(folder / "results.csv", results.to_csv(index=False).encode())
    write_file(folder / "summary.csv", summary.to_csv(index=False).encode())
    save_figure(plot(results), folder / f"curves.{plot_format or 'png'}")
    print(table(summary, reward_threshold(results)))
    for (setting, reason), group in results.groupby(["setting", "failed"], sort=False):
        seeds = ", ".join(map(str, group["seed"].unique()))
        print(f"failed: {setting}, seed {seeds}: {reason}")
    print(f"Wrote {folder}")


def list_evaluations(results):
    """The evaluations of one run as a table, a string; `results` are its `pandas.DataFrame`."""
    if results["step"].isna().all():
        return "no evaluation yet"
    columns = ["step", "return", "episodes", "avg_max_q_value", "seconds"]
    formats = {"return": "{:.3f}", "avg_max_q_value": "{:.3f}", "seconds": "{:.1f}"}
    formatters = {name: text.format for name, text in formats.items()}
    return results[columns].to_string(index=False, formatters=formatters)


def main(argv=None):
    parser = OneLineParser(
        prog="report",
        description="Lists the evaluations of a run, or compares those of several runs and grids.",
    )
    parser.add_argument(
        "results",
        nargs="+",
        metavar="NAME-log or results.csv",
        help="the directory of a run, or what a grid has written",
    )
    parser.add_argument(
        "--measure",
        choices=MEASURES,
        default="last evaluation",
        help="what gain, P(better) and its p-value are about (default: %(default)s)",
    )
    parser.add_argument(
        "--plot", metavar="FILE", type=new_file(*PLOTS), help="draw to a .png or .svg file"
    )
    parser.add_argument(
        "--csv",
        metavar="FILE.csv",
        type=new_file(".csv"),
        help="write all evaluations, in the form of a results.csv",
    )
    args = parser.parse_args(argv)
    is_run = [os.path.isdir(path) for path in args.results]
    logdirs = [os.path.normpath(path) for path in itertools.compress(args.results, is_run)]
    runs = iter(read_runs(logdirs))
    results = pd.concat(
        next(runs) if is_dir else read_results(path)
        for path, is_dir in zip(args.results, is_run, strict=True)
    )
    if results.empty:
        parser.error(f"{args.results} have no runs")
    if results.duplicated(["setting", "seed", "step"]).any():
        parser.error(f"{args.results} have runs of the same setting and seed in common")
    if results["env"].nunique() > 1:
        envs = " and ".join(results["env"].unique())
        parser.error(f"runs in {envs} can't be compared")
    if is_run == [True]:
        print(list_evaluations(results))
    else:
        summary = summarize(results, args.measure)
        print(table(summary, reward_threshold(results), args.measure))
    if args.plot is not None:
        save_figure(plot(results), args.plot)
    if args.csv is not None:
        write_file(args.csv, results.to_csv(index=False).encode(errors="replace"))
        print(f"Wrote {args.csv}")


if __name__ == "__main__":
    with plain_errors():
        main()
