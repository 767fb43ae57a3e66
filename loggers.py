"""What a run tells its reader: scalars for TensorBoard, log lines and a progress bar."""

import contextlib
import time

import psutil
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api as hparams
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tqdm import tqdm

GIGABYTE = 1024**3  # bytes
COUNTERS = ("episode", "last_logged_step", "episode_steps", "episode_return")


class TensorBoardLogger:
    """Writes scalars and hyperparameters to one event file, which TensorBoard shows.

    Args:
        logdir: directory of the event file.
    """

    def __init__(self, logdir):
        self.logdir = str(logdir)
        self.writer = EventFileWriter(self.logdir)

    def log(self, step, **scalars):
        """Writes each of `scalars` (name=float) at training step `step`."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._write(Summary(value=values), step)

    def log_hyperparameters(self, hyperparameters, metrics):
        """Writes the run's settings for TensorBoard's HParams page, which compares runs.

        Args:
            hyperparameters: dict of names to numbers or strings.
            metrics: names of the scalars that the page shows beside them.
        """
        columns = [hparams.HParam(name) for name in hyperparameters]
        results = [hparams.Metric(name) for name in metrics]
        self._write(hparams.hparams_config_pb(columns, results), step=0)
        self._write(hparams.hparams_pb(hyperparameters, trial_id=self.logdir), step=0)

    def log_restart(self, step):
        """Tells TensorBoard that what an earlier event file has from `step` on is superseded."""
        start = SessionLog(status=SessionLog.START)
        self.writer.add_event(Event(session_log=start, step=step, wall_time=time.time()))
        self.writer.flush()

    def close(self):
        """Closes the event file."""
        self.writer.close()

    def _write(self, summary, step):
        self.writer.add_event(Event(summary=summary, step=step, wall_time=time.time()))
        self.writer.flush()


class TrainingLog:
    """Follows a training run: times its episodes, and prints and logs them now and then.

    Args:
        log_every: at least this many steps lie between two log lines.
    """

    def __init__(self, log_every):
        self.log_every = log_every
        self.episode = 0
        self.last_logged_step = 0
        self._start_episode()

    def open(self, logger, max_steps, step=0):
        """Begins to log.

        Args:
            logger: `TensorBoardLogger` that gets the scalars.
            max_steps: steps of the whole run, for the progress bar.
            step: how many of them have been done before.
        """
        self.logger = logger
        self.bar = tqdm(
            total=max_steps, initial=step, unit=" steps", disable=None, dynamic_ncols=True
        )
        self.episode_start = time.perf_counter()

    def get_state(self):
        """What a resumed run goes on counting from: a dict of numbers."""
        return {name: getattr(self, name) for name in COUNTERS}

    def set_state(self, state):
        """Takes what `get_state` has given."""
        for name in COUNTERS:
            setattr(self, name, state[name])

    def _start_episode(self):
        self.episode_steps = 0
        self.episode_return = 0.0
        self.episode_start = time.perf_counter()

    def step(self, reward):
        """Counts one step and its reward."""
        if self.episode_steps == 0:
            self.episode += 1
        self.episode_steps += 1
        self.episode_return += float(reward)
        self.bar.update()

    def end_episode(self, step, loss):
        """Ends the episode; prints and logs it if `log_every` steps have passed since the last.

        Args:
            step: training steps so far.
            loss: loss of the newest update, None before the first.
        """
        if step - self.last_logged_step >= self.log_every:
            self.last_logged_step = step
            self._log_episode(step, loss)
        self._start_episode()

    def _log_episode(self, step, loss):
        seconds = time.perf_counter() - self.episode_start
        memory = psutil.virtual_memory()
        scalars = {
            "episode_return": self.episode_return,
            "episode_steps": self.episode_steps,
            "episode_seconds": seconds,
            "steps_per_second": self.episode_steps / seconds,
            "memory_used": memory.used / GIGABYTE,
        }
        if loss is not None:
            scalars["loss"] = loss
        self.logger.log(step, **scalars)
        tqdm.write(
            f"episode {self.episode} steps {self.episode_steps}/{step} "
            f"loss {'none yet' if loss is None else format(loss, '.7f')} "
            f"return {self.episode_return:.1f} in {seconds:.2f}s "
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
        self.episode_start += time.perf_counter() - start

    def log_evaluation(self, step, episode_return_avg, avg_max_q_value):
        """Prints and logs the results of an evaluation at training step `step`."""
        self.logger.log(
            step, episode_return_avg=episode_return_avg, avg_max_q_value=avg_max_q_value
        )
        tqdm.write(
            f"episode {self.episode} step {step} episode_return_avg {episode_return_avg:.3f} "
            f"avg_max_q_value {avg_max_q_value:.3f}"
        )

    def close(self):
        """Ends the progress bar and the event file."""
        self.bar.close()
        self.logger.close()
