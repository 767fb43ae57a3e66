"""The directory of a sweep: what has finished is on disk before anything else happens."""

import csv
import io
import json
import os
import shutil

from experiments.common.packing import pack, unpack
from experiments.common.results import COLUMNS, EVALUATION, RESULTS, run_rows
from experiments.common.state import State
from support.checkpoints import CHECKPOINT, read_checkpoint
from support.errors import WrongInput
from support.files import write_file

PLAN = "plan.json"


def holds_something(folder):
    """Whether there is more in a directory than what a sweep begins with."""
    if not folder.is_dir():
        return os.path.lexists(folder)
    return not {PLAN, ".lock"}.issuperset(os.listdir(folder))


class Record:
    """The directory of a sweep.

    Args:
        folder: its path.
        plan: `Plan` of the sweep.

    Attributes:
        runs: list of all its `Run`s.
        states: dict of the names of the runs that have begun before to their `State`s.
    """

    def __init__(self, folder, plan):
        self.folder = folder
        self.plan = plan
        self.runs = plan.runs()
        self.states = {}
        self.lines = {}  # of results.csv, for each run that has ended: a string
        self.failed = set()  # names of those that have failed

    def begin(self):
        """Writes down the plan."""
        write_file(self.folder / PLAN, json.dumps(self.plan._asdict(), indent=1).encode())

    def read(self):
        """Reads what has been written down before; runs that have failed have another try.

        Raises:
            WrongInput: a file is damaged, or of something else.
        """
        self._read_results()
        for run in self.runs:
            logdir = self.folder / f"{run.name}-log"
            if run.name in self.states or not logdir.is_dir():
                continue
            if not (logdir / CHECKPOINT).exists():
                shutil.rmtree(logdir)  # killed while it was written for the first time
                continue
            try:
                state = read_checkpoint(logdir)["run"]
            except WrongInput as error:
                raise WrongInput(f"{error}; delete {logdir} to train it from the start") from error
            self.states[run.name] = State(state["step"])

    def _read_results(self):
        filename = self.folder / RESULTS
        if not filename.exists():
            return
        try:
            with open(filename, newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file, strict=True)
                found = {run.name: [] for run in self.runs}
                for row in reader:
                    found[row["name"]].append(row)
            if reader.fieldnames != self.columns():
                raise ValueError(f"its columns are {reader.fieldnames}")
            for run in self.runs:
                self._take_rows(run, found[run.name])
        except (ValueError, KeyError, csv.Error) as error:
            raise WrongInput(
                f"{filename} is not what this sweep has written: {error!r}; put that back, or move "
                "the file away, and runs that have no directory of their own are trained again"
            ) from error

    def _take_rows(self, run, rows):
        """Records the rows of a `Run`; raises ValueError if they are of something else."""
        if not rows or rows[0]["failed"]:
            return
        (expected,) = run_rows(run, ())
        same = [name for name in expected if name != "failed"]
        is_right = all(row[name] == str(expected[name]) for row in rows for name in same)
        if not is_right or [row["step"] for row in rows] != list(map(str, run.evaluated_steps())):
            raise ValueError(f"it has other results of {run.name}")
        self.lines[run.name] = self._as_text(rows)
        self.states[run.name] = State(run.max_steps, is_over=True)

    def left(self):
        """The runs that have not ended: list of `Run`s."""
        return [run for run in self.runs if run.name not in self.lines]

    def find_begun(self, run):
        """The directory of a `Run`, packed, from which it continues; None if there is none."""
        logdir = self.folder / f"{run.name}-log"
        return pack(logdir) if (logdir / CHECKPOINT).exists() else None

    def write(self, news):
        """Writes down the news of `cluster.train`.

        Raises:
            OSError: a file can't be written; what was written before stays.
        """
        is_over = False
        for run, state in news:
            if state.files is not None:
                unpack(state.files, self.folder)
            if state.is_over and not state.is_mistake:
                rows = run_rows(run, state.evaluations, state.failed)
                self.lines[run.name] = self._as_text(rows)
                if state.failed is not None:
                    self.failed.add(run.name)
                is_over = True
        if is_over:
            head = ",".join(self.columns()) + "\n"
            lines = [self.lines[run.name] for run in self.runs if run.name in self.lines]
            write_file(self.folder / RESULTS, "".join([head, *lines]).encode())

    def columns(self):
        """The columns of results.csv: list of strings."""
        return [
            *COLUMNS,
            *self.plan.values,
            "name",
            *(name for name in EVALUATION if name not in COLUMNS),
        ]

    def _as_text(self, rows):
        """Rows of results.csv, dicts, as the file has them: a string."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns(), lineterminator="\n")
        for row in rows:  # without what is nan
            writer.writerow({name: value for name, value in row.items() if value == value})
        return text.getvalue()

    def all_have_failed(self):
        """Whether every run has failed."""
        return len(self.failed) == len(self.runs)

    def remove_if_empty(self):
        """Removes the directory if nothing has been trained."""
        if not holds_something(self.folder):
            shutil.rmtree(self.folder, ignore_errors=True)
