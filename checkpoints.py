"""Nothing is lost: a training run can be stopped or killed at any moment, and continued.

A checkpoint is one NumPy archive with the whole state of a run. Its numbers carry check sums, and
reading it runs no code. Files are written beside their place and renamed, so that one with a real
name is always complete.
"""

import contextlib
import errno
import importlib.metadata
import io
import itertools
import json
import os
import random
import shutil
import signal
import threading
import time
import zipfile

import gymnasium as gym
import numpy as np
from tqdm import tqdm

try:
    import fcntl
except ImportError:  # Windows, where two programs are not kept from one run
    fcntl = None

BEGINNING = 0, -np.inf, None, None  # step, best_return, episode_return_avg, validation observations
LIBRARIES = ("gymnasium", "keras", "numpy", "tensorflow")
CHECKPOINT = "checkpoint.npz"
PARTIAL = ".partial"


class CheckpointError(ValueError):
    """A run that can't be resumed; the message says why."""


def write_file(filename, content):
    """Writes a file in one instant: whatever happens, there is the old one or the new one.

    Args:
        filename: path of the file.
        content: bytes.

    Raises:
        OSError: it can't be written; an old one is as it was.
    """
    root, extension = os.path.splitext(filename)
    partial = f"{root}{PARTIAL}{extension}"
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, filename)
        if os.name == "posix":  # where the new name has to be synced, too
            directory = os.open(os.path.dirname(filename) or ".", os.O_RDONLY)
            os.fsync(directory)
            os.close(directory)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.remove(partial)
        raise OSError(f"{filename} can't be written: {error.strerror}") from error


class Episode(gym.Wrapper):
    """Remembers how the present episode came about, so that it can be played again.

    So a run can be resumed in the middle of an episode, although Gymnasium's environments don't
    give their inner state. It takes an environment whose randomness comes from its `np_random`.
    """

    def __init__(self, env):
        super().__init__(env)
        self.random_state = None  # of the environment, before the reset that began the episode
        self.actions = []

    def reset(self, *, seed=None, options=None):
        # Seeding is no episode yet: a run seeds its environment, then resets it for the first one.
        self.random_state = None if seed is not None else self._generator().state
        self.actions = []
        return self.env.reset(seed=seed, options=options)

    def get_state(self):
        """(random_state, actions) for `replay`; before the first episode, of that one's start."""
        return self.random_state or self._generator().state, self.actions

    def _generator(self):
        return self.unwrapped.np_random.bit_generator

    def step(self, action):
        self.actions.append(int(action))
        return self.env.step(action)

    def replay(self, random_state, actions):
        """Plays an episode again; returns the observation at which it had arrived."""
        self._generator().state = random_state
        observation, _ = self.reset()
        for action in actions:
            observation, *_ = self.step(action)
        return observation


class StopSignal:
    """Turns Ctrl-C and SIGTERM into a request to stop, while its `with` block runs.

    A second one ends the program at once. `signal` is the number of the first. In a thread other
    than the main one, where Python allows no signal handlers, it leaves them as they are.
    """

    requested = False

    def __enter__(self):
        main = threading.current_thread() is threading.main_thread()
        self.previous = {
            number: signal.signal(number, self._receive)
            for number in ((signal.SIGINT, signal.SIGTERM) if main else ())
        }
        return self

    def __exit__(self, *exception):
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _receive(self, number, frame):
        if self.requested:
            os._exit(128 + number)
        self.requested, self.signal = True, number
        tqdm.write("\nStopping; once more to leave at once, without saving.")


