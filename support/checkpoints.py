"""One file with the whole state of a run; reading it runs no code.

It is a NumPy archive, in which JSON stands for what isn't an array, and a checksum over it.
"""

import difflib
import hashlib
import importlib.metadata
import io
import json
import os
import re
import zipfile
from glob import escape, glob
from typing import NamedTuple

import filelock
import numpy as np

from support.errors import WrongInput, print_message
from support.files import check_name, lock, partial_name, write_file

CHECKPOINT = "checkpoint.npz"
FORMAT = 4  # of the file; others are refused
LIBRARIES = ("gymnasium", "keras", "numpy", "tensorflow")  # whose versions affect exact results
MAX_RUN_STEPS = 10**9
NAME = "[A-Za-z0-9_]{1,100}"  # of an array


def versions():
    """Versions of `LIBRARIES`: a dict of strings."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def encode(state):
    """The state of a part of a run in the form in which it is written: a dict of names to arrays.

    Raises TypeError where it is no dict of names to arrays of numbers and JSON values.
    """
    if not isinstance(state, dict):
        raise TypeError(f"{type(state).__name__} is not a dict")
    arrays = {}
    for name, value in state.items():
        if not isinstance(name, str) or not re.fullmatch(NAME, name):
            raise TypeError(f"the name {name!r:.40} is not made of letters, digits and _")
        if isinstance(value, (np.ndarray, np.generic)):
            is_plain = value.dtype.kind in "biufc"
        else:
            try:
                value = np.array(json.dumps(value))
                is_plain = True
            except (TypeError, ValueError):
                is_plain = False
        if not is_plain:
            raise TypeError(
                f"{name!r} is neither an array of numbers nor made of numbers, strings, lists and "
                "dicts"
            )
        arrays[name] = np.asarray(value)
    return arrays


def write_checkpoint(logdir, state, missing=None):
    """Writes the checkpoint of the run in a directory, atomically.

    Args:
        logdir: the directory.
        state: dict of the names of parts to what `encode` gives for their states.
        missing: dict of the names of parts that can't give their state to the reasons.

    Raises:
        OSError: the file can't be written.
    """
    about = encode({"format": FORMAT, "versions": versions(), "missing": missing or {}})
    arrays = {
        f"{part}/{name}": array
        for part, values in {**state, "file": about}.items()
        for name, array in values.items()
    }
    archive = io.BytesIO()
    np.savez(archive, **arrays)
    content = archive.getbuffer()  # without a copy: the replay buffer may be large
    write_file(os.path.join(logdir, CHECKPOINT), content, hashlib.sha256(content).digest())


class Evaluation(NamedTuple):
    """The result of an evaluation during training.

    Attributes:
        step: training step, counted from 1.
        episode_return_avg: mean return of the episodes completed; nan if there is none.
        avg_max_q_value: mean of the highest Q-values of the validation observations.
        seconds: time spent on training up to it, evaluations and checkpoints left out.
        episodes: how many episodes were completed.
    """

    step: int
    episode_return_avg: float
    avg_max_q_value: float
    seconds: float
    episodes: int


class StoppedRun(NamedTuple):
    """A run that can be resumed.

    Attributes:
        logdir: its directory.
        state: what `read_checkpoint` returned.
        lock: on its directory.
    """

    logdir: str
    state: dict
    lock: filelock.BaseFileLock


def holds_a_run(logdir):
    """Whether a directory holds more than a program leaves that is killed in its first moments."""
    left = {".lock", partial_name(CHECKPOINT)}
    return os.path.islink(logdir) or not left.issuperset(os.listdir(logdir))


def open_run(logdir):
    """Locks and reads a run to be resumed.

    Args:
        logdir: its directory, or its name.

    Returns:
        `StoppedRun`.

    Raises:
        WrongInput: there is no such run, another program uses it, or it can't be resumed.
    """
    if os.path.isfile(os.path.join(f"{logdir}-log", CHECKPOINT)):
        logdir = f"{logdir}-log"
    find_run(logdir)
    locked = lock(logdir)
    try:
        state = read_checkpoint(logdir)
        missing = state["file"]["missing"]
        if missing:
            raise WrongInput(f"{logdir} can't be resumed: {'; '.join(missing.values())}")
    except WrongInput:
        locked.release()
        raise
    warn_of_other_versions(logdir, state["file"]["versions"])
    return StoppedRun(logdir, state, locked)


def warn_of_other_versions(logdir, recorded):
    """Warns where a run was made with other versions of libraries; `recorded` is a dict of them."""
    changed = [
        f"{name} {recorded.get(name)}, now {version}"
        for name, version in versions().items()
        if recorded.get(name) != version
    ]
    if changed:
        made_with = ", ".join(changed)
        print_message(f"warning: {logdir} was made with {made_with}; results may differ")


def find_run(logdir):
    """Raises `WrongInput` where a directory has no checkpoint, and suggests a similar name."""
    if os.path.isfile(os.path.join(logdir, CHECKPOINT)):
        return
    folder, name = os.path.split(os.path.normpath(logdir))
    runs = glob(os.path.join(escape(folder), "*-log", CHECKPOINT))
    similar = difflib.get_close_matches(f"{name}-log", map(os.path.dirname, runs), n=1)
    hint = f"; there is {similar[0]}" if similar else ""
    raise WrongInput(f"--resume {logdir}: there is no run to resume, no {CHECKPOINT}{hint}")


def read_checkpoint(logdir):
    """Reads the checkpoint of the run in a directory.

    Returns the states of all parts, dicts of names to arrays and JSON values, of which `run` is
    checked, and has its `evaluations` as a list of `Evaluation`s; and `file`: its `format`, the
    `versions` of libraries, and `missing`. Raises `WrongInput` where there is no run, or its
    checkpoint is damaged or of another version.
    """
    filename = os.path.join(logdir, CHECKPOINT)
    if not os.path.isfile(filename):
        raise WrongInput(f"{logdir} is not the directory of a run: it has no {CHECKPOINT}")
    with open(filename, "rb") as file:
        content = file.read()
    size = hashlib.sha256().digest_size
    archive, checksum = content[:-size], content[-size:]
    if hashlib.sha256(archive).digest() != checksum:
        raise WrongInput(f"{filename} is damaged, or of another version of this program")
    try:
        state = _unpack(archive)
        if state["file"]["format"] != FORMAT:
            raise ValueError(f"its format is {state['file']['format']}, not {FORMAT}")
        for table in ("versions", "missing"):
            if type(state["file"][table]) is not dict:
                raise ValueError(f"its {table} are {state['file'][table]!r}")
            if not all(type(value) is str for value in state["file"][table].values()):
                raise ValueError(f"its {table} are not strings")
        _check_run(**state["run"])
        state["run"]["evaluations"] = [
            Evaluation(int(step), *others, int(episodes))
            for step, *others, episodes in state["run"]["evaluations"].tolist()
        ]
    except Exception as error:  # a right checksum doesn't make the content right
        raise WrongInput(f"{filename} is not a checkpoint of this program: {error!r}") from error
    return state


def _unpack(archive):
    with zipfile.ZipFile(io.BytesIO(archive)) as members:
        if sum(member.file_size for member in members.infolist()) > len(archive):
            raise ValueError("it claims more than it holds")
    state = {}
    with np.load(io.BytesIO(archive), allow_pickle=False) as arrays:
        for path in arrays.files:
            part, name = path.split("/")
            value = arrays[path]
            if value.dtype.kind == "U":
                value = json.loads(str(value))
            state.setdefault(part, {})[name] = value
    return state


def _check_run(settings, name, step, seconds, first_return, evaluations, validation_observations):
    check_name("its name", name)
    if type(settings) is not dict:
        raise ValueError(f"its settings are {settings!r}")
    if type(step) is not int or not 0 <= step <= MAX_RUN_STEPS:
        raise ValueError(f"it was made after {step} steps")
    if type(seconds) is not float or not 0 <= seconds < np.inf:
        raise ValueError(f"it was made after {seconds} seconds")
    if first_return is not None and type(first_return) is not float:
        raise ValueError(f"its first episode returned {first_return!r}")
    if evaluations.shape != (len(evaluations), 5) or evaluations.dtype != float:
        raise ValueError("its evaluations are not rows of 5 numbers")
    steps = evaluations[:, 0]
    is_increasing = (np.diff(steps, prepend=0) > 0).all()
    is_whole = (steps % 1 == 0).all()
    if not (is_increasing and is_whole and (steps <= step).all()):
        raise ValueError("its evaluations are not those up to its step")
