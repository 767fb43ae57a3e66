"""The results of runs in a table: a row for each evaluation. This is the format of results.csv."""

import pandas as pd

from support.errors import WrongInput

RESULTS = "results.csv"
COLUMNS = ("setting", "env", "seed", "step", "return", "seconds", "failed")
EVALUATION = {  # columns: what is in them of an `Evaluation`
    "step": "step",
    "return": "episode_return_avg",
    "avg_max_q_value": "avg_max_q_value",
    "seconds": "seconds",
    "episodes": "episodes",
}
COLUMN_TYPES = {"setting": str, "env": str, "step": float, "return": float}
MISSING = {name: "" for name in (*EVALUATION, "failed")}  # others may be named NA


def check_names(settings):
    """Raises `WrongInput` where the name of one of the `Setting`s is a column of the results."""
    for setting in settings:
        if setting.name in (*COLUMNS, *EVALUATION, "name"):
            raise WrongInput(
                f"{setting.constant} can't be the name of a constant, for {setting.name} is a "
                "column of the results; rename the constant"
            )


def run_rows(run, evaluations, failed=None):
    """Rows of results, dicts: those of one run.

    Args:
        run: `Run`.
        evaluations: list of its `Evaluation`s.
        failed: why it failed, a string; or None.
    """
    row = {"setting": run.configuration, "env": run.env, "seed": run.seed, "failed": failed}
    return evaluation_rows({**row, **run.hyperparameters, "name": run.name}, evaluations)


def evaluation_rows(row, evaluations):
    """Rows of results, dicts: one for each evaluation of a run, or one without any.

    Args:
        row: dict of what they have in common.
        evaluations: list of `Evaluation`s.
    """
    rows = []
    for evaluation in evaluations:
        numbers = {column: getattr(evaluation, name) for column, name in EVALUATION.items()}
        rows.append({**row, **numbers})
    return rows or [row]


def frame(rows):
    """pandas.DataFrame of dicts, one per row, in which no column of `COLUMNS` is missing."""
    results = pd.DataFrame(rows)
    return results.reindex(columns=list(dict.fromkeys([*COLUMNS, *results.columns])))


def read_results(filename):
    """Reads the results.csv of a sweep: pandas.DataFrame for `summarize`; raises `WrongInput`."""
    try:
        results = pd.read_csv(
            filename, dtype=COLUMN_TYPES, keep_default_na=False, na_values=MISSING
        )
    except (OSError, ValueError) as error:
        raise WrongInput(
            f"{filename} can't be read; give the directory of a run, or the results.csv of a "
            f"sweep: {error}"
        ) from error
    missing = [name for name in COLUMNS if name not in results and name != "seconds"]
    if missing:
        raise WrongInput(
            f"{filename} isn't the results.csv of a sweep: it has no column {missing[0]}"
        )
    return results


def check_configurations(results):
    """Raises `WrongInput` where runs of one configuration differ in a hyperparameter.

    Args:
        results: as for `summarize`; its other columns are hyperparameters, empty where unknown.
    """
    hyperparameters = results.columns.difference([*COLUMNS, *EVALUATION, "name"], sort=False)
    known = results[hyperparameters].apply(as_numbers)
    values = known.groupby(results["setting"], sort=False).nunique()
    for name, counts in values.iterrows():
        for constant in hyperparameters[counts > 1]:
            runs = results.loc[results["setting"] == name, constant]
            different = " and ".join(str(value) for value in runs[runs != ""].dropna().unique()[:2])
            raise WrongInput(
                f"{name} is not one configuration: its runs differ in {constant} ({different}); "
                "give one of the files another name in its column setting"
            )


def as_numbers(column):
    """A column of a table as numbers, nan where it is empty; as it is, where others are in it."""
    try:
        return pd.to_numeric(column.replace("", None))
    except (TypeError, ValueError):
        return column.replace("", None)
