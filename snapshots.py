"""Reads the weights of .h5 snapshots, and nothing else that such a file may hold.

A snapshot may come from a stranger. Loading a whole Keras model from it can run code that the file
brings along, and the HDF5 library can crash on a damaged file. So only layer names and numbers are
read, and that in a process of its own: `python snapshots.py FILE` writes them to standard output
as a NumPy archive.
"""

import io
import json
import os
import subprocess
import sys

import numpy as np

MAX_BYTES = 2**28  # of all the weights in a file; the tutorial's own take about 6,000
MAX_MEMORY = 2**30  # bytes, for the reading process
MAX_SECONDS = 60  # a network drive can be slow


class SnapshotError(ValueError):
    """A file that can't be loaded as a snapshot; the message says why."""


def read_weights(filename):
    """Reads a snapshot that Keras 2 or 3 wrote, the article's own of 2018 included.

    Args:
        filename: an .h5 file.

    Returns:
        (layers, weights): class names of the layers (empty if the file doesn't tell), and the
        weight arrays in the order of `keras.Model.get_weights`.

    Raises:
        SnapshotError: the file is no readable snapshot; the message says why, on one line.
    """
    command = [sys.executable, os.path.abspath(__file__), filename]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    try:
        reader = subprocess.run(command, capture_output=True, timeout=MAX_SECONDS, env=environment)
    except subprocess.TimeoutExpired:
        raise SnapshotError(f"{filename} can't be read within {MAX_SECONDS} seconds") from None
    if reader.returncode == 2:
        raise SnapshotError(f"{filename} is no readable snapshot: {reader.stderr.decode().strip()}")
    if reader.returncode:
        raise SnapshotError(f"{filename} is no readable snapshot: the HDF5 library fails on it")
    with np.load(io.BytesIO(reader.stdout), allow_pickle=False) as archive:
        layers = [str(layer) for layer in archive["layers"]]
        return layers, [archive[f"weight{i}"] for i in range(len(archive.files) - 1)]


def _read_in_this_process(filename):
    import h5py

    with h5py.File(filename, "r") as file:
        group = file.get("model_weights", file)
        names = [
            (layer, weight)
            for layer in group.attrs["layer_names"]
            for weight in group[layer].attrs["weight_names"]
        ]
        datasets = [group[layer][weight] for layer, weight in names]
        if sum(dataset.nbytes for dataset in datasets) > MAX_BYTES:
            raise ValueError(f"its weights take more than {MAX_BYTES} bytes")
        weights = {f"weight{i}": dataset[()] for i, dataset in enumerate(datasets)}
        if any(weight.dtype.kind != "f" for weight in weights.values()):
            raise ValueError("its weights are no floating-point numbers")
        config = json.loads(file.attrs.get("model_config", "{}"))
        layers = [layer["class_name"] for layer in config.get("config", {}).get("layers", [])]
    archive = io.BytesIO()
    np.savez(archive, layers=np.array(layers, str), **weights)
    return archive.getvalue()


if __name__ == "__main__":
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    try:
        sys.stdout.buffer.write(_read_in_this_process(sys.argv[1]))
    except Exception as error:
        sys.exit(print(" ".join(str(error).split()), file=sys.stderr) or 2)
