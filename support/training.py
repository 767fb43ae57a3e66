"""A training as a whole: its directory, its state, and how it is stopped and resumed."""

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
from glob import escape, glob
from typing import NamedTuple

import keras
import numpy as np
from tqdm import tqdm

from support.checkpoints import encode, write_checkpoint
from support.environments import can_be_drawn
from support.errors import WrongInput, describe
from support.files import PARTIAL, lock


class Evaluation(NamedTuple):
    """The result of an evaluation; `seconds` is the training time up to it."""

    step: int
    episode_return_avg: float
    avg_max_q_value: float
    seconds: float


class Variables:
    """The numbers of a network or an optimizer, a list of Keras variables, as a part of a run."""

    def __init__(self, variables):
        self.variables = variables

    def get_state(self):
        """Returns their values: a dict of arrays."""
        return {str(i): np.asarray(variable) for i, variable in enumerate(self.variables)}

    def set_state(self, state):
        """Restores a state returned by `get_state`; raises ValueError if it doesn't fit."""
        shapes = [value.shape for value in state.values()]
        own_shapes = [variable.shape for variable in self.variables]
        if shapes != own_shapes:
            raise ValueError(f"it has the shapes {shapes}, and this program's has {own_shapes}")
        if not all(np.isfinite(value).all() for value in state.values()):
            raise ValueError("its numbers are not finite")
        for variable, value in zip(self.variables, state.values(), strict=True):
            variable.assign(value)


