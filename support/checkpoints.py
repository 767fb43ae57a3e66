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

import numpy as np

from support.errors import WrongInput
from support.files import check_name, write_file

CHECKPOINT = "checkpoint.npz"
FORMAT = 2  # of the file; others are refused
DIGEST_SIZE = 32  # bytes
LIBRARIES = ("gymnasium", "keras", "numpy", "tensorflow")


def versions():
    """Versions of the libraries on which a run's exact numbers depend: a dict of strings."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def write_checkpoint(logdir, state):
    """Writes the checkpoint of a run in one instant.

    Args:
        logdir: directory of the run.
        state: dict of the names of its parts to dicts of names to arrays and JSON values.

    Raises:
        OSError: the file can't be written.
    """
    state = {**state, "file": {"format": FORMAT, "versions": versions()}}
    arrays = {
        f"{part}/{name}": value if isinstance(value, np.ndarray) else np.array(json.dumps(value))
        for part, values in state.items()
        for name, value in values.items()
    }
    archive = io.BytesIO()
    np.savez(archive, **arrays)
    content = archive.getvalue()
    write_file(os.path.join(logdir, CHECKPOINT), content + hashlib.sha256(content).digest())


def read_checkpoint(logdir):
    """Reads the checkpoint of a run.

    Args:
        logdir: directory of the run.

    Returns:
        The state that `write_checkpoint` was given. Of its part `run`, what a `Run` keeps there
        is checked; in other parts may be anything.

    Raises:
        WrongInput: it is no directory of a run, or the file is damaged or of another version.
    """
    filename = os.path.join(logdir, CHECKPOINT)
    if not os.path.isfile(filename):
        folder, name = os.path.split(os.path.normpath(logdir))
        runs = (
            [
                n
                for n in os.listdir(folder or ".")
                if os.path.isfile(os.path.join(folder, n, CHECKPOINT))
            ]
            if os.path.isdir(folder or ".")
            else []
        )
        similar = difflib.get_close_matches(f"{name}-log", runs, n=1)
        hint = f"; there is {os.path.join(folder, similar[0])}" if similar else ""
        raise WrongInput(f"--resume {logdir}: there is no run to resume: no file {filename}{hint}")
    with open(filename, "rb") as file:
        content = file.read()
    archive, digest = content[:-DIGEST_SIZE], content[-DIGEST_SIZE:]
    if hashlib.sha256(archive).digest() != digest:
        raise WrongInput(f"{filename} is damaged, or of another version of this program")
    try:
        state = _unpack(archive)
        if state["file"]["format"] != FORMAT:
            raise ValueError(f"its format is {state['file']['format']}, not {FORMAT}")
        _check_run(**state["run"])
        return state
    except Exception as error:  # whatever a well-formed file with something else leads to
        raise WrongInput(f"{filename} is no checkpoint of this program: {error!r}") from error


def _unpack(archive):
    with zipfile.ZipFile(io.BytesIO(archive)) as members:
        if sum(member.file_size for member in members.infolist()) > len(archive):
            raise ValueError("it claims more than it holds")
    state = {}
    with np.load(io.BytesIO(archive), allow_pickle=False) as arrays:
        for path in arrays.files:
            part, name = path.split("/")
            value = arrays[path]
            is_json = value.dtype.kind == "U" and value.shape == ()
            state.setdefault(part, {})[name] = json.loads(str(value)) if is_json else value
    return state


def _check_run(settings, name, step, seconds, evaluations, validation_observations):
    check_name("its name", name)
    if not all(isinstance(value, (int, float, str)) for value in settings.values()):
        raise ValueError("its settings are no numbers and names")
    if type(step) is not int or not 0 <= step <= 10**9 or not 0 <= seconds < np.inf:
        raise ValueError(f"it was made after {step} steps and {seconds} seconds")
    steps = np.arange(settings["eval_every"], step + 1, settings["eval_every"])
    if evaluations.shape != (len(steps), 4) or (evaluations[:, 0] != steps).any():
        raise ValueError("its evaluations are not those up to its step")
