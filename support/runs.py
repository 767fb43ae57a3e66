"""A run as a whole: its directory, its state, and how it is stopped and resumed."""

import contextlib
import itertools
import math
import os
import shutil
import signal
import sys
import threading
import time
from glob import escape, glob

import keras
import numpy as np
from tqdm import tqdm

from support.checkpoints import Evaluation, encode, holds_a_run, write_checkpoint
from support.environments import NOT_REPRODUCIBLE, why_not_drawn
from support.errors import BrokenEnvironment, Diverged, WrongInput, describe
from support.files import PARTIAL, lock, quote
from support.system import stop_signals, write_in_handler


def over_episodes(count):
    """Over how many episodes an average is taken, as in "over 98 episodes"."""
    return f"over {count} episode{'' if count == 1 else 's'}"


def is_prompt():
    """Whether the program is a Python prompt or a notebook."""
    return hasattr(sys, "ps1")


def command(words):
    """What starts the program again; in a prompt, a call that keeps what was changed there."""
    if is_prompt():
        return f"run.main(run.options.read({words!r}))"
    return f"python {quote(sys.argv[0])} {words}"


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


class Run:
    """A run, from its first step or its checkpoint up to its end or Ctrl-C.

    In a `with` statement, Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 end it after the next step (a second
    Ctrl-C ends the program immediately), and it says how to continue or how to watch what it has
    learned.

    Args:
        options: `Options` with the name of the run, for its directory NAME-log, or None for the
            local time; its seed; its settings, as they are now; and the `StoppedRun` to continue,
            or None for a new run.
        max_steps: last step.
        checkpoint_every: steps between checkpoints.
        on_checkpoint: function that is called with the step after each checkpoint but the first, of
            step 0; or None.

    Attributes:
        name: name of the run.
        seed: seed of all that is random in it, an int.
        max_steps: as above.
        settings: dict of names to numbers, strings and bools, which is recorded with the run and in
            its snapshots: the constants in lower case, `env`, `seed` and `model`.
        logdir: its directory.
        is_resumed: whether it continues from a checkpoint.
        step: the present training step, or the last one, counted from 1; 0 before the first.
        is_interrupted: whether it is to end, after Ctrl-C.
        log: the part of that name, a `TrainingLog`; None before `start`.
        evaluations: list of `Evaluation`s so far.
        validation_observations: array over which avg_max_q_value is taken; None before it is drawn.
    """

    def __init__(self, options, max_steps, checkpoint_every, on_checkpoint=None):
        stopped_run = options.stopped_run
        self.name = options.name
        self.seed = options.seed
        self.max_steps = max_steps
        self.settings = options.settings
        self.logdir = stopped_run.logdir if stopped_run else None
        self.is_resumed = stopped_run is not None
        self.log = None
        self.evaluations = []
        self.validation_observations = None
        self._checkpoint_every = checkpoint_every
        self._on_checkpoint = on_checkpoint
        self._state = stopped_run.state if stopped_run else None
        self._lock = stopped_run.lock if stopped_run else None
        self._parts = {}
        self._saved_parts = {}  # those whose state is saved, and the run itself
        self._unsaved_parts = {}  # the others: their names, and why their state isn't saved
        self.step = self._saved_step = 0
        self._first_return = None
        self._started = time.perf_counter()  # later by what isn't training
        self._stop_signal = None

    @property
    def is_interrupted(self):
        return self._stop_signal is not None

    def start(self, **parts):
        """Makes the directory of a new run, or restores every part from its checkpoint.

        Args:
            parts: by name, all that changes during a run. Each is a Keras model or optimizer,
                or has `get_state`, which returns a dict of names to arrays and JSON values, and
                `set_state`, which takes that. Without them, it can't be resumed, and says so.
                `env` must be among them, and `log`, a `TrainingLog`.

        Raises:
            WrongInput: NAME-log exists or can't be made, or the checkpoint doesn't fit.
            OSError: a file can't be written.
        """
        self._parts = parts
        self.log = parts["log"]
        self._saved_parts = {"run": self}
        for name, part in parts.items():
            if isinstance(part, (keras.Model, keras.optimizers.Optimizer)):
                part = Variables(part.variables)
            if hasattr(part, "get_state") and hasattr(part, "set_state"):
                self._saved_parts[name] = part
            else:
                self._leave_unsaved(name, "it has no get_state and set_state")
        if self.is_resumed:
            self._restore()
            print(f"Resumed {self.logdir} at step {self.step}")
        else:
            self._create()
            print(f"Created {self.logdir}")
        self.log.begin(self)

    def add_evaluation(self, step, episode_return_avg, episodes, avg_max_q_value):
        """Stores and logs the result of an evaluation.

        Args:
            step: training step.
            episode_return_avg: mean return, a float.
            episodes: over how many episodes, an int.
            avg_max_q_value: mean of the highest Q-values, a float.

        Returns:
            Whether it is the best so far, a bool.
        """
        seconds = time.perf_counter() - self._started
        avg_max_q_value = float(avg_max_q_value)
        found = Evaluation(step, episode_return_avg, avg_max_q_value, seconds, episodes)
        self.evaluations.append(found)
        self.log.evaluation(step, episode_return_avg, episodes, avg_max_q_value)
        return self.best is found

    @contextlib.contextmanager
    def paused(self):
        """Hides the progress bar; what is done inside doesn't count as time of training."""
        with self.log.paused(), self._clock_stopped():
            yield

    @contextlib.contextmanager
    def _clock_stopped(self):
        start = time.perf_counter()
        try:
            yield
        finally:
            self._started += time.perf_counter() - start

    @property
    def best(self):
        """The first `Evaluation` with the highest mean return; None without one."""
        known = [found for found in self.evaluations if np.isfinite(found.episode_return_avg)]
        return max(known, key=lambda found: found.episode_return_avg, default=None)

    def steps(self):
        """Yields the training steps, from where the run stands; writes checkpoints between them.

        It ends after the last step, or after the present one when Ctrl-C is pressed. A checkpoint
        is written, every so many steps, at the end of an episode; where episodes are longer than
        that, in the middle of one. The last one is written when the `with` block ends.
        """
        while self.step < self.max_steps and not self.is_interrupted:
            episode = self.log.episode
            self.step += 1
            yield self.step
            is_episode_end = self.log.episode > episode
            if is_episode_end:
                self._check_episode()
            every = self._checkpoint_every
            is_due = self.step // every > self._saved_step // every
            is_late = self.step - self._saved_step >= 2 * every
            if is_late or (is_due and is_episode_end):
                with self._clock_stopped():
                    self._save()

    def _check_episode(self):
        """At the end of an episode: notices early what keeps the run from being resumed."""
        if self._first_return is None:
            self._first_return = self.log.episode_return
            self._collect()  # so that what can't be saved is reported early
        if "env" not in self._unsaved_parts and not self._parts["env"].is_reproducible():
            self._leave_unsaved("env", NOT_REPRODUCIBLE)

    def get_state(self):
        """Returns what a resumed run needs: a dict of arrays and JSON values."""
        observations = self.validation_observations
        if observations is not None:
            observations = np.asarray(observations)
        return {
            "settings": self.settings,
            "name": self.name,
            "step": self.step,
            "seconds": time.perf_counter() - self._started,
            "first_return": self._first_return,
            "evaluations": np.array(self.evaluations, float).reshape(-1, 5),
            "validation_observations": observations,
        }

    def set_state(self, state):
        """Restores a state returned by `get_state`; raises ValueError if it doesn't fit."""
        self.name = state["name"]
        self.step = self._saved_step = state["step"]
        self._started = time.perf_counter() - state["seconds"]
        self._first_return = state["first_return"]
        self.evaluations = state["evaluations"]
        observations = self.validation_observations = state["validation_observations"]
        if observations is None:
            if self.step >= self.settings.get("q_validation_size", math.inf):
                raise ValueError("its validation observations are missing")
        else:
            space = self._parts["env"].observation_space
            if observations.shape[1:] != space.shape or observations.dtype.kind not in "biuf":
                raise ValueError("its validation observations are not those of its environment")

    def _collect(self):
        """The states of all parts that can give theirs, encoded: dict of dicts of arrays."""
        states = {}
        for name, part in self._saved_parts.items():
            try:
                state = part.get_state()
            except Exception as error:  # of any kind, from somebody's own part
                if part is self or (part is self.log and isinstance(error, OSError)):
                    raise  # for the second, the curves can't be written to the disk
                is_plain = type(error) is ValueError
                self._leave_unsaved(
                    name, error if is_plain else f"its get_state fails with {describe(error)}"
                )
                continue
            try:
                states[name] = encode(state)
            except TypeError as error:
                self._leave_unsaved(name, f"in what its get_state returns, {error}")
        return states

    def _save(self):
        """Writes a checkpoint; raises `Diverged` where weights are not finite, or OSError."""
        states = self._collect()
        weights = states.get("model", {}).values()
        if not all(np.isfinite(array).all() for array in weights if array.dtype.kind == "f"):
            raise Diverged(f"the weights are not finite at step {self.step}")
        write_checkpoint(self.logdir, states, self._unsaved_parts)
        self._saved_step = self.step
        if self._on_checkpoint and self.step:
            self._on_checkpoint(self.step)

    def _leave_unsaved(self, name, reason):
        """Notes that the state of a part can't be saved; says once what follows from that."""
        if name not in self._unsaved_parts:
            self._unsaved_parts[name] = f"the state of {name} is not saved, for {reason}"
            tqdm.write(f"This run can't be resumed: {self._unsaved_parts[name]}.")

    def _create(self):
        """Makes the directory of a new run, with a first checkpoint."""
        for name in self._names():
            self.name, self.logdir = name, f"{name}-log"
            try:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(self.logdir)  # by one program, if several try
                if not holds_a_run(self.logdir):
                    self._lock = lock(self.logdir)
                    self._save()
                    return
            except WrongInput:
                continue  # another program was faster
            except OSError as error:
                raise WrongInput(
                    f"{self.logdir} can't be made: {error.strerror or error}"
                ) from error
        raise WrongInput(f"--name {self.name}: {self.logdir} exists; choose another name")

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
        """Gives every part its state; removes what a kill has left behind."""
        for name, part in self._saved_parts.items():
            try:
                part.set_state(self._state[name])
            except Exception as error:  # of any kind, from the state of something else
                reason = error if type(error) is ValueError else describe(error)
                raise WrongInput(f"{self.logdir} can't be resumed: its {name}: {reason}") from error
        for filename in os.listdir(self.logdir):
            if filename.endswith((f"{PARTIAL}.h5", f"{PARTIAL}.npz")):
                os.remove(os.path.join(self.logdir, filename))

    def __enter__(self):
        self._handlers = {}
        if threading.current_thread() is threading.main_thread():  # the only one to get signals
            for number in stop_signals():
                self._handlers[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, number, frame):
        now = time.monotonic()
        if self.is_interrupted:
            # Within a second, it is the same one: some programs send theirs to a group and to all
            # in it. Schedulers send several kinds, and kill in the end what doesn't stop.
            if number == signal.SIGINT and now - self._stopped_at > 1:
                if is_prompt():
                    raise KeyboardInterrupt
                os._exit(128 + number)
            return
        self._stop_signal = number
        self._stopped_at = now
        write_in_handler(
            b"\nStopping after this step; press Ctrl-C again to quit without saving.\n"
        )

    def __exit__(self, kind, error, trace):
        if error is None and self.step > self._saved_step:
            try:
                self._save()
            except Exception as failure:
                self._leave(failure)
                raise
        self._leave(error)

    def _leave(self, error):
        """Closes all parts; prints the last line, which says what to do next."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for part in self._parts.values():
            if callable(getattr(part, "close", None)):
                part.close()
        if self._lock:
            self._lock.release()
        if error is not None:
            self._clean_up(error)
        elif self.is_interrupted and self.step < self.max_steps:
            self._print_resume_hint()
            raise KeyboardInterrupt(self._stop_signal)
        elif self.evaluations:
            self._print_result()

    def _clean_up(self, error):
        """After an exception: removes a directory in which nothing was saved; says what is left."""
        if self.logdir is None:  # before it has begun
            return
        is_mine = self._lock is not None and not self.is_resumed
        if is_mine and self._saved_step == 0 and not glob(f"{escape(self.logdir)}/*.h5"):
            shutil.rmtree(self.logdir, ignore_errors=True)
            left = f"nothing was saved yet, so {self.logdir} is removed"
            if not isinstance(error, (Diverged, BrokenEnvironment)):
                print(f"Nothing was saved yet, so {self.logdir} is removed.")
        else:
            left = f"the last good checkpoint is {self.logdir}'s of step {self._saved_step}"
            is_own_mistake = not isinstance(error, (Diverged, WrongInput))
            if self._saved_step > 0 and not self._unsaved_parts and is_own_mistake:
                print(
                    f"To continue from step {self._saved_step}, once that is fixed: "
                    f"{command(f'--resume {quote(self.logdir)}')}"
                )
        if isinstance(error, Diverged):
            raise Diverged(f"{error}; {left}") from error
        if isinstance(error, BrokenEnvironment):
            raise BrokenEnvironment(f"{error} at step {self.step}; {left}") from error

    def _print_resume_hint(self):
        """The last line of a run that was stopped."""
        if self._unsaved_parts:
            print("Stopped.")
        else:
            print(f"Stopped. To continue: {command(f'--resume {quote(self.logdir)}')}")

    def _print_result(self):
        """The last line: the best policy, whether it solves the problem, and how to watch it."""
        best = self.best
        if best is None:
            print(
                "No episode ended in an evaluation: raise EVAL_STEPS, or give the environment a "
                "time limit."
            )
            return
        average = f"episode_return_avg {best.episode_return_avg:.3f} {over_episodes(best.episodes)}"
        line = f"Best: {average} at step {best.step}"
        if self._first_return is not None and best.episode_return_avg <= self._first_return:
            print(
                f"{line}, no better than the first episode of the run ({self._first_return:.1f}). "
                "Train longer, or change a setting."
            )
            return
        spec = self._parts["env"].spec
        threshold = spec.reward_threshold if spec else None
        if threshold is not None:
            solves = "solves" if best.episode_return_avg >= threshold else "doesn't solve"
            line += f", which {solves} the problem (the threshold is {threshold:g})"
        model = quote(os.path.join(self.logdir, f"{self.name}-best.h5"))
        look = "--eval" if why_not_drawn(self._parts["env"]) else "--view"
        env_id = self.settings.get("env", "")
        env = f" --env {env_id}" if ":" in env_id else ""
        verb = "watch" if look == "--view" else "evaluate"
        print(f"{line}. To {verb} it: {command(f'--model {model}{env} {look}')}")
