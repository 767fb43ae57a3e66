"""Reports training progress: scalars for TensorBoard, log lines and a progress bar."""

import contextlib
import os
import re
import socket
import time

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api as hparams
from tensorboard.plugins.hparams.api_pb2 import Status
from tensorboard.plugins.hparams.summary import session_end_pb
from tensorboard.summary.writer.record_writer import RecordWriter
from tqdm import tqdm

from support.errors import GIGABYTE
from support.runs import over_episodes
from support.system import find_memory

HIDDEN_FROM_HPARAMS = ("log_every", "checkpoint_every", "snapshot_every")


class TensorBoardLogger:
    """Writes scalars and hyperparameters to a new event file in the directory of a run.

    TensorBoard reads all event files of a run, in the order of their names. Its `EventFileWriter`
    would name them by the clock alone, which may have been set back, write in a thread, and fail
    with TensorFlow's exceptions instead of OSError. Programs that record what it writes see nothing
    (docs/using.md has the remedy).

    Args:
        logdir: the directory.
    """

    def __init__(self, logdir):
        self.file = open(os.path.join(logdir, next_event_file(logdir)), "xb")
        self.writer = RecordWriter(self.file)
        self.write(file_version="brain.Event:2")

    def write(self, **fields):
        """Writes an `Event` of these fields, so that TensorBoard can see it at once."""
        self.writer.write(Event(wall_time=time.time(), **fields).SerializeToString())
        self.writer.flush()

    def log(self, step, **scalars):
        """Writes each of `scalars` (name=float) at training step `step`."""
        values = [
            Summary.Value(tag=name, simple_value=float(value)) for name, value in scalars.items()
        ]
        self.write(summary=Summary(value=values), step=step)

    def log_hyperparameters(self, name, hyperparameters):
        """Writes a run's settings for TensorBoard's HParams page, which compares runs by them.

        The page has a column for every setting of any run. No run lists the columns, because the
        page would use only one of several lists.

        Args:
            name: name of the run.
            hyperparameters: dict of names to numbers, strings and bools.
        """
        self.write(summary=hparams.hparams_pb(hyperparameters, trial_id=name))

    def log_success(self):
        """Tells the HParams page that the run is complete."""
        summary = session_end_pb(Status.STATUS_SUCCESS)  # in TensorFlow's class of that name
        self.write(summary=Summary.FromString(summary.SerializeToString()))

    def log_restart(self, step):
        """Tells TensorBoard to ignore what earlier files hold from `step` on, which comes again.

        It is written twice, because TensorBoard's server in Python takes the first START of a run
        for its beginning.
        """
        for _ in range(2):
            self.write(session_log=SessionLog(status=SessionLog.START), step=step)

    def sync(self):
        """Returns when all that was written is on the disk."""
        os.fsync(self.file.fileno())

    def close(self):
        """Closes the event file."""
        self.writer.close()


def next_event_file(logdir):
    """A name for an event file that sorts behind those in a directory, whatever the clock says."""
    numbers = [re.match(r"events\.out\.tfevents\.(\d{10})\.", name) for name in os.listdir(logdir)]
    last = max((int(number[1]) for number in numbers if number), default=0)
    number = max(int(time.time()), last + 1) % 10**10  # ten digits, whatever other files have
    return f"events.out.tfevents.{number:010}.{socket.gethostname()}.{os.getpid()}"


def warn_of_long_episodes(episodes, unfinished_steps, eval_steps):
    """Warns of an evaluation that is too short for its average to represent all episodes.

    Args:
        episodes: number of episodes that ended.
        unfinished_steps: steps since the last of them ended.
        eval_steps: steps of the evaluation, EVAL_STEPS.
    """
    ending = f"within EVAL_STEPS {eval_steps}: raise it, or give the environment a time limit"
    if episodes == 0:
        tqdm.write(f"No episode ended {ending}.")
    elif unfinished_steps > eval_steps / 2:
        tqdm.write(f"The average favours short episodes, because a long one didn't end {ending}.")


class TrainingLog:
    """Reports training progress: lines for episodes and evaluations.

    Args:
        log_every: at least this many steps lie between two lines for episodes.
    """

    def __init__(self, log_every):
        self.log_every = log_every
        self.logger = self.bar = self.max_steps = None  # until it begins
        self.newest_step = 0
        self.episode = 0  # episodes completed
        self.episode_return = None  # of the newest of them
        self.last_logged_step = 0
        self.evaluation_seconds = 0.0  # spent on evaluations since the last episode ended

    def begin(self, run):
        """Opens a new event file and the progress bar of a `Run`."""
        self.max_steps = run.max_steps
        self.logger = TensorBoardLogger(run.logdir)
        if run.is_resumed:
            self.logger.log_restart(run.step + 1)
        else:
            settings = {
                name: value
                for name, value in run.settings.items()
                if name not in HIDDEN_FROM_HPARAMS
            }
            self.logger.log_hyperparameters(run.name, settings)
        self.bar = tqdm(
            total=run.max_steps,
            initial=run.step,
            unit=" steps",
            disable=None,  # where standard error is not a terminal
            dynamic_ncols=True,
        )

    def step(self, step, loss, info):
        """Moves the progress bar; logs an episode at its end, when it is time to.

        Args:
            step: training step, counted from 1.
            loss: of the newest update, a float; None before the first.
            info: dict of `env.step`, which at the end of an episode has its statistics.
        """
        self.newest_step = step
        self.bar.update()
        if "episode" in info:
            self.episode += 1
            self.episode_return = float(info["episode"]["r"])
            if step - self.last_logged_step >= self.log_every:
                self.last_logged_step = step
                self._log_episode(step, loss, info["episode"])
            self.evaluation_seconds = 0.0

    def _log_episode(self, step, loss, statistics):
        episode_steps = statistics["l"]
        seconds = max(statistics["t"] - self.evaluation_seconds, 1e-6)
        memory = find_memory()
        scalars = {
            "episode_return": self.episode_return,
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
            f"return {self.episode_return:.1f} in {seconds:.2f}s "
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

    def evaluation(self, step, episode_return_avg, episodes, avg_max_q_value):
        """Prints and logs the results of an evaluation at training step `step`.

        Args:
            step: training step.
            episode_return_avg: mean return, a float.
            episodes: number of episodes in the mean, an int.
            avg_max_q_value: mean of the highest Q-values, a float.
        """
        results = {"episode_return_avg": episode_return_avg, "avg_max_q_value": avg_max_q_value}
        self.logger.log(step, **results)
        tqdm.write(
            f"episode {self.episode} step {step} episode_return_avg {episode_return_avg:.3f} "
            f"avg_max_q_value {avg_max_q_value:.3f} {over_episodes(episodes)}"
        )

    def get_state(self):
        """Returns the counts from which a resumed training continues: a dict of ints.

        Before it returns, the curves are written to the disk: a checkpoint must not be newer.
        """
        if self.logger is not None:
            self.logger.sync()
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
            if self.newest_step == self.max_steps:
                self.logger.log_success()
            self.logger.close()