def lock(directory):
    """Locks a directory, until it is unlocked or this program ends, however it ends.

    Args:
        directory: path.

    Returns:
        File descriptor, which `os.close` unlocks.

    Raises:
        CheckpointError: another program has locked it.
        OSError: there is no such directory, or it can't be opened.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        if fcntl:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise CheckpointError(f"{directory} is in use by another program") from None
    return descriptor


def versions():
    """Versions of the libraries on which a run's exact numbers depend: a dict of strings."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def read_checkpoint(logdir):
    """Reads the checkpoint of a run.

    Args:
        logdir: directory of the run.

    Returns:
        (description, arrays): what is to be known of the run, a dict; and its NumPy arrays by name.

    Raises:
        CheckpointError: it is no directory of a run, or the file is damaged.
    """
    filename = os.path.join(logdir, CHECKPOINT)
    if not os.path.isfile(filename):
        raise CheckpointError(f"--resume {logdir}: there is no run to resume: no file {filename}")
    try:
        with zipfile.ZipFile(filename) as archive:
            if sum(member.file_size for member in archive.infolist()) > os.path.getsize(filename):
                raise ValueError("it claims more than it holds")
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f"the check sum of {damaged} is wrong")
        with np.load(filename, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        description = json.loads(str(arrays.pop("description")))
        if {name: str(array.dtype) for name, array in arrays.items()} != description["arrays"]:
            raise ValueError("its arrays are not those that it lists")
        return description, arrays
    except Exception as error:  # whatever a damaged file leads to
        raise CheckpointError(f"{filename} is damaged: {error}") from error


class Checkpoint:
    """The file with the whole state of a training run, in the run's directory.

    Args:
        settings: dict of the numbers and strings that the run is started with.
        every: steps between checkpoints.
        env: `Episode` in which the agent learns.
        model, target_model: Keras models.
        replay_buffer: `ReplayBuffer`.
        log: `TrainingLog`.
        on_save: function that is given this object after each `save` of a run; or None.
    """

    def __init__(self, settings, every, env, model, target_model, replay_buffer, log, on_save=None):
        self.settings = dict(settings)
        self.every = every
        self.env = env
        self.variables = {
            "model": model.variables,
            "optimizer": model.optimizer.variables,
            "target_model": target_model.variables,
        }
        self.replay_buffer = replay_buffer
        self.log = log
        self.on_save = on_save
        self.saved_step = 0
        self.logdir = None
        self.lock = None
        self.resumed = None

    def create_run(self, name=None):
        """Makes NAME-log, the directory of a new run, with a first checkpoint, and locks it.

        Args:
            name: name of the run; None for the local time, with a number added where that is taken.

        Raises:
            CheckpointError: NAME-log exists, or can't be made.
            OSError: the checkpoint can't be written.
        """
        start = time.strftime("%m-%d-%H-%M")
        others = (f"{start}-{number}" for number in itertools.count(2))
        for candidate in [name] if name else itertools.chain([start], others):
            if self._create(candidate):
                return
        raise CheckpointError(f"--name {name}: {name}-log exists; choose another name")

    def _create(self, name):
        if os.path.lexists(f"{name}-log"):
            return False
        # Renamed when it is complete: a run can be resumed from its first instant on.
        self.logdir = f".{name}-log-{os.getpid()}"
        try:
            os.mkdir(self.logdir)
        except OSError as error:
            raise CheckpointError(f"{name}-log can't be made: {error.strerror}") from error
        try:
            self.lock = lock(self.logdir)
            self.settings["name"] = name
            self.save(*BEGINNING)
            os.rename(self.logdir, f"{name}-log")
        except BaseException as error:
            shutil.rmtree(self.logdir, ignore_errors=True)
            self.close()
            if getattr(error, "errno", None) in (errno.EEXIST, errno.ENOTEMPTY):
                return False  # another program was sooner
            raise
        self.logdir = f"{name}-log"
        return True

    def where(self):
        """Says where the newest checkpoint is."""
        return f"the last good checkpoint is {self.logdir}'s of step {self.saved_step}"

    def is_due(self, step):
        """Whether a multiple of `every` steps has been reached since the last one was saved."""
        return step // self.every > self.saved_step // self.every

    def start(self):
        """Where the training loop begins.

        Returns:
            (step, best_return, episode_return_avg, validation_observations, observation): the first
            four as given to `save`, at the very beginning `BEGINNING`; and the observation at which
            the agent goes on.
        """
        if self.resumed:
            return self.resumed
        observation, _ = self.env.reset()
        return *BEGINNING, observation

    def save(self, step, best_return, episode_return_avg, validation_observations):
        """Writes the checkpoint.

        Args:
            step: training steps done.
            best_return: highest average return of an evaluation so far; -inf before the first.
            episode_return_avg: average return of the last evaluation; None before the first.
            validation_observations: array of them; None before they are drawn.

        Raises:
            FloatingPointError: the network's weights are not finite.
            OSError: the file can't be written.
        """
        for variable in self.variables["model"]:
            if not np.isfinite(variable.numpy()).all():
                raise FloatingPointError(
                    f"the weights are not finite at step {step}; {self.where()}"
                )
        random_state, actions = self.env.get_state()
        numpy_random = np.random.get_state(legacy=False)
        numpy_random["state"]["key"] = numpy_random["state"]["key"].tolist()
        description = {
            "settings": self.settings,
            "versions": versions(),
            "step": step,
            "best_return": best_return,
            "episode_return_avg": episode_return_avg,
            "log": self.log.get_state(),
            "episode_random": random_state,
            "action_random": self.env.action_space.np_random.bit_generator.state,
            "python_random": random.getstate(),
            "numpy_random": numpy_random,
        }
        arrays = {
            "episode_actions": np.array(actions, np.int64),
            **{f"replay_buffer/{name}": a for name, a in self.replay_buffer.get_state().items()},
        }
        if validation_observations is not None:
            arrays["validation_observations"] = validation_observations
        for name, variables in self.variables.items():
            arrays |= {f"{name}/{i}": variable.numpy() for i, variable in enumerate(variables)}
        description["arrays"] = {name: str(array.dtype) for name, array in arrays.items()}
        arrays["description"] = np.array(json.dumps(description))
        archive = io.BytesIO()
        np.savez(archive, **arrays)
        write_file(os.path.join(self.logdir, CHECKPOINT), archive.getvalue())
        self.saved_step = step
        if self.on_save and step:  # at the beginning, the directory is not in its place yet
            self.on_save(self)

    def restore(self, logdir):
        """Brings everything to the state of a checkpoint, and clears away what a kill left behind.

        Args:
            logdir: directory of the run.

        Raises:
            CheckpointError: another program trains here, or the checkpoint is damaged or doesn't
                fit this program.
        """
        self.logdir = logdir
        self.lock = lock(logdir)
        description, arrays = read_checkpoint(logdir)
        for name, variables in self.variables.items():
            own = {f"{name}/{i}": tuple(variable.shape) for i, variable in enumerate(variables)}
            saved = {
                key: array.shape for key, array in arrays.items() if key.startswith(f"{name}/")
            }
            if own != saved:
                raise CheckpointError(
                    f"{logdir} holds a {name} of the shapes {list(saved.values())}; "
                    f"this program's has {list(own.values())}"
                )
            for i, variable in enumerate(variables):
                variable.assign(arrays[f"{name}/{i}"])
        try:
            own = self.replay_buffer.get_state()
            self.replay_buffer.set_state({name: arrays[f"replay_buffer/{name}"] for name in own})
            self.log.set_state(description["log"])
            observation = self.env.replay(description["episode_random"], arrays["episode_actions"])
            self.env.action_space.np_random.bit_generator.state = description["action_random"]
            version, key, gauss = description["python_random"]
            random.setstate((version, tuple(key), gauss))
            np.random.set_state(description["numpy_random"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{logdir} doesn't fit this program: {error}") from error
        self.settings["name"] = description["settings"]["name"]
        self.saved_step = description["step"]
        self.resumed = (
            self.saved_step,
            description["best_return"],
            description["episode_return_avg"],
            arrays.get("validation_observations"),
            observation,
        )
        for filename in os.listdir(logdir):
            if filename.endswith((f"{PARTIAL}.h5", f"{PARTIAL}.npz")):
                os.remove(os.path.join(logdir, filename))

    def close(self):
        """Unlocks the run's directory."""
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None
