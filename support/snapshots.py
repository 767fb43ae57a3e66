"""Writes .h5 snapshots; reads their weights and settings, and nothing else that is in such a file.

A snapshot may come from a stranger. Loading a whole Keras model from it can run code that the file
brings along, HDF5 can take data from other files, and its library can crash on a damaged file. So
only names and numbers in the file itself are read, never the configuration of a model; and that in
a process of its own, whose memory and time are limited: `python -m support.snapshots FILE` writes
them to standard output as a NumPy archive.
"""

import io
import json
import os
import subprocess
import sys
import zipfile
import zlib
from typing import NamedTuple

import h5py
import numpy as np

from support.errors import ROOT, WrongInput
from support.files import write_file
from support.settings import as_option

MAX_MEMORY = 2**29  # bytes, for the reading process; the article's network takes 5,000
MAX_SECONDS = 10  # HDF5 may hang on a damaged file


class Snapshot(NamedTuple):
    """What is read of a snapshot.

    Attributes:
        filename: its name.
        settings: dict of names to the values with which it was trained: the constants, in lower
            case, `env` and `seed`; empty if the file doesn't tell. They may be a stranger's.
        weights: arrays in the order of `keras.Model.get_weights`.
    """

    filename: str
    settings: dict
    weights: list


def load_weights(model, filename, settings=None):
    """Gives a Keras model the weights of an .h5 file of Keras 2 or 3, the article's own included.

    Args:
        model: the model.
        filename: of the snapshot.
        settings: dict of the names of constants to the values with which the model was made, to be
            compared with those of the snapshot where that doesn't fit; or None.

    Raises:
        WrongInput: it is not a readable snapshot of such a network; nothing is changed.
    """
    use_weights(model, read_snapshot(filename), settings)


def use_weights(model, snapshot, settings=None):
    """Does what `load_weights` does, with what `read_snapshot` returned."""
    shapes = [weight.shape for weight in snapshot.weights]
    own_shapes = [weight.shape for weight in model.get_weights()]
    if shapes != own_shapes:
        others = [
            as_option(name, snapshot.settings[name])
            for name, value in (settings or {}).items()
            if snapshot.settings.get(name, value) != value
            and name not in ("env", "seed", "model")
            and not name.startswith("eval_")
        ]
        hint = f"; what differs are {' '.join(others)}, with which it was trained" if others else ""
        raise WrongInput(
            f"{snapshot.filename} has weights of the shapes {shapes}; "
            f"the network for this environment has {own_shapes}{hint}"
        )
    model.set_weights(snapshot.weights)


