"""One file with the whole state of a training run; reading it runs no code.

It is a NumPy archive, in which JSON stands for what isn't an array, and a check sum over it.
"""

import difflib
import hashlib
import importlib.metadata
import io
import json
import os
import zipfile
from glob import escape, glob

import numpy as np

from support.errors import WrongInput
from support.files import check_name, write_file

CHECKPOINT = "checkpoint.npz"
FORMAT = 2  # of the file; others are refused
LIBRARIES = ("gymnasium", "keras", "numpy", "tensorflow")  # which a run's exact numbers depend on


def versions():
    """Versions of `LIBRARIES`: a dict of strings."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def write_checkpoint(logdir, state):
    """Writes the checkpoint of the run in a directory, in one instant.

    `state` is a dict of the names of its parts to dicts of names to arrays and JSON values. Raises
    OSError where the file can't be written.
    """
    arrays = {
        f"{part}/{name}": value if isinstance(value, np.ndarray) else np.array(json.dumps(value))
        for part, values in {**state, "file": {"format": FORMAT, "versions": versions()}}.items()
        for name, value in values.items()
    }
    archive = io.BytesIO()
    np.savez(archive, **arrays)
    content = archive.getvalue()
    write_file(os.path.join(logdir, CHECKPOINT), content + hashlib.sha256(content).digest())


def find_run(logdir):
    """Raises `WrongInput` where a directory has no checkpoint, with the run that may be meant."""
    if not os.path.isfile(os.path.join(logdir, CHECKPOINT)):
        folder, name = os.path.split(os.path.normpath(logdir))
        runs = glob(os.path.join(escape(folder), "*-log", CHECKPOINT))
        similar = difflib.get_close_matches(f"{name}-log", map(os.path.dirname, runs), n=1)
        hint = f"; there is {similar[0]}" if similar else ""
        raise WrongInput(f"--resume {logdir}: there is no run to resume, no {CHECKPOINT}{hint}")


def read_checkpoint(logdir):
    """Reads the checkpoint of the run in a directory.

    Returns the state that `write_checkpoint` was given, of which the part `run` is checked. Raises
    `WrongInput` where there is no run, or its checkpoint is damaged or of another version.
    """
    find_run(logdir)
    filename = os.path.join(logdir, CHECKPOINT)
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
        state["file"]["versions"].items()  # it is a dict
        _check_run(**state["run"])
    except Exception as error:  # whatever something else with a check sum leads to
        raise WrongInput(f"{filename} is no checkpoint of this program: {error!r}") from error
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
            state.setdefault(part, {})[name] = (
                json.loads(str(value)) if value.dtype.kind == "U" else value
            )
    return state


def _check_run(settings, name, step, seconds, evaluations, validation_observations):
    check_name("its name", name)
    kinds = type(step), type(seconds), type(settings)
    if kinds != (int, float, dict) or not 0 <= step <= 10**9 or not 0 <= seconds < np.inf:
        raise ValueError(f"it was made after {step} steps and {seconds} seconds")
    steps = np.arange(settings["eval_every"], step + 1, settings["eval_every"])
    if evaluations.shape != (len(steps), 4) or (evaluations[:, 0] != steps).any():
        raise ValueError("its evaluations are not those up to its step")
