"""Writes .h5 snapshots; reads their weights and settings, and what network they are of.

A snapshot may come from a stranger. Loading a whole Keras model from it can run code that the file
brings along, HDF5 can take data from other files, and its library can crash on a damaged file. So
only names and numbers in the file itself are read; of Keras's description of the network, the names
of layers, which are compared with those of our own network, and of which nothing is made. That is
done in a process of its own, whose memory and time are limited: `python -m support.snapshots FILE`
writes them to standard output as a NumPy archive.
"""

import contextlib
import functools
import io
import json
import os
import re
import subprocess
import sys
import textwrap
import zipfile
import zlib
from typing import NamedTuple

import h5py
import numpy as np

from support.command_line import as_option
from support.errors import ROOT, WrongInput, print_message
from support.files import write_file

MAX_MEMORY = 2**29  # bytes, for the reading process; the article's network takes 5,000
MAX_SECONDS = 60  # HDF5 may hang on a damaged file; a network disk takes 10 to start Python
MAX_LAYERS = 1000  # that are compared
READS = "this program reads .h5 files of Keras"
SAVE_AGAIN = "save it with model.save('x.h5')"
FIRST_BYTES = {  # of files that are taken for snapshots
    rb"version https://git-lfs": "a Git LFS pointer; git lfs pull gets the file that it stands for",
    rb"\s*<(!doctype html|html)": "a web page; download the file itself",
    rb"\x80[\x02-\x05]": f"a pickle, such as those of PyTorch before 1.6; {READS}",
    rb".{6}\0\0{\"": f"in the safetensors format; {READS}",
    rb"\x08\x01\x12": f"a SavedModel of TensorFlow; load it there, and {SAVE_AGAIN}",
}
TENSORFLOW_CHECKPOINT = f"a checkpoint of TensorFlow; load it there, and {SAVE_AGAIN}"
END_OF_INDEX = bytes.fromhex("57fb808b247547db")  # of such a checkpoint
ENDS_OF_MEMBERS = {  # of ZIP archives
    "policy.pth": f"an archive of Stable-Baselines3; {READS}",
    "data.pkl": f"an archive of PyTorch; {READS}",
    "model.weights.h5": f"in Keras's newer format; {SAVE_AGAIN}",
    ".npy": f"an archive of NumPy; {READS}",
}
WITHOUT_EFFECT = {"inputlayer", "flatten", "dropout"}  # on Q-values
PARAMETERS = {  # of layers that have an effect without weights
    "rescaling": ("scale", "offset"),
    "relu": ("negative_slope", "max_value", "threshold"),
    "leakyrelu": ("negative_slope",),
}


class Snapshot(NamedTuple):
    """What is read of a snapshot, which may come from a stranger.

    Attributes:
        filename: its name.
        settings: dict of names to the values with which it was trained: the constants, in lower
            case, `env` and `seed`; empty if the file doesn't record them.
        layers: what the network does in turn, as the file describes it: names of layers and
            activations in lower case; empty if it doesn't.
        weights: arrays in the order of `keras.Model.get_weights`.
    """

    filename: str
    settings: dict
    layers: list
    weights: list

    @property
    def inferred(self):
        """Dict of constants, as in `settings`, to their values where the network shows them."""
        widths = {weight.shape[0] for weight in self.weights[:-1] if weight.ndim == 1}
        inferred = {"hidden_units": widths.pop()} if len(widths) == 1 else {}
        if self.layers:
            inferred["layer_normalization"] = "rmsnormalization" in self.layers
        return inferred


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
    snapshot = read_snapshot(filename)
    shapes = [weight.shape for weight in snapshot.weights]
    own_shapes = [weight.shape for weight in model.get_weights()]
    own_layers = _layers(model.to_json)
    problem = None
    if shapes != own_shapes:
        problem = (
            f"has weights of the shapes {shapes}; the network for this environment has {own_shapes}"
        )
    elif snapshot.layers and own_layers and snapshot.layers != own_layers:
        theirs = textwrap.shorten(" ".join(snapshot.layers), 300)
        problem = f"is of the network {theirs}; create_model builds {' '.join(own_layers)}"
    if problem:
        remedy = _remedy(snapshot, shapes, own_shapes, settings or {})
        raise WrongInput(f"{snapshot.filename} {problem}; {remedy}")
    if not snapshot.layers:
        print_message(
            f"warning: {snapshot.filename} doesn't describe its network, which is taken to be what "
            "create_model builds"
        )
    model.set_weights(snapshot.weights)


def _remedy(snapshot, shapes, own_shapes, settings):
    """What to do where a snapshot is of another network than `create_model` builds: a string."""
    ends = shapes[0][:1] + shapes[-1][-1:]
    is_as_deep = len(shapes) == len(own_shapes) and len(ends) == 2
    if is_as_deep and ends != own_shapes[0][:1] + own_shapes[-1][-1:]:
        size, n_actions = ends
        return (
            f"it is for another --env, with observations of {size} numbers and {n_actions} actions"
        )
    known = {**snapshot.inferred, **snapshot.settings}
    others = [
        as_option(name, known[name])
        for name, value in settings.items()
        if known.get(name, value) != value
        and name not in ("env", "seed", "model")
        and not name.startswith("eval_")
    ]
    if others:
        return f"it was trained with {' '.join(others)}"
    return "to use it, let create_model build its network"


