"""A training run as a whole: its directory, where it stands, and how it is stopped and resumed."""

import contextlib
import itertools
import os
import secrets
import shlex
import shutil
import signal
import sys
import threading
import time
from typing import NamedTuple

import numpy as np

from support.checkpoints import write_checkpoint
from support.errors import WrongInput
from support.files import PARTIAL, lock
from support.options import ENV


class Evaluation(NamedTuple):
    """What an evaluation found; `seconds` is the training time up to it."""

    step: int
    episode_return_avg: float
    avg_max_q_value: float
    seconds: float


class Variables:
    """The numbers of a network or an optimizer, a list of Keras variables, as part of a run."""

    def __init__(self, variables):
        self.variables = variables

    def get_state(self):
        """Their values: a dict of arrays."""
        return {str(i): np.asarray(variable) for i, variable in enumerate(self.variables)}

    def set_state(self, state):
        """Takes what `get_state` has given; raises ValueError where it is something else."""
        own, other = [[v.shape for v in each] for each in (self.variables, state.values())]
        if own != other:
            raise ValueError(f"it has the shapes {other}, and this program's has {own}")
        if not all(np.isfinite(value).all() for value in state.values()):
            raise ValueError("its numbers are not finite")
        for variable, value in zip(self.variables, state.values(), strict=True):
            variable.assign(value)


