"""Summarizes the results of runs, by setting, and compares the settings."""

import itertools

import gymnasium as gym
import numpy as np
import pandas as pd
import scipy  # which loads its parts, such as scipy.stats, when they are first used

MEASURES = {  # what is measured of a run, given the returns of its evaluations by step
    "last evaluation": lambda returns: returns.iloc[-1],
    "best evaluation": lambda returns: returns.max(),
    "second half": lambda returns: returns[returns.index >= returns.index[-1] / 2].mean(),
    "mean of all evaluations": lambda returns: returns.mean(),
}


def interquartile_mean(sample, axis=0):
    """Mean of the middle half of a sample."""
    return scipy.stats.trim_mean(sample, 0.25, axis)


STATISTICS = {"mean": np.mean, "IQM": interquartile_mean}


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
    result = scipy.stats.bootstrap(
        samples, statistic, axis=-1, method="percentile", rng=rng, batch=1000
    )
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
            test = scipy.stats.mannwhitneyu(sample, first)
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
