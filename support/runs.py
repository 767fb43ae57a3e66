"""A training run as a whole: its directory, where it stands, and how it is stopped and resumed."""

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
from tqdm import tqdm

from support.checkpoints import write_checkpoint
from support.errors import WrongInput
from support.files import PARTIAL, lock, unlock
from support.options import ENV


class Evaluation(NamedTuple):
    """What one evaluation found; `seconds` is the training time up to it."""

    step: int
    episode_return_avg: float
    avg_max_q_value: float
    seconds: float


class Variables:
    """The numbers of a network or an optimizer, as a part of a run's state.

    Args:
        variables: list of Keras variables.
    """

    def __init__(self, variables):
        self.variables = variables

    def get_state(self):
        """Their values: a dict of arrays."""
        return {str(i): np.asarray(variable) for i, variable in enumerate(self.variables)}

    def set_state(self, state):
        """Takes what `get_state` has given; raises ValueError if it doesn't fit."""
        shapes = [variable.shape for variable in self.variables]
        others = [array.shape for array in state.values()]
        if shapes != others:
            raise ValueError(f"arrays of the shapes {others}, where this program's are {shapes}")
        for variable, array in zip(self.variables, state.values(), strict=True):
            variable.assign(array)


class Run:
    """A training run, from its first step or a checkpoint until its end or Ctrl-C.

    As a context manager it lets Ctrl-C and SIGTERM stop the run after the step that it is at (a
    second one ends the program at once), and says in the end how to go on or to watch the result.

    Args:
        args: what `parse_args` returns.

    Attributes:
        logdir: directory of the run, NAME-log.
        name: its name.
        settings: dict of the numbers and strings that it is started with.
        step: the training step that it is at, counted from 1.
        last: whether that is the last one.
        evaluations: list of `Evaluation`s so far.
        validation_observations: array over which avg_max_q_value is taken; None before it is drawn.
    """

    def __init__(self, args):
        self.settings = args.settings
        self.max_steps = args.max_steps
        self.checkpoint_every = args.checkpoint_every
        self.on_checkpoint = args.on_checkpoint
        self.name = args.name
        self.logdir, self.lock, self.state = args.resume, args.lock, args.state
        self.resumed = args.resume is not None
        self.step = self.saved_step = 0
        self.last = False
        self.stop_signal = None
        self.log = None  # until it has begun
        self.evaluations = []
        self.validation_observations = None
        self.started = time.perf_counter()

    def begin(self, env, model, target_model, replay_buffer, log):
        """Makes the run's directory, or brings everything to the state of its checkpoint.

        Args:
            env: `Replayable` environment in which the agent learns.
            model, target_model: Keras models.
            replay_buffer: `ReplayBuffer`.
            log: `TrainingLog`, which begins.

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
            self._restore()
            print(f"Resumed {self.logdir} at step {self.step}")
        else:
            env.reset()
            self._create()
            print(f"Created {self.logdir}")
        log.begin(self)
        self.log = log
        return env.observation

    def steps(self):
        """Yields the numbers of the training steps to do."""
        while not self.last:
            self.last = self.step + 1 >= self.max_steps or self.stop_signal is not None
            self.step += 1
            yield self.step

    def add_evaluation(self, step, episode_return_avg, avg_max_q_value):
        """Notes an evaluation, floats; the next checkpoint holds it."""
        seconds = time.perf_counter() - self.started
        self.evaluations.append(
            Evaluation(step, episode_return_avg, float(avg_max_q_value), seconds)
        )

    @property
    def best(self):
        """The first `Evaluation` with the highest average return; one of step 0 before any."""
        known = [e for e in self.evaluations if np.isfinite(e.episode_return_avg)]
        nothing = Evaluation(0, -np.inf, np.nan, 0.0)
        return max(known, key=lambda e: e.episode_return_avg, default=nothing)

    def end_step(self, done):
        """Writes a checkpoint when it is time to: at the end of an episode, and of the run."""
        every = self.checkpoint_every
        if self.last or (done and self.step // every > self.saved_step // every):
            self.save()

    def save(self):
        """Writes the checkpoint.

        Raises:
            FloatingPointError: the network's weights are not finite.
            OSError: the file can't be written.
        """
        state = {name: part.get_state() for name, part in self.parts.items()}
        if not all(np.isfinite(weights).all() for weights in state["model"].values()):
            raise FloatingPointError(f"the weights are not finite at step {self.step}")
        if self.log:
            self.log.sync()  # a checkpoint stands on curves that are on the disk
        write_checkpoint(self.logdir, state)
        self.saved_step = self.step
        if self.on_checkpoint and self.step:
            self.on_checkpoint(self.step)

    def get_state(self):
        """What the run itself adds to its checkpoint: a dict of arrays and JSON values."""
        return {
            "settings": self.settings,
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
        """Makes the directory of a new run, with a first checkpoint."""
        start = time.strftime("%m-%d-%H-%M")
        others = (f"{start}-{number}" for number in itertools.count(2))
        for name in [self.name] if self.name else itertools.chain([start], others):
            logdir = f"{name}-log"
            # Renamed when it is complete: a run can be resumed from its first instant on.
            self.name, self.logdir = name, f".{logdir}-{secrets.token_hex(8)}"
            try:
                if os.path.lexists(logdir):
                    continue
                os.mkdir(self.logdir)
                self.lock = lock(self.logdir)
                self.save()
                os.rename(self.logdir, logdir)
                self.logdir = logdir
                return
            except OSError as error:
                if not os.path.lexists(logdir):  # else another program was sooner
                    raise WrongInput(
                        f"{logdir} can't be made: {error.strerror or error}"
                    ) from error
            finally:
                if self.logdir != logdir:
                    unlock(self.lock)
                    self.lock = None
                    shutil.rmtree(self.logdir, ignore_errors=True)
        raise WrongInput(f"--name {name}: {logdir} exists; choose another name")

    def _restore(self):
        """Gives every part its state; clears away what a kill has left behind."""
        for name, part in self.parts.items():
            try:
                part.set_state(self.state[name])
            except Exception as error:  # whatever the state of something else leads to
                reason = str(error) if type(error) is ValueError else repr(error)
                raise WrongInput(f"{self.logdir} can't be resumed: its {name}: {reason}") from error
        env, size = self.parts["env"], self.settings["q_validation_size"]
        drawn = (size, *env.observation_space.shape) if self.step >= size else ()
        transitions = self.parts["replay_buffer"].transitions
        for fits in (
            self.parts["replay_buffer"].added == self.step,
            np.isin(transitions["actions"], range(env.action_space.n)).all(),
            np.shape(self.validation_observations) == drawn,
        ):
            if not fits:
                raise WrongInput(f"{self.logdir} can't be resumed: its parts don't fit together")
        for filename in os.listdir(self.logdir):
            if filename.endswith((f"{PARTIAL}.h5", f"{PARTIAL}.npz")):
                os.remove(os.path.join(self.logdir, filename))

    def __enter__(self):
        main = threading.current_thread() is threading.main_thread()  # others can't handle signals
        self.handlers = {
            number: signal.signal(number, self._receive)
            for number in ((signal.SIGINT, signal.SIGTERM) if main else ())
        }
        return self

    def _receive(self, number, frame):
        if self.stop_signal:
            os._exit(128 + number)
        self.stop_signal = number
        tqdm.write("\nStopping; once more to leave at once, without saving.")

    def __exit__(self, kind, error, trace):
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        if self.log:
            self.log.close()
        unlock(self.lock)
        if kind is FloatingPointError:
            where = f"the last good checkpoint is {self.logdir}'s of step {self.saved_step}"
            raise FloatingPointError(f"{error}; {where}") from error
        if kind is None and self.step < self.max_steps:
            print(f"Stopped. To go on: python run.py --resume {shlex.quote(self.logdir)}")
            sys.exit(128 + self.stop_signal)
        if kind is None and self.best.step:
            model = shlex.quote(os.path.join(self.logdir, f"{self.name}-best.h5"))
            env = "" if self.settings["env"] == ENV else f" --env {self.settings['env']}"
            print(
                f"The best evaluation was that of step {self.best.step}, with "
                f"episode_return_avg {self.best.episode_return_avg:.3f}. To watch it:\n"
                f"python run.py --model {model}{env} --view"
            )
