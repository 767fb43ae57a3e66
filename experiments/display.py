"""What experiments/grid.py shows while Ray Tune trains: how much is done, and the time left."""

import contextlib
import sys

from ray import tune
from tqdm import tqdm

from experiments.worker import unpack


def is_over(config, last_result):
    """Whether a training has come to its end, or failed for good."""
    return (last_result or {}).get("step") == config["training"]["max_steps"]


class Display(tune.Callback):
    """Shows how a grid gets on, and brings the directories of its runs up to date.

    It is one line that changes; where there is no terminal, a line for each training that has
    ended.

    Args:
        folder: directory of the grid.
        trainings: list of `list_trainings`.
    """

    def __init__(self, folder, trainings):
        self.folder = folder
        self.count = len(trainings)
        self.steps = sum(training["max_steps"] for training in trainings)
        self.retries = 0
        self.bar = None

    def on_step_end(self, iteration, trials, **info):
        steps = sum((trial.last_result or {}).get("step", 0) for trial in trials)
        if self.bar is None:
            self.bar = tqdm(
                total=self.steps,
                initial=steps,
                unit=" steps",
                smoothing=0,
                mininterval=1,  # second, after which the time is brought up to date
                miniters=0,  # even without a step
                disable=None,
                dynamic_ncols=True,
            )
        self.bar.set_description(self.text(trials), refresh=False)
        self.bar.update(steps - self.bar.n)

    def text(self, trials):
        over = [trial for trial in trials if is_over(trial.config, trial.last_result)]
        failed = sum(bool(trial.last_result["failed"]) for trial in over)
        running = sum(trial.status == "RUNNING" and trial not in over for trial in trials)
        done = len(over) - failed
        failed += sum(trial.status == "ERROR" for trial in trials)
        text = f"{done} of {self.count} done, {running} running, {failed} failed"
        return f"{text}, {self.retries} retried" if self.retries else text

    def on_checkpoint(self, iteration, trials, trial, checkpoint, **info):
        with contextlib.suppress(OSError):  # of a full disk; in the end it is done again
            unpack(checkpoint, self.folder)

    def on_trial_recover(self, iteration, trials, trial, **info):
        self.retries += 1

    def on_trial_complete(self, iteration, trials, trial, **info):
        if self.bar.disable:
            print(self.text(trials), file=sys.__stdout__, flush=True)

    on_trial_error = on_trial_complete

    def on_experiment_end(self, trials, **info):
        if self.bar is not None:
            self.bar.close()
