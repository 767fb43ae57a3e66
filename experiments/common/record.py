"""The directory of a sweep: what has finished is on disk before anything else happens."""

import csv
import io
import json
import os
import shutil

from experiments.common.packing import pack, unpack
from experiments.common.results import COLUMNS, run_rows
from experiments.common.state import State
from support.checkpoints import CHECKPOINT, read_checkpoint
from support.errors import WrongInput
from support.files import write_file

PLAN = "plan.json"
RESULTS = "results.csv"


class Record:
    """The directory of a sweep.

    Args:
        folder: its path.
        plan: `Plan` of the sweep; None to ask only whether the directory holds something.

    Attributes:
        runs: list of all its `Run`s.
        states: dict of the names of the runs that have begun to their `State`s.
    """

    def __init__(self, folder, plan=None):
        self.folder = folder
        self.plan = plan
        self.runs = plan.runs() if plan else []
        self.states = {}
        self.rows = {}  # of results.csv, for each run that has ended

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
        found = {}
        with open(filename, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                found.setdefault(row.get("name"), []).append(row)
        for run in self.runs:
            rows = found.pop(run.name, [])
            steps = [str(step) for step in run.evaluated_steps()]
            if not rows or rows[0]["failed"]:
                continue
            (expected,) = run_rows(run, ())
            same = [name for name in expected if name != "failed"]
            is_right = all(row[name] == str(expected[name]) for row in rows for name in same)
            if not is_right or [row["step"] for row in rows] != steps:
                raise WrongInput(f"{filename} has other results of {run.name}; delete it")
            self.rows[run.name] = rows
            self.states[run.name] = State(run.max_steps, is_over=True)

    def left(self):
        """The runs that have not ended: list of `Run`s."""
        return [run for run in self.runs if run.name not in self.rows]

    def find_begun(self, run):
        """The directory of a `Run`, packed, from which it goes on; None if there is none."""
        logdir = self.folder / f"{run.name}-log"
        return pack(logdir) if (logdir / CHECKPOINT).exists() else None

    def write(self, news):
        """Writes down the news of `cluster.train`.

        Raises:
            OSError: a file can't be written; what was written before stays.
        """
        is_over = False
        for run, state in news:
            self.states[run.name] = state
            if state.files is not None:
                unpack(state.files, self.folder)
            if state.is_over and not state.is_mistake:
                self.rows[run.name] = run_rows(run, state.evaluations, state.failed)
                is_over = True
        if is_over:
            self._write_results()

    def _write_results(self):
        columns = [*COLUMNS, *self.runs[0].hyperparameters]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(
            text, [*columns, "name", "avg_max_q_value", "episodes"], lineterminator="\n"
        )
        writer.writeheader()
        for run in self.runs:
            for row in self.rows.get(run.name, ()):  # without what is nan
                writer.writerow({name: value for name, value in row.items() if value == value})
        write_file(self.folder / RESULTS, text.getvalue().encode())

    def has_failed(self):
        """Whether every run has failed."""
        return all(rows[0]["failed"] for rows in self.rows.values())

    def holds_something(self):
        """Whether there is more in the directory than what a sweep begins with."""
        return self.folder.exists() and not {PLAN, ".lock"}.issuperset(os.listdir(self.folder))

    def remove_if_empty(self):
        """Removes the directory if nothing has been trained."""
        if not self.holds_something():
            shutil.rmtree(self.folder, ignore_errors=True)
