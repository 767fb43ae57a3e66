"""The statistics of runs, by configuration. Each is one of SciPy's, and says when it is right.

How often they are right on this project's own runs, whose returns are anything but normally
distributed, is measured by tests/test_statistics.py.
"""

import warnings

import gymnasium as gym
import numpy as np
import pandas as pd
import scipy  # which loads its modules, such as scipy.stats, when they are first used

MEASURES = {  # what is measured of a run, given the returns of its evaluations by step
    "last evaluation": lambda returns: returns.iloc[-1],
    "best evaluation": lambda returns: returns.max(skipna=False),
    "second half": lambda returns: returns[returns.index >= returns.index[-1] / 2].mean(
        skipna=False
    ),
    "mean of all evaluations": lambda returns: returns.mean(skipna=False),
}
LEVEL = 0.95  # how often an interval is to hold the true value
QUARTER = 0.25  # share of the runs that the interquartile mean leaves out on either side
FEWEST = 5  # runs that get an interval, at least
POWER = 0.8  # how often a true difference is to be found
SIZES = (5, 10, 15, 20, 30, 40, 60, 80, 100, 150, 200, 300, 500, 1000)  # runs that are tried


def interquartile_mean(sample):
    """Mean of a sample without its lowest and its highest quarter, a float.

    A quarter is rounded down: the mean is that of the middle 3 of 5, 6 of 10, 16 of 30. A few runs
    far below the others don't move it (Agarwal et al., "Deep Reinforcement Learning at the Edge of
    the Statistical Precipice", 2021).

    Args:
        sample: floats of shape (runs,).
    """
    return scipy.stats.trim_mean(sample, QUARTER)


def typical_interval(sample):
    """Interval of the interquartile mean (low, high), by Tukey and McLaughlin (1963).

    Right for independent runs, skewed and far-off ones included, from ten on; of five runs, it
    holds the true value nine times in ten. It is nan, nan for fewer, where the runs that count are
    all alike, and where one is nan.

    Args:
        sample: floats of shape (runs,).
    """
    if len(sample) < FEWEST or np.isnan(sample).any() or is_tied(sample):
        return np.nan, np.nan
    return scipy.stats.mstats.trimmed_mean_ci(sample, (QUARTER, QUARTER), alpha=1 - LEVEL)


def is_tied(sample):
    """Whether the runs that count in the interquartile mean are all alike."""
    return np.ptp(scipy.stats.trimboth(sample, QUARTER)) == 0


def share_interval(successes, runs):
    """Interval of the share of runs that succeed (low, high), by Wilson (1927).

    Right for any number of independent runs, the fewer, the wider, if the true share is neither
    nearly 0 nor nearly 1: beyond 5 and 95 in 100, it may hold less often than it should.

    Args:
        successes, runs: how many, ints.
    """
    interval = scipy.stats.binomtest(successes, runs).proportion_ci(LEVEL, method="wilson")
    return interval.low, interval.high


def gain_interval(sample, first, comparisons):
    """Interval of the difference of two interquartile means (low, high), by Yuen (1974).

    Right for independent runs whose scatter differs, too, from thirty of each on; of ten or five,
    it holds nine times in ten. Several intervals hold together, each being wider (Bonferroni).

    Args:
        sample: floats of shape (runs,), of which the mean of `first` is subtracted.
        first: floats of shape (other runs,).
        comparisons: how many are made with `first`, this one included.
    """
    if min(len(sample), len(first)) < FEWEST or (is_tied(sample) and is_tied(first)):
        return np.nan, np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that one of the samples hardly scatters
        test = scipy.stats.ttest_ind(sample, first, equal_var=False, trim=QUARTER)
    interval = test.confidence_interval(1 - (1 - LEVEL) / comparisons)
    return interval.low, interval.high


def rank_test(sample, first, comparisons):
    """Whether two samples differ, by Mann and Whitney (1947).

    Right for independent runs, from five of each on: where two configurations are alike, p is below
    0.05 about one time in twenty. Of several configurations that are all alike, so is the lowest p,
    or less often (Bonferroni). Where both are as often above each other, and scatter differently,
    it is one time in twelve. With fewer runs, p is nan.

    Args:
        sample: floats of shape (runs,).
        first: floats of shape (other runs,).
        comparisons: how many are made with `first`, this one included.

    Returns:
        (P(better), p): the probability that a run of `sample` is above one of `first`, ties counted
        half; and how probable, at most, so large a difference in any of the comparisons would be if
        all were alike.
    """
    test = scipy.stats.mannwhitneyu(sample, first)
    is_enough = min(len(sample), len(first)) >= FEWEST
    p = min(test.pvalue * comparisons, 1) if is_enough else np.nan
    return test.statistic / len(sample) / len(first), p


