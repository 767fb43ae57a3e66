"""Shows the progress of a grid while Ray Tune trains."""

import signal
import sys

from ray import tune
from tqdm import tqdm

from experiments.worker import packed_in, unpack


class Display(tune.Callback):
    """Shows the progress of a grid, and updates the directories of its runs.

    On a terminal it is one line that changes; elsewhere, a line for each run that ends.

    Args:
        folder: directory of the grid.
        runs: list that `list_runs` returned.
        done: dict from their names to the numbers of steps already done, ints.
    """

    def __init__(self, folder, runs, done):
        self.folder = folder
        self.max_steps = {
            planned["name"]: planned["hyperparameters"]["max_steps"] for planned in runs
        }
        self.done = done
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
        gave_up = sum(bool((trial.last_result or {}).get("failed")) for trial in trials)
        died = sum(trial.status == "ERROR" for trial in trials)
        done = len(finished) - gave_up
        text = f"{done} of {len(self.done)} done, {len(running)} running, {gave_up + died} failed"
        return f"{text}, {self.retries} retried" if self.retries else text

    def on_checkpoint(self, iteration, trials, trial, checkpoint, **info):
        try:
            unpack(packed_in(checkpoint), self.folder)
        except OSError:  # the disk may be full: stop; the grid then tries again and says so
            signal.raise_signal(signal.SIGINT)

    def on_trial_recover(self, iteration, trials, trial, **info):
        self.retries += 1

    def on_trial_complete(self, iteration, trials, trial, **info):
        if self.bar.disable:
            print(self.text(trials), file=sys.__stdout__, flush=True)

    on_trial_error = on_trial_complete

    def on_experiment_end(self, trials, **info):
        if self.bar is not None:
            self.bar.close()