def read_snapshot(filename):
    """Reads an .h5 file; returns a `Snapshot`, or raises `WrongInput`.

    What was read last is kept: options need its settings, and later the network its weights.
    """
    if os.path.isfile(os.path.join(filename, "saved_model.pb")):
        filename = os.path.join(filename, "saved_model.pb")  # for a line that says so
    if os.path.isdir(filename):
        found = ", ".join(sorted(name for name in os.listdir(filename) if name.endswith(".h5")))
        raise WrongInput(f"{filename} is a directory; its snapshots are: {found or 'none'}")
    if not os.path.isfile(filename) and os.path.isfile(f"{filename}.index"):
        filename = f"{filename}.index"
    if not os.path.isfile(filename):
        raise WrongInput(f"there is no file {filename}")
    status = os.stat(filename)
    return _read_in_process(filename, (status.st_ino, status.st_size, status.st_mtime_ns))


@functools.lru_cache(maxsize=1)
def _read_in_process(filename, version):
    """Does what `read_snapshot` does, in a process of its own, once for a version of the file."""
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
        texts, *weights = [archive[name] for name in archive.files]
    settings, layers = json.loads(str(texts))
    return Snapshot(filename, settings, layers, weights)


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
    return [_numbers(_inside(layer, name)) for layer, name in weights]


def _numbers(dataset):
    if dataset.dtype.kind not in "biuf":
        raise ValueError("its weights are of a type unknown to HDF5, bfloat16 say; save float32")
    return dataset[()].astype(np.float32)


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


def _layers(describe):
    """The layers of a network, as those of a `Snapshot`.

    Args:
        describe: function that gives Keras's description, JSON as a string.
    """
    # It may be missing or damaged, and Keras can't describe every layer of a reader's own.
    with contextlib.suppress(Exception):
        names = list(_names_of_layers(json.loads(describe())))
        if names[-1] == "multiply":  # by the mask, which is of ones
            names.pop()
        return names[:MAX_LAYERS]
    return []


def _names_of_layers(description):
    """Yields those of a model or layer, of which `json.loads` has given the description."""
    config = description["config"]
    layers = config if isinstance(config, list) else config.get("layers")  # a list before Keras 2.2
    if layers is not None:
        for layer in layers:
            yield from _names_of_layers(layer)
        return
    kind = description["class_name"].split(">")[-1].lower()
    if kind != "activation" and kind not in WITHOUT_EFFECT:
        yield kind
    for name in PARAMETERS.get(kind, ()):
        if config.get(name):
            yield f"{name} {np.round(config[name], 4).tolist()}"
    activation = config.get("activation") or "linear"
    if isinstance(activation, dict):  # a function or layer of one's own
        name = activation["config"]
        activation = name if isinstance(name, str) else activation["class_name"]
    if activation != "linear":
        yield activation.lower()


def _kind_of_file(filename):
    """What a file is that isn't HDF5, a string; None for any other file."""
    with open(filename, "rb") as file:  # says more plainly than HDF5 why a file can't be opened
        start = file.read(64)
        file.seek(max(0, os.path.getsize(filename) - 8))
        end = file.read()
    if zipfile.is_zipfile(filename):
        with zipfile.ZipFile(filename) as archive:
            members = archive.namelist()
        for ending, kind in ENDS_OF_MEMBERS.items():
            if any(name.endswith(ending) for name in members):
                return kind
    if end == END_OF_INDEX:
        return TENSORFLOW_CHECKPOINT
    for pattern, kind in FIRST_BYTES.items():
        if re.match(pattern, start, re.IGNORECASE | re.DOTALL):
            return kind
    return None


def _holds_weights_alone(file):
    """Whether an open file is what `model.save_weights("x.weights.h5")` writes."""
    if "model_weights" in file or "layer_names" in file.attrs:
        return False
    return "layers" in file or "_layer_checkpoint_dependencies" in file  # which is Keras 2.12's


def _archive(filename):
    kind = _kind_of_file(filename)
    if kind:
        raise ValueError(f"it is {kind}")
    if not h5py.is_hdf5(filename):
        raise ValueError("it is damaged, or no .h5 file")
    with h5py.File(filename, "r") as file:
        if _holds_weights_alone(file):
            raise ValueError("it holds weights alone; save the whole model with model.save('x.h5')")
        if "model_weights" not in file and "layer_names" not in file.attrs:
            found = textwrap.shorten(", ".join(file), 100)
            raise ValueError(f"it holds {found or 'nothing'}, and no network of Keras")
        settings, weights = _settings(file), _weights(file)
        layers = _layers(lambda: _text(file.attrs["model_config"]))
        checksum = _checksum(settings, weights)
        if file.attrs.get("weights_crc32", checksum) != checksum:
            raise ValueError("its checksum is wrong")
        if not all(np.isfinite(weight).all() for weight in weights):
            raise ValueError("its weights are not finite")
    if not weights:
        raise ValueError("it holds no weights")
    buffer = io.BytesIO()
    texts = json.dumps([_checked(json.loads(settings)), layers])
    np.savez(buffer, np.array(texts), *weights)
    return buffer.getvalue()


if __name__ == "__main__":
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    try:
        sys.stdout.buffer.write(_archive(sys.argv[1]))
    except Exception as error:  # of any kind, from a damaged file
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        print(" ".join(reason.split()), file=sys.stderr)
        sys.exit(2)