class Training:
    """A training, from its first step or its checkpoint up to its end or Ctrl-C.

    In a `with` statement, Ctrl-C and SIGTERM end it after the next step (a second one ends the
    program immediately), and it says how to continue or how to watch what it has learned.

    Args:
        args: what `parse_args` returns.
        max_steps: last step.
        checkpoint_every: steps between checkpoints.

    Attributes:
        logdir, name: its directory, NAME-log, and its name.
        seed, settings: its seed; all that is recorded of it, a dict.
        is_resumed: whether it goes on from a checkpoint.
        is_interrupted: whether it is to end, after Ctrl-C.
        first_step: training step at which it begins or goes on, counted from 1.
        evaluations: list of `Evaluation`s so far.
        validation_observations: array over which avg_max_q_value is taken; None before it is drawn.
    """

    def __init__(self, args, max_steps, checkpoint_every):
        self.name = args.name
        self.logdir = args.resume
        self.is_resumed = args.resume is not None
        self.seed = args.seed
        self.settings = args.settings
        self.max_steps = max_steps
        self.evaluations = []
        self.validation_observations = None
        self._checkpoint_every = checkpoint_every
        self._on_checkpoint = args.on_checkpoint
        self._state = args.state
        self._lock = args.lock
        self._parts = {}
        self._missing = {}
        self._step = self._saved_step = 0
        self._first_return = None
        self._started = time.perf_counter()
        self._stop_signal = None

    @property
    def first_step(self):
        return self._step + 1

    @property
    def is_interrupted(self):
        return self._stop_signal is not None

    def start(self, **parts):
        """Makes the directory of a new training, or restores every part from its checkpoint.

        Args:
            parts: by name, all that changes during a training. Each is a Keras model or optimizer,
                or has `get_state`, which returns a dict of names to arrays and JSON values, and
                `set_state`, which takes that. Without them, it can't be resumed, and says so.
                `env` must be among them, and `log`, a `TrainingLog`.

        Raises:
            WrongInput: NAME-log exists or can't be made, or the checkpoint doesn't fit.
            OSError: a file can't be written.
        """
        self._parts = parts
        self._savers = {"run": self}
        for name, part in parts.items():
            is_keras = isinstance(part, (keras.Model, keras.optimizers.Optimizer))
            self._savers[name] = Variables(part.variables) if is_keras else part
        if self.is_resumed:
            self._restore()
            print(f"Resumed {self.logdir} at step {self._step}")
        else:
            self._create()
            print(f"Created {self.logdir}")
        parts["log"].begin(self)

    def add_evaluation(self, step, episode_return_avg, avg_max_q_value):
        """Stores and logs the result of an evaluation.

        Args:
            step: training step.
            episode_return_avg: mean return, a float.
            avg_max_q_value: mean of the highest Q-values, a float.

        Returns:
            Whether it is the best so far, a bool.
        """
        seconds = time.perf_counter() - self._started
        found = Evaluation(step, episode_return_avg, float(avg_max_q_value), seconds)
        self.evaluations.append(found)
        self._parts["log"].evaluation(step, episode_return_avg, found.avg_max_q_value)
        return self.best is found

    @property
    def best(self):
        """The first `Evaluation` with the highest mean return; None without one."""
        known = [found for found in self.evaluations if np.isfinite(found.episode_return_avg)]
        return max(known, key=lambda found: found.episode_return_avg, default=None)

    def end_step(self, step, info, is_last_step):
        """Takes note that a step is over; writes a checkpoint when one is due.

        That is at the last step and, every so many steps, at the end of an episode.

        Args:
            step: training step.
            info: dict of `env.step`, which at the end of an episode has its statistics.
            is_last_step: whether no other follows.
        """
        self._step = step
        every = self._checkpoint_every
        is_episode_end = "episode" in info
        if is_episode_end and self._first_return is None:
            self._first_return = float(info["episode"]["r"])
            self._collect()  # so that what can't be saved is told early
        if is_last_step or (is_episode_end and step // every > self._saved_step // every):
            self._save()

    def get_state(self):
        """Returns what a resumed training needs: a dict of arrays and JSON values."""
        observations = self.validation_observations
        if observations is not None:
            observations = np.asarray(observations)
        return {
            "settings": self.settings,
            "name": self.name,
            "step": self._step,
            "seconds": time.perf_counter() - self._started,
            "first_return": self._first_return,
            "evaluations": np.array(self.evaluations, float).reshape(-1, 4),
            "validation_observations": observations,
        }

    def set_state(self, state):
        """Restores a state returned by `get_state`; raises ValueError if it doesn't fit."""
        self.name = state["name"]
        self._step = self._saved_step = state["step"]
        self._started = time.perf_counter() - state["seconds"]
        self._first_return = state["first_return"]
        self.evaluations = [
            Evaluation(int(step), *others) for step, *others in state["evaluations"].tolist()
        ]
        self.validation_observations = state["validation_observations"]
        if self.validation_observations is not None:
            space = self._parts["env"].observation_space
            observations = self.validation_observations
            if observations.shape[1:] != space.shape or observations.dtype.kind not in "biuf":
                raise ValueError("its validation observations are not those of its environment")

    def _collect(self):
        """The states of all parts that can give theirs, encoded: dict of dicts of arrays."""
        state = {}
        for name, part in self._savers.items():
            try:
                if not (hasattr(part, "get_state") and hasattr(part, "set_state")):
                    self._give_up(name, "it has no get_state and set_state")
                    continue
                found = part.get_state()
            except Exception as error:  # whatever somebody's own part leads to
                if part is self._parts["log"] and isinstance(error, OSError):
                    raise  # its curves can't be written to the disk
                self._give_up(name, f"its get_state fails with {describe(error)}")
                continue
            try:
                state[name] = encode(found)
            except TypeError as error:
                self._give_up(name, f"in what its get_state returns, {error}")
        return state

    def _save(self):
        """Writes a checkpoint; raises FloatingPointError where weights are not finite, OSError."""
        state = self._collect()
        weights = state.get("model", {}).values()
        if not all(np.isfinite(array).all() for array in weights if array.dtype.kind == "f"):
            raise FloatingPointError(f"the weights are not finite at step {self._step}")
        write_checkpoint(self.logdir, state, self._missing)
        self._saved_step = self._step
        if self._on_checkpoint and self._step:
            self._on_checkpoint(self._step)

    def _give_up(self, name, reason):
        """Remembers a part whose state can't be saved; says once what follows from that."""
        if name not in self._missing:
            self._missing[name] = f"the state of {name} is not saved, for {reason}"
            tqdm.write(f"This run can't be resumed: {self._missing[name]}.")

    def _create(self):
        """Makes the directory of a new run: complete, with a first checkpoint, or not at all."""
        for name in self._names():
            logdir = f"{name}-log"
            if os.path.lexists(logdir):
                continue
            hidden = f".{logdir}-{secrets.token_hex(8)}"
            self.name, self.logdir = name, hidden
            try:
                os.mkdir(hidden)
                self._save()
                os.rename(hidden, logdir)
            except OSError as error:
                if os.path.lexists(logdir):  # another program was faster
                    continue
                raise WrongInput(f"{logdir} can't be made: {error.strerror or error}") from error
            finally:
                shutil.rmtree(hidden, ignore_errors=True)
            self.logdir = logdir
            self._lock = lock(logdir)
            return
        raise WrongInput(f"--name {self.name}: {self.name}-log exists; choose another name")

    def _names(self):
        """Yields the names to be tried: the one asked for, or the time, numbered if need be."""
        if self.name is not None:
            yield self.name
        else:
            now = time.strftime("%m-%d-%H-%M")
            yield now
            for number in itertools.count(2):
                yield f"{now}-{number}"

    def _restore(self):
        """Gives every part its state; clears away what a kill has left behind."""
        for name, part in self._savers.items():
            try:
                part.set_state(self._state[name])
            except Exception as error:  # whatever the state of something else leads to
                reason = error if type(error) is ValueError else describe(error)
                raise WrongInput(f"{self.logdir} can't be resumed: its {name}: {reason}") from error
        for filename in os.listdir(self.logdir):
            if filename.endswith((f"{PARTIAL}.h5", f"{PARTIAL}.npz")):
                os.remove(os.path.join(self.logdir, filename))

    def __enter__(self):
        self._handlers = {}
        if threading.current_thread() is threading.main_thread():  # the only one to get signals
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, number, frame):
        if self.is_interrupted:
            os._exit(128 + number)
        self._stop_signal = number
        with contextlib.suppress(OSError):  # not print, which may be at work at this moment
            os.write(1, b"\nStopping after this step; press Ctrl-C again to quit without saving.\n")

    def __exit__(self, kind, error, trace):
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for part in self._parts.values():
            if callable(getattr(part, "close", None)):
                part.close()
        if self._lock:
            self._lock.release()
        if kind is not None:
            self._clean_up(error)
        elif self.is_interrupted and self._step < self.max_steps:
            self._say_how_to_go_on()
            sys.exit(128 + self._stop_signal)
        elif self.best:
            self._say_what_was_learned()

    def _clean_up(self, error):
        """After an exception: removes a directory in which nothing was saved; says what is left."""
        is_mine = self._lock is not None and not self.is_resumed
        if is_mine and self._saved_step == 0 and not glob(f"{escape(self.logdir)}/*.h5"):
            shutil.rmtree(self.logdir, ignore_errors=True)
            left = f"nothing was saved yet, so {self.logdir} is removed"
            if not isinstance(error, FloatingPointError):
                print(f"Nothing was saved yet, so {self.logdir} is removed.")
        else:
            left = f"the last good checkpoint is {self.logdir}'s of step {self._saved_step}"
            is_own_mistake = not isinstance(error, (FloatingPointError, WrongInput))
            if self._saved_step > 0 and not self._missing and is_own_mistake:
                print(
                    f"To continue from step {self._saved_step}, once that is mended: "
                    f"python run.py --resume {shlex.quote(self.logdir)}"
                )
        if isinstance(error, FloatingPointError):
            raise FloatingPointError(f"{error}; {left}") from error

    def _say_how_to_go_on(self):
        if self._missing:
            print("Stopped.")
        else:
            print(f"Stopped. To continue: python run.py --resume {shlex.quote(self.logdir)}")

    def _say_what_was_learned(self):
        """The last line: the best policy, whether it solves the problem, and how to watch it."""
        best = self.best
        line = f"Best: episode_return_avg {best.episode_return_avg:.3f} at step {best.step}"
        if self._first_return is not None and best.episode_return_avg <= self._first_return:
            print(
                f"{line}, no better than the first episode of the training "
                f"({self._first_return:.1f}). Train longer, or change a setting."
            )
            return
        spec = self._parts["env"].spec
        threshold = spec.reward_threshold if spec else None
        if threshold is not None:
            solves = "solves" if best.episode_return_avg >= threshold else "doesn't solve"
            line += f", which {solves} the problem (the threshold is {threshold:g})"
        model = shlex.quote(os.path.join(self.logdir, f"{self.name}-best.h5"))
        look = "--view" if can_be_drawn(self._parts["env"]) else "--eval"
        env = f" --env {self.settings['env']}" if ":" in self.settings["env"] else ""
        verb = "watch" if look == "--view" else "evaluate"
        print(f"{line}. To {verb} it: python run.py --model {model}{env} {look}")