class Run:
    """A training run, from its first step or its checkpoint up to its end or Ctrl-C.

    In a `with` statement, Ctrl-C and SIGTERM end it after the next step (a second one, the program
    at once), and it says how to go on or how to watch what it has learned.

    Args:
        args: what `parse_args` returns, which is its attribute, too.

    Attributes:
        logdir, name: its directory, NAME-log, and its name.
        step: training step that it is at, counted from 1.
        is_last_step: whether no other follows, at MAX_STEPS or after Ctrl-C.
        resumed: whether it goes on from a checkpoint.
        evaluations: list of `Evaluation`s so far.
        validation_observations: array over which avg_max_q_value is taken; None before it is drawn.
    """

    def __init__(self, args):
        self.args = args
        self.name, self.logdir, self.lock = args.name, args.resume, args.lock
        self.resumed = args.resume is not None
        self.step = self.saved_step = 0
        self.is_last_step = False
        self.evaluations = []
        self.validation_observations = None
        self.started = time.perf_counter()
        self.log = self.stop_signal = None

    def begin(self, env, model, target_model, replay_buffer, log):
        """Makes the run's directory, or brings everything to the state of its checkpoint.

        Args:
            env: `Replayable` environment in which the agent learns.
            model, target_model: Keras models.
            replay_buffer, log: `ReplayBuffer` and `TrainingLog`.

        Returns:
            The observation at which the agent begins or goes on.

        Raises:
            WrongInput: NAME-log exists or can't be made, or the checkpoint doesn't fit.
            OSError: a file can't be written.
        """
        self.parts = {
            "run": self,
            "env": env,
            "model": Variables(model.variables),
            "optimizer": Variables(model.optimizer.variables),
            "target_model": Variables(target_model.variables),
            "replay_buffer": replay_buffer,
            "log": log,
        }
        if self.resumed:
            self._restore(env, replay_buffer)
        else:
            env.reset()
            self._create()
        print(
            f"Resumed {self.logdir} at step {self.step}"
            if self.resumed
            else f"Created {self.logdir}"
        )
        log.begin(self)
        self.log = log
        return env.observation

    def steps(self):
        """Yields the numbers of the training steps to do."""
        while not self.is_last_step:
            self.is_last_step = self.step + 1 >= self.args.max_steps or self.stop_signal is not None
            self.step += 1
            yield self.step

    def add_evaluation(self, step, episode_return_avg, avg_max_q_value):
        """Remembers what an evaluation at a training step found, two floats."""
        seconds = time.perf_counter() - self.started
        found = Evaluation(step, episode_return_avg, float(avg_max_q_value), seconds)
        self.evaluations.append(found)

    @property
    def best(self):
        """The first `Evaluation` with the highest average return; one of step 0 before any."""
        known = [found for found in self.evaluations if np.isfinite(found.episode_return_avg)]
        none = Evaluation(0, -np.inf, np.nan, 0.0)
        return max(known, key=lambda found: found.episode_return_avg, default=none)

    def end_step(self, done):
        """Writes a checkpoint at the end of the run and, when it is time to, of an episode."""
        every = self.args.checkpoint_every
        if self.is_last_step or (done and self.step // every > self.saved_step // every):
            self.save()

    def save(self):
        """Writes a checkpoint; raises FloatingPointError where weights are not finite, OSError."""
        state = {name: part.get_state() for name, part in self.parts.items()}
        if not all(np.isfinite(weights).all() for weights in state["model"].values()):
            raise FloatingPointError(f"the weights are not finite at step {self.step}")
        if self.log:
            os.fsync(
                self.log.logger.file.fileno()
            )  # curves are on the disk before their checkpoint
        write_checkpoint(self.logdir, state)
        self.saved_step = self.step
        if self.args.on_checkpoint and self.step:
            self.args.on_checkpoint(self.step)

    def get_state(self):
        """What the run itself remembers: a dict of arrays and JSON values."""
        return {
            "settings": self.args.settings,
            "name": self.name,
            "step": self.step,
            "seconds": time.perf_counter() - self.started,
            "evaluations": np.array(self.evaluations, float).reshape(-1, 4),
            "validation_observations": self.validation_observations,
        }

    def set_state(self, state):
        """Takes what `get_state` has given."""
        self.name = state["name"]
        self.step = self.saved_step = state["step"]
        self.started = time.perf_counter() - state["seconds"]
        rows = state["evaluations"].tolist()
        self.evaluations = [Evaluation(int(step), *others) for step, *others in rows]
        self.validation_observations = state["validation_observations"]

    def _create(self):
        """Makes the directory of a new run: complete, with a first checkpoint, or not at all."""
        start, chosen = time.strftime("%m-%d-%H-%M"), self.name
        others = (f"{start}-{number}" for number in itertools.count(2))
        for self.name in [chosen] if chosen else itertools.chain([start], others):
            logdir = f"{self.name}-log"
            if os.path.lexists(logdir):
                continue
            self.logdir = f".{logdir}-{secrets.token_hex(8)}"
            try:
                os.mkdir(self.logdir)
                self.save()
                os.rename(self.logdir, logdir)
            except OSError as error:
                shutil.rmtree(self.logdir, ignore_errors=True)
                if os.path.lexists(logdir):  # another program was sooner
                    continue
                raise WrongInput(f"{logdir} can't be made: {error.strerror or error}") from error
            self.logdir, self.lock = logdir, lock(logdir)
            return
        raise WrongInput(f"--name {chosen}: {chosen}-log exists; choose another name")

    def _restore(self, env, replay_buffer):
        """Gives every part its state; clears away what a kill has left behind."""
        for name, part in self.parts.items():
            try:
                part.set_state(self.args.state[name])
            except Exception as error:  # whatever the state of something else leads to
                reason = error if type(error) is ValueError else repr(error)
                raise WrongInput(f"{self.logdir} can't be resumed: its {name}: {reason}") from error
        size, actions = self.args.q_validation_size, replay_buffer.transitions["actions"]
        drawn = (size, *env.observation_space.shape) if self.step >= size else ()
        if (
            replay_buffer.added != self.step
            or not np.isin(actions, range(env.action_space.n)).all()
            or np.shape(self.validation_observations) != drawn
            or (drawn and self.validation_observations.dtype != env.observation_space.dtype)
        ):
            raise WrongInput(f"{self.logdir} can't be resumed: its parts don't fit together")
        for filename in os.listdir(self.logdir):
            if filename.endswith((f"{PARTIAL}.h5", f"{PARTIAL}.npz")):
                os.remove(os.path.join(self.logdir, filename))

    def __enter__(self):
        main = threading.current_thread() is threading.main_thread()  # the only one to get signals
        numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
        self.handlers = {number: signal.signal(number, self._receive) for number in numbers}
        return self

    def _receive(self, number, frame):
        if self.stop_signal:
            os._exit(128 + number)
        self.stop_signal = number
        with contextlib.suppress(OSError):  # not print, which may be at work at this moment
            os.write(1, b"\nStopping; once more to leave at once, without saving.\n")

    def __exit__(self, kind, error, trace):
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        if self.log:
            self.log.close()
        if self.lock:
            self.lock.release()
        if kind is FloatingPointError:
            where = f"the last good checkpoint is {self.logdir}'s of step {self.saved_step}"
            raise FloatingPointError(f"{error}; {where}") from error
        if kind is None and self.step < self.args.max_steps:
            print(f"Stopped. To go on: python run.py --resume {shlex.quote(self.logdir)}")
            sys.exit(128 + self.stop_signal)
        if kind is None and self.best.step:
            model = shlex.quote(os.path.join(self.logdir, f"{self.name}-best.h5"))
            env = "" if self.args.env == ENV else f" --env {self.args.env}"
            print(
                f"Best: episode_return_avg {self.best.episode_return_avg:.3f} at step "
                f"{self.best.step}. To watch it: python run.py --model {model}{env} --view"
            )
