"""The tables in which runs are summarized, with what one has to know to read them."""

import numpy as np
import pandas as pd

from experiments.common.statistics import FEWEST

LEGEND = """\
failed: runs that didn't train to their end.
IQM: the typical run, the mean without the best and the worst quarter of the runs.
[95%]: intervals of a kind that holds the true value in about 95 of 100 experiments.
mean: without an interval, as a few runs far from the others move it too much."""
MOVED = "*: outside the interval of the IQM; judge by the IQM, and by how many are solved."
LEGEND_OF_COMPARISONS = """\
P(better): how often a run of this configuration beats one of the first; 0.5 is even.
p: how often, at most, chance alone would make any of these differ so much, if all were
like the first. It decides: below 0.05, a configuration is taken to differ; otherwise
nothing is shown, not even that it is alike.
gain: how much the IQM is above that of the first."""


def table(summary, threshold):
    """The tables that are printed, and what has to be said of them, a string.

    Args:
        summary: what `statistics.summarize` returned.
        threshold: what `statistics.reward_threshold` returned.
    """
    comparisons = len(summary) - 1
    measure, first = summary[["measure", "setting"]].iloc[0]
    sections = [f"{measure}:", configurations_table(summary, threshold)]
    explanations = [LEGEND]
    if threshold is not None:
        explanations.insert(0, f"solved: at {threshold:g} or better.")
    if summary.apply(is_moved, axis=1).any():
        explanations.append(MOVED)
    if comparisons:
        together = f" (p and intervals allow for {comparisons} comparisons)" * (comparisons > 1)
        sections.append(f"compared with {first}{together}:")
        sections.append(comparisons_table(summary.iloc[1:]))
        explanations.append(LEGEND_OF_COMPARISONS)
    sections.append("\n".join(explanations))
    if remarks(summary):
        sections.append("\n".join(remarks(summary)))
    return "\n\n".join(sections)


def configurations_table(summary, threshold):
    """A row for each configuration: how many runs succeed, the typical one, the worst, the mean."""
    rows = []
    for _, row in summary.iterrows():
        cells = {"configuration": row["setting"], "runs": row["runs"], "failed": row["failed"]}
        if threshold is not None:
            share = f"{row['solved']} of {row['runs']}"
            bounds = f"[{row['share low']:.0%}, {row['share high']:.0%}]"
            cells["solved [95%]"] = f"{share} {bounds}"
        cells |= {"IQM [95%]": cell(row, "IQM"), "worst": cell(row, "worst")}
        rows.append(cells | {"mean": cell(row, "mean") + ("*" if is_moved(row) else "")})
    return pd.DataFrame(rows).to_string(index=False)


def is_moved(row):
    """Whether the mean of a configuration is outside the interval of its IQM."""
    if row["measured"] < FEWEST or "IQM" not in row or np.isnan(row["IQM"]):
        return False
    low, high = row[["IQM low", "IQM high"]].fillna(row["IQM"])
    return not low <= row["mean"] <= high


def comparisons_table(summary):
    """A row for each configuration but the first: whether, and how much, it differs from that."""
    rows = []
    for _, row in summary.iterrows():
        chance, p = row.get("P(better)", np.nan), row.get("p", np.nan)
        cells = {
            "configuration": row["setting"],
            "P(better)": "-" if np.isnan(chance) else f"{chance:.2f}",
            "p": "-" if np.isnan(p) else f"{p:.3f}" if p >= 0.0005 else "< 0.001",
        }
        rows.append(cells | {"gain [95%]": cell(row, "gain")})
    return pd.DataFrame(rows).to_string(index=False)


def cell(row, name):
    """A figure, its interval, and over how many runs it is, if some failed: a string."""
    value, low, high = (row.get(name + end, np.nan) for end in ("", " low", " high"))
    if np.isnan(value):
        return "-"
    bounds = "" if np.isnan(low) else f" [{as_text(row, low)}, {as_text(row, high)}]"
    count = f" (n = {row['measured']})" if row["measured"] < row["runs"] else ""
    return f"{as_text(row, value)}{bounds}{count}"


def as_text(row, number):
    """A figure of a configuration: with three digits after the point if its returns are small."""
    is_small = row[["IQM", "worst"]].abs().max() < 10
    return f"{number:.3f}" if is_small else f"{number:.1f}"


def remarks(summary):
    """What is peculiar to single configurations, a list of lines."""
    lines = []
    for _, row in summary.iterrows():
        name, runs, failed, measured = row[["setting", "runs", "failed", "measured"]]
        iqm, low = row.get("IQM", np.nan), row.get("IQM low", np.nan)
        if failed:
            lines.append(
                f"{name}: {failed} of {runs} runs failed; they count as not solved, and all "
                "other figures leave them out."
            )
        if runs > failed + measured:
            lines.append(f"{name}: {runs - failed - measured} of {runs} runs are not evaluated.")
        if measured and np.isnan(iqm):
            lines.append(
                f"{name}: an evaluation had no complete episode, so that its figures are "
                "unknown; raise EVAL_STEPS."
            )
        elif 0 < measured < FEWEST:
            lines.append(
                f"{name}: fewer than {FEWEST} runs, too few for p and an interval of the IQM."
            )
        elif measured and np.isnan(low):
            text = as_text(row, iqm)
            lines.append(f"{name}: typical runs are all at {text}, so there is no interval.")
    return lines