def read_snapshot(filename):
    """Reads an .h5 file in a process of its own; returns a `Snapshot`.

    Raises `WrongInput` where that fails.
    """
    if os.path.isdir(filename):
        found = ", ".join(sorted(name for name in os.listdir(filename) if name.endswith(".h5")))
        raise WrongInput(f"{filename} is a directory; its snapshots are: {found or 'none'}")
    if not os.path.isfile(filename):
        raise WrongInput(f"there is no file {filename}")
    try:
        reader = subprocess.run(
            [sys.executable, "-m", "support.snapshots", os.path.abspath(filename)],
            cwd=ROOT,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # each thread reserves address space
            capture_output=True,
            timeout=MAX_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise WrongInput(f"{filename} can't be read within {MAX_SECONDS} seconds") from None
    if reader.returncode:
        reason = reader.stderr.decode(errors="replace") if reader.returncode == 2 else ""
        reason = reason.strip() or "the HDF5 library fails on it"
        raise WrongInput(f"{filename} is not a readable snapshot: {reason}")
    with np.load(io.BytesIO(reader.stdout), allow_pickle=False) as archive:
        settings, *weights = [archive[name] for name in archive.files]
    return Snapshot(filename, json.loads(str(settings)), weights)


class MemoryFile(h5py.File):
    """HDF5 file in memory, so that a full disk can't crash HDF5.

    Keras chooses its format by the end of a name, which it asks for with `str`.
    """

    def __str__(self):
        return "memory.h5"


def write_snapshot(filename, model, settings=None):
    """Writes a Keras model as an .h5 file that `keras.models.load_model` opens, too.

    Args:
        filename: its name, which ends in .h5.
        model: the model.
        settings: dict of what it was trained with; or None. It is added, and so is a checksum.

    Raises:
        OSError: the file can't be written.
    """
    content = io.BytesIO()
    with MemoryFile(content, "w") as file:
        model.save(file)
        if settings is not None:
            file.attrs["settings"] = json.dumps(settings)
        file.attrs["weights_crc32"] = _checksum(_settings(file), _weights(file))
    write_file(filename, content.getvalue())


def _inside(group, path):
    """What is at a path below an HDF5 group, if all of it lies in that file itself."""
    for name in path.split("/"):
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{path} is a link")
        group = group[name]
    if isinstance(group, h5py.Dataset) and (group.external or group.is_virtual):
        raise ValueError(f"the numbers of {path} are in another file")
    return group


def _weights(file):
    group = _inside(file, "model_weights") if "model_weights" in file else file
    layers = [_inside(group, _text(name)) for name in group.attrs["layer_names"]]
    weights = [(layer, _text(name)) for layer in layers for name in layer.attrs["weight_names"]]
    return [_inside(layer, name)[()].astype(np.float32) for layer, name in weights]


def _settings(file):
    return _text(file.attrs.get("settings", "{}"))


def _checked(settings):
    if type(settings) is not dict:
        raise ValueError("its settings are not a table")
    if type(settings.get("env", "")) is not str:
        raise ValueError("its environment is not a name")
    for name, value in settings.items():
        if type(value) not in (bool, int, float, str):
            raise ValueError(f"its setting {name} is not a number, string, True or False")
    return settings


def _text(name):
    return name.decode() if isinstance(name, bytes) else str(name)


def _checksum(settings, weights):
    own = b"" if settings == "{}" else settings.encode()  # older files have none
    return zlib.crc32(b"".join([*[weight.tobytes() for weight in weights], own]))


def _is_keras_zip(filename):
    """Whether a file is what `model.save("x.keras")` writes."""
    if not zipfile.is_zipfile(filename):
        return False
    with zipfile.ZipFile(filename) as archive:
        return {"config.json", "model.weights.h5"} <= {*archive.namelist()}


def _holds_weights_alone(file):
    """Whether an open file is what `model.save_weights("x.weights.h5")` writes."""
    if "model_weights" in file or "layer_names" in file.attrs:
        return False
    return "layers" in file or "_layer_checkpoint_dependencies" in file  # which is Keras 2.12's


def _archive(filename):
    open(filename, "rb").close()  # says more plainly than HDF5 why a file can't be opened
    if _is_keras_zip(filename):
        raise ValueError("it is in Keras's newer format; save it with model.save('x.h5')")
    with h5py.File(filename, "r") as file:
        if _holds_weights_alone(file):
            raise ValueError("it holds weights alone; save the whole model with model.save('x.h5')")
        settings, weights = _settings(file), _weights(file)
        checksum = _checksum(settings, weights)
        if file.attrs.get("weights_crc32", checksum) != checksum:
            raise ValueError("its checksum is wrong")
        if not all(np.isfinite(weight).all() for weight in weights):
            raise ValueError("its weights are not finite")
    buffer = io.BytesIO()
    np.savez(buffer, np.array(json.dumps(_checked(json.loads(settings)))), *weights)
    return buffer.getvalue()


if __name__ == "__main__":
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    try:
        sys.stdout.buffer.write(_archive(sys.argv[1]))
    except Exception as error:  # whatever a damaged file leads to
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        print(" ".join(reason.split()), file=sys.stderr)
        sys.exit(2)
