"""Shows how far the runs of a sweep are."""

import sys

from tqdm import tqdm

from experiments.common.state import State


class Progress:
    """One line that changes, on a terminal; elsewhere, a line for each run that ends.

    A run that fails is reported at once, on standard error, but of those that fail for the same
    reason only the first.

    Args:
        runs: list of all `Run`s of the sweep.
        states: dict of the names of those that have begun before to their `State`s.
    """

    def __init__(self, runs, states):
        self.runs = runs
        self.states = dict(states)
        self.running = set()
        self.reported = set()
        self.deaths = 0
        self.bar = tqdm(
            total=sum(run.max_steps for run in runs),
            initial=self.count_steps(),
            bar_format="{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}",
            smoothing=0,  # since the start, for runs report only now and then
            mininterval=1,  # second, after which the remaining time is updated
            miniters=0,  # even without a step
            disable=None,  # where standard error is not a terminal
            dynamic_ncols=True,
        )

    def count_steps(self):
        """Steps of all runs so far, with none left of those that have ended: an int."""
        return sum(
            run.max_steps if self.states[run.name].is_over else self.states[run.name].step
            for run in self.runs
            if run.name in self.states
        )

    def show(self, news):
        """Records what runs have reported.

        Args:
            news: list of pairs, a `Run` and its newest `State`.
        """
        for run, state in news:
            before = self.states.get(run.name, State())
            step = max(state.step, before.step)
            self.states[run.name] = state._replace(step=step, files=None)  # which take memory
            if state.is_over or state.died is not None:
                self.running.discard(run.name)
            else:
                self.running.add(run.name)
            self.deaths += state.died is not None
            self.report(run, "failed", state.failed)
            self.report(run, "starts again", state.died)
            if state.is_over and self.bar.disable:
                print(self, file=sys.__stdout__, flush=True)
        self.bar.set_description(str(self), refresh=False)
        self.bar.update(self.count_steps() - self.bar.n)

    def report(self, run, what, reason):
        """Says for which reason, unless it is None, something has happened to a run."""
        if reason is not None and (what, reason) not in self.reported:
            self.reported.add((what, reason))
            tqdm.write(f"{what}: {run.name}: {reason}", file=sys.stderr)

    def __str__(self):
        states = self.states.values()
        failed = sum(state.failed is not None for state in states)
        done = sum(state.is_over for state in states) - failed
        text = f"{done} of {len(self.runs)} done, {len(self.running)} running, {failed} failed"
        return f"{text}, {self.deaths} started again" if self.deaths else text

    def close(self):
        """Ends the line."""
        self.bar.close()