def runs_to_detect(sample, difference, comparisons):
    """How many runs of each configuration show a true difference four times in five.

    The more runs there are, the better the guess: it draws from them, again and again, in place
    of all that there could be; also from between neighbouring ones, as a small difference would
    else decide whenever the same run is drawn twice.

    Args:
        sample: floats of shape (runs,).
        difference: by how much every run of another configuration would be better, a float.
        comparisons: how many configurations are compared with the first.

    Returns:
        The first of `SIZES` that is enough; None if none is.
    """
    rng = np.random.default_rng(0)

    def draw(size):
        return np.quantile(sample, rng.random(size))

    def find(size):
        result = scipy.stats.power(
            rank_test_p,
            (draw, lambda size: draw(size) + difference),
            (size, size),
            significance=(1 - LEVEL) / comparisons,
            vectorized=True,
            n_resamples=2000,
        )
        return result.power

    return next((size for size in SIZES if find(size) >= POWER), None)


def rank_test_p(sample, other, axis):
    """The p-value of the test of `rank_test` along an axis."""
    return scipy.stats.mannwhitneyu(sample, other, axis=axis).pvalue


def measure_runs(results, measure):
    """What is measured of each run that finished.

    Args:
        results: as for `summarize`.
        measure: one of `MEASURES`.

    Returns:
        Dict of configurations, in their order: floats of shape (runs,). A run is nan where an
        evaluation that counts had no complete episode.
    """
    finished = results[results["failed"].isna() & results["step"].notna()]
    runs = finished.sort_values("step", kind="stable").set_index("step")
    measured = runs.groupby(["setting", "seed"], sort=False)["return"].agg(MEASURES[measure])
    by_name = {name: runs.to_numpy(float) for name, runs in measured.groupby(level=0)}
    return {name: by_name.get(name, np.empty(0)) for name in results["setting"].unique()}


def summarize(results, measure="last evaluation"):
    """Summarizes runs, by configuration, and compares each configuration with the first.

    Args:
        results: pandas.DataFrame with a row per run and evaluation: `setting`, the name of its
            configuration, and `env`, strings; `seed`; `step`; `return`, the mean return of the
            evaluation; `failed`, a message if the run did not finish, else nan. A run without
            evaluations has one row, whose step and return are nan.
        measure: the one of `MEASURES` that all figures are about.

    Returns:
        pandas.DataFrame with a row per configuration, in their order. `runs` counts all, `failed`
        those that did not finish, `measured` those of which there is an evaluation. `solved` counts
        those that reach the reward threshold of the environment, of which `share` is the share of
        all runs, failed ones included. The other figures are those of the runs measured: `IQM`,
        `worst`, `mean`; `P(better)`, `p` and `gain`, the difference of the IQM, against the first
        configuration. Where a figure has an interval, its ends are in `low` and `high` columns. `p`
        and the intervals of `gain` hold for all comparisons.
    """
    threshold = reward_threshold(results)
    samples = measure_runs(results, measure)
    first, comparisons = next(iter(samples.values())), len(samples) - 1
    counts = results.groupby("setting", sort=False)["seed"].nunique()
    failures = results[results["failed"].notna()].groupby("setting")["seed"].nunique()
    rows = []
    for name, sample in samples.items():
        row = {"setting": name, "measure": measure, "runs": counts[name]}
        row |= {"failed": failures.get(name, 0), "measured": len(sample)}
        if threshold is not None:
            row["solved"] = np.count_nonzero(sample >= threshold)
            row["share"] = row["solved"] / row["runs"]
            row["share low"], row["share high"] = share_interval(row["solved"], row["runs"])
        is_known = len(sample) > 0 and not np.isnan(sample).any()
        if is_known:
            row |= {"IQM": interquartile_mean(sample), "worst": sample.min(), "mean": sample.mean()}
            row["IQM low"], row["IQM high"] = typical_interval(sample)
        if rows and is_known and "IQM" in rows[0]:
            row["P(better)"], row["p"] = rank_test(sample, first, comparisons)
            row["gain"] = row["IQM"] - rows[0]["IQM"]
            row["gain low"], row["gain high"] = gain_interval(sample, first, comparisons)
        rows.append(row)
    return pd.DataFrame(rows)


def reward_threshold(results):
    """The mean return at which the environment counts as solved, a float; None if unknown."""
    env_id = results["env"].iloc[0]
    return gym.spec(env_id).reward_threshold if env_id in gym.registry else None
