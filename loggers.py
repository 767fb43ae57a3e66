"""What a run tells its reader: scalars for TensorBoard, log lines and a progress bar."""

import contextlib
import math
import time

import psutil
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api as hparams
from tensorboard.summary.writer.record_writer import RecordWriter
from tqdm import tqdm

from support.events import first_columns, open_events

GIGABYTE = 1024**3  # bytes
NOT_ABOUT_LEARNING = ("log_every", "checkpoint_every", "snapshot_every")


class TensorBoardLogger:
    """Writes scalars and hyperparameters to the event file of a run, for TensorBoard.

    Args:
        logdir: directory of the run; where it has an event file, that is written on.
    """

    def __init__(self, logdir):
        self.file, past = open_events(logdir)
        self.writer = RecordWriter(self.file)
        self.logged = {(value.tag, event.step) for event in past for value in event.summary.value}
        if not past:
            self._write(file_version="brain.Event:2")

    def log(self, step, **scalars):
        """Writes each of `scalars` (name=float) at training step `step`."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._write(summary=Summary(value=values), step=step)

    def log_hyperparameters(self, name, hyperparameters, metrics):
        """Writes a run's settings, numbers and strings by name, for TensorBoard's HParams page.

        The page compares runs by these and by the scalars named in `metrics`, a list.
        """
        columns = [hparams.HParam(name) for name in hyperparameters]
        results = [hparams.Metric(name) for name in metrics]
        self._write(summary=first_columns(hparams.hparams_config_pb(columns, results), 5))
        self._write(summary=hparams.hparams_pb(hyperparameters, trial_id=name))

    def log_restart(self, step):
        """Tells TensorBoard that what the file has from `step` on is superseded."""
        self._write(session_log=SessionLog(status=SessionLog.START), step=step)

    def close(self):
        """Closes the event file."""
        self.writer.close()

    def _write(self, **fields):
        self.writer.write(Event(wall_time=time.time(), **fields).SerializeToString())
        self.writer.flush()


class TrainingLog:
    """Tells how a training gets on: a line for an episode now and then, and for each evaluation.

    Args:
        log_every: at least this many steps lie between two lines for episodes.
    """

    def __init__(self, log_every):
        self.log_every = log_every
        self.episode = 0  # episodes completed
        self.last_logged_step = 0
        self.evaluation_seconds = 0.0  # spent on evaluations since the last episode ended

    def get_state(self):
        """What a resumed run goes on counting from: a dict of ints."""
        return {"episode": self.episode, "last_logged_step": self.last_logged_step}

    def set_state(self, state):
        """Takes what `get_state` has given."""
        self.episode = int(state["episode"])
        self.last_logged_step = int(state["last_logged_step"])

    def begin(self, run):
        """Begins to log a `Run`; where its curves were damaged, fills in what the run remembers."""
        self.logger = TensorBoardLogger(run.logdir)
        logged = self.logger.logged
        if not logged:
            settings = {k: v for k, v in run.args.settings.items() if k not in NOT_ABOUT_LEARNING}
            metrics = ["episode_return_avg", "avg_max_q_value"]
            self.logger.log_hyperparameters(run.name, settings, metrics)
        if run.resumed:
            self.logger.log_restart(run.step + 1)
            lost = [e for e in run.evaluations if ("episode_return_avg", e.step) not in logged]
            for step, episode_return_avg, avg_max_q_value, _ in lost:
                self._log_evaluation(step, episode_return_avg, avg_max_q_value)
            last_line = ("episode_return", self.last_logged_step)
            if lost or (self.last_logged_step and last_line not in logged):
                print(f"Curves in {run.logdir} were lost; {len(lost)} evaluations are filled in.")
        looks = {"unit": " steps", "disable": None, "dynamic_ncols": True}
        self.bar = tqdm(total=run.args.max_steps, initial=run.step, **looks)

    def step(self, step, loss, info):
        """Moves the progress bar; logs an episode at its end, when it is time to.

        Args:
            step: training step, counted from 1.
            loss: of the newest update, a float; None before the first.
            info: dict of `env.step`, which at the end of an episode has its statistics.

        Raises:
            FloatingPointError: the loss is not finite any more.
        """
        if loss is not None and not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {step}")
        self.bar.update()
        if "episode" in info:
            self.episode += 1
            if step - self.last_logged_step >= self.log_every:
                self.last_logged_step = step
                self._log_episode(step, loss, info["episode"])
            self.evaluation_seconds = 0.0

    def _log_episode(self, step, loss, statistics):
        episode_return, episode_steps = float(statistics["r"]), statistics["l"]
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
    def evaluating(self):
        """Gives the line of the progress bar to an evaluation's, and leaves its time out."""
        start = time.perf_counter()
        self.bar.clear()
        hidden, self.bar.disable = self.bar.disable, True
        yield
        self.bar.disable = hidden
        self.evaluation_seconds += time.perf_counter() - start

    def evaluation(self, step, episode_return_avg, avg_max_q_value):
        """Prints and logs the results of an evaluation at training step `step`."""
        self._log_evaluation(step, episode_return_avg, avg_max_q_value)
        tqdm.write(
            f"episode {self.episode} step {step} episode_return_avg {episode_return_avg:.3f} "
            f"avg_max_q_value {avg_max_q_value:.3f}"
        )

    def _log_evaluation(self, step, episode_return_avg, avg_max_q_value):
        results = {"episode_return_avg": episode_return_avg, "avg_max_q_value": avg_max_q_value}
        self.logger.log(step, **results)

    def close(self):
        """Ends the progress bar and the event file."""
        self.bar.close()
        self.logger.close()
