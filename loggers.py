"""Reports training progress: scalars for TensorBoard, log lines and a progress bar."""

import contextlib
import time

import psutil
from tensorboard.compat.proto.event_pb2 import SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api as hparams
from tqdm import tqdm

from support.events import EventFile, first_columns

GIGABYTE = 1024**3  # bytes
NOT_ABOUT_LEARNING = ("log_every", "checkpoint_every", "snapshot_every")


class TensorBoardLogger:
    """Writes scalars and hyperparameters to the event file of a run, for TensorBoard.

    Args:
        logdir: directory of the run; where it has an event file, that is written on.

    Attributes:
        logged: set of the (tag, step) that the event file had when it was opened.
    """

    def __init__(self, logdir):
        self.file = EventFile(logdir)
        self.logged = set()
        for event in self.file.past:
            for value in event.summary.value:
                self.logged.add((value.tag, event.step))

    def log(self, step, **scalars):
        """Writes each of `scalars` (name=float) at training step `step`."""
        values = [
            Summary.Value(tag=name, simple_value=float(value)) for name, value in scalars.items()
        ]
        self.file.write(summary=Summary(value=values), step=step)

    def log_hyperparameters(self, name, hyperparameters, metrics):
        """Writes a run's settings for TensorBoard's HParams page, which compares runs by them.

        Args:
            name: name of the run.
            hyperparameters: dict of names to numbers, strings and bools.
            metrics: list of names of scalars, which the page shows beside them.
        """
        columns = [hparams.HParam(name) for name in hyperparameters]
        results = [hparams.Metric(name) for name in metrics]
        self.file.write(summary=first_columns(hparams.hparams_config_pb(columns, results), 5))
        self.file.write(summary=hparams.hparams_pb(hyperparameters, trial_id=name))

    def log_restart(self, step):
        """Tells TensorBoard to ignore what the file has from `step` on: it comes again."""
        self.file.write(session_log=SessionLog(status=SessionLog.START), step=step)

    def close(self):
        """Closes the event file."""
        self.file.close()


class TrainingLog:
    """Reports training progress: lines for episodes and evaluations.

    Args:
        log_every: at least this many steps lie between two lines for episodes.
    """

    def __init__(self, log_every):
        self.log_every = log_every
        self.logger = self.bar = None  # until it begins
        self.episode = 0  # episodes completed
        self.last_logged_step = 0
        self.evaluation_seconds = 0.0  # spent on evaluations since the last episode ended

    def begin(self, training):
        """Opens the event file and the progress bar of a `Training`.

        Where its curves were damaged, they are filled in with what the training remembers.
        """
        self.logger = TensorBoardLogger(training.logdir)
        if not self.logger.logged:
            settings = {
                name: value
                for name, value in training.settings.items()
                if name not in NOT_ABOUT_LEARNING
            }
            metrics = ["episode_return_avg", "avg_max_q_value"]
            self.logger.log_hyperparameters(training.name, settings, metrics)
        if training.is_resumed:
            self.logger.log_restart(training.first_step)
            self._fill_in(training)
        self.bar = tqdm(
            total=training.max_steps,
            initial=training.first_step - 1,
            unit=" steps",
            disable=None,  # where standard error is not a terminal
            dynamic_ncols=True,
        )

    def _fill_in(self, training):
        logged = self.logger.logged
        lost = [
            evaluation
            for evaluation in training.evaluations
            if ("episode_return_avg", evaluation.step) not in logged
        ]
        for step, episode_return_avg, avg_max_q_value, _ in lost:
            self._log_evaluation(step, episode_return_avg, avg_max_q_value)
        last_line = ("episode_return", self.last_logged_step)
        lines_are_lost = self.last_logged_step > 0 and last_line not in logged
        if lost or lines_are_lost:
            print(f"Curves in {training.logdir} were lost; {len(lost)} evaluations are filled in.")

    def step(self, step, loss, info):
        """Moves the progress bar; logs an episode at its end, when it is time to.

        Args:
            step: training step, counted from 1.
            loss: of the newest update, a float; None before the first.
            info: dict of `env.step`, which at the end of an episode has its statistics.
        """
        self.bar.update()
        if "episode" in info:
            self.episode += 1
            if step - self.last_logged_step >= self.log_every:
                self.last_logged_step = step
                self._log_episode(step, loss, info["episode"])
            self.evaluation_seconds = 0.0

    def _log_episode(self, step, loss, statistics):
        episode_return = float(statistics["r"])
        episode_steps = statistics["l"]
        seconds = max(statistics["t"] - self.evaluation_seconds, 1e-6)
        memory = psutil.virtual_memory()
        scalars = {
            "episode_return": episode_return,
            "episode_steps": episode_steps,
            "episode_seconds": seconds,
            "steps_per_second": episode_steps / seconds,
            "memory_used": memory.used / GIGABYTE,
        }
        if loss is not None:
            scalars["loss"] = loss
        self.logger.log(step, **scalars)
        tqdm.write(
            f"episode {self.episode} steps {episode_steps}/{step} "
            f"loss {'none yet' if loss is None else format(loss, '.7f')} "
            f"return {episode_return:.1f} in {seconds:.2f}s "
            f"{scalars['steps_per_second']:.1f} steps/s "
            f"{memory.used / GIGABYTE:.1f}/{memory.total / GIGABYTE:.1f} GB RAM"
        )

    @contextlib.contextmanager
    def paused(self):
        """Hides the progress bar during an evaluation, and doesn't count that as episode time."""
        start = time.perf_counter()
        self.bar.clear()
        was_hidden = self.bar.disable
        self.bar.disable = True
        try:
            yield
        finally:
            self.bar.disable = was_hidden
            self.evaluation_seconds += time.perf_counter() - start

    def evaluation(self, step, episode_return_avg, avg_max_q_value):
        """Prints and logs the results of an evaluation at training step `step`, two floats."""
        self._log_evaluation(step, episode_return_avg, avg_max_q_value)
        tqdm.write(
            f"episode {self.episode} step {step} episode_return_avg {episode_return_avg:.3f} "
            f"avg_max_q_value {avg_max_q_value:.3f}"
        )

    def _log_evaluation(self, step, episode_return_avg, avg_max_q_value):
        results = {"episode_return_avg": episode_return_avg, "avg_max_q_value": avg_max_q_value}
        self.logger.log(step, **results)

    def get_state(self):
        """Returns the counts from which a resumed training continues: a dict of ints.

        Before it returns, the curves are written to the disk: a checkpoint must not be newer.
        """
        if self.logger is not None:
            self.logger.file.sync()
        return {"episode": self.episode, "last_logged_step": self.last_logged_step}

    def set_state(self, state):
        """Restores what `get_state` returned."""
        self.episode = int(state["episode"])
        self.last_logged_step = int(state["last_logged_step"])

    def close(self):
        """Ends the progress bar and the event file."""
        if self.bar is not None:
            self.bar.close()
        if self.logger is not None:
            self.logger.close()
