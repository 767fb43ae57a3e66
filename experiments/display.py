"""Shows the progress of a grid while Ray Tune trains, and stops it at a mistake in the code."""

import contextlib
import signal
import sys
from pathlib import Path

from ray import tune
from tqdm import tqdm

from experiments.worker import packed_in, unpack


class Display(tune.Callback):
    """Shows the progress of a grid, and updates the directories of its runs.

    On a terminal it is one line that changes; elsewhere, a line for each run that ends. A run that
    fails is told when it does, but of those that fail for the same reason only the first.

    Args:
        folder: directory of the grid.
        runs: list that `list_runs` returned.
        done: dict from their names to the numbers of steps already done, ints.

    Attributes:
        failed: dict from the names of the runs that have failed to the reasons, strings.
        is_mistaken: whether the grid stops, for a run has come to a mistake in the code.
    """

    def __init__(self, folder, runs, done):
        self.folder = folder
        self.max_steps = {
            planned["name"]: planned["hyperparameters"]["max_steps"] for planned in runs
        }
        self.done = done
        self.failed = {}
        self.is_mistaken = False
        self.is_stopped = False
        self.retries = 0
        self.bar = None

    def on_step_end(self, iteration, trials, **info):
        before = sum(self.done.values())
        for trial in trials:
            name = trial.config["run"]["name"]
            self.done[name] = (trial.last_result or {}).get("step", self.done[name])
        if self.bar is None:
            self.bar = tqdm(
                total=sum(self.max_steps.values()),
                initial=before,
                unit=" steps",
                smoothing=0,
                mininterval=1,  # second, after which the remaining time is updated
                miniters=0,  # even without a step
                disable=None,
                dynamic_ncols=True,
            )
        self.bar.set_description(self.text(trials), refresh=False)
        self.bar.update(sum(self.done.values()) - self.bar.n)

    def text(self, trials):
        """Says how many runs are done, running, failed and retried."""
        finished = {name for name, steps in self.done.items() if steps == self.max_steps[name]}
        started = {trial.config["run"]["name"] for trial in trials if trial.status == "RUNNING"}
        running = started - finished
        done = len(finished - self.failed.keys())
        text = f"{done} of {len(self.done)} done, {len(running)} running, {len(self.failed)} failed"
        return f"{text}, {self.retries} retried" if self.retries else text

    def on_trial_result(self, iteration, trials, trial, result, **info):
        if result["failed"]:
            self.add_failure(trial, result["failed"])
            self.is_mistaken |= result["is_mistake"]

    def on_checkpoint(self, iteration, trials, trial, checkpoint, **info):
        try:
            unpack(packed_in(checkpoint), self.folder)
        except OSError:  # the disk may be full: stop; the grid then tries again and says so
            self.stop()
        if self.is_mistaken:
            self.stop()

    def stop(self):
        """Stops the grid, as Ctrl-C does."""
        if not self.is_stopped:  # a second Ctrl-C would end it before it is tidied up
            self.is_stopped = True
            signal.raise_signal(signal.SIGINT)

    def add_failure(self, trial, reason):
        """Takes note that a run has failed; says so if none has for this reason."""
        name = trial.config["run"]["name"]
        if reason not in self.failed.values():
            with contextlib.redirect_stdout(sys.__stdout__):
                tqdm.write(f"failed: {name}: {reason}")
        self.failed[name] = reason

    def on_trial_recover(self, iteration, trials, trial, **info):
        self.retries += 1

    def on_trial_error(self, iteration, trials, trial, **info):
        reason = Path(trial.error_file).read_text().strip().splitlines()[-1]
        self.add_failure(trial, f"{reason} (--resume tries again)")
        self.on_trial_complete(iteration, trials, trial)

    def on_trial_complete(self, iteration, trials, trial, **info):
        if self.bar.disable:
            print(self.text(trials), file=sys.__stdout__, flush=True)

    def on_experiment_end(self, trials, **info):
        if self.bar is not None:
            self.bar.close()
