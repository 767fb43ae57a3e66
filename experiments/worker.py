"""Runs one training of a grid in a worker of Ray Tune, and sends its run directory back."""

import support.fast_tensorflow  # noqa: F401  # isort: skip (first: it keeps TensorFlow quiet)

import contextlib
import io
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import ray
from ray import tune

import run
from support.checkpoints import CHECKPOINT, read_checkpoint
from support.errors import WrongInput
from support.files import write_file
from support.options import parse_args
from support.settings import as_option

PACKED = "run.tar"  # in a checkpoint of Ray: the directory of the run


def train_one(config, begun):
    """Runs one training, from its start or its last checkpoint; Ray Tune calls it in a worker.

    The run's directory is in the worker's own. What Ray keeps as checkpoint is that, packed. With
    it come the `step` and, for a training that can't go on, why it has `failed`.

    Args:
        config: dict whose `training` is one of `list_trainings`.
        begun: dict of the names of trainings that have begun before, to references that Ray has to
            what `pack` returned.

    Raises:
        OSError: a file can't be written. Ray tries again.
    """
    training = config["training"]
    failed = None
    name, max_steps = training["name"], training["hyperparameters"]["max_steps"]
    logdir = f"{name}-log"

    def send(step):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, PACKED).write_bytes(pack(logdir))
            checkpoint = tune.Checkpoint.from_directory(folder)
            tune.report({"step": step, "failed": failed}, checkpoint=checkpoint)

    shutil.rmtree(logdir, ignore_errors=True)  # of a worker that died here
    if tune.get_checkpoint():
        unpack(packed_in(tune.get_checkpoint()), ".")
    elif name in begun:
        unpack(ray.get(begun[name]), ".")
    if os.path.isdir(logdir):
        state = read_checkpoint(logdir)
        if state["run"]["step"] == max_steps:
            return
        if state["file"]["missing"]:  # it can't be resumed, so it begins anew
            shutil.rmtree(logdir)
    start = ["--name", name, "--seed", str(training["seed"])]
    if os.path.isdir(logdir):
        start = ["--resume", logdir]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
            args = parse_args(vars(run), start + as_options(training))
            args.on_checkpoint = send
            run.main(args)
    except SystemExit:
        last_line = errors.getvalue().strip().rpartition("\n")[2]
        failed = last_line.partition(": ")[2]  # without the program's name
    except (FloatingPointError, WrongInput) as error:
        failed = str(error)
    if failed:
        send(max_steps)
    shutil.rmtree(logdir, ignore_errors=True)


def as_options(training):
    """A training's environment and hyperparameters as options of run.py: list of strings."""
    return [as_option("env", training["env"])] + [
        as_option(name, value) for name, value in training["hyperparameters"].items()
    ]


def read_progress(folder, training):
    """Reads from its checkpoint how far a training is.

    Args:
        folder: directory of the grid.
        training: one of `list_trainings`.

    Returns:
        dict with `settings`, `step` and `evaluations` of a `Run`; of step 0 without a checkpoint.

    Raises:
        WrongInput: the checkpoint can't be read.
    """
    logdir = Path(folder, f"{training['name']}-log")
    if not (logdir / CHECKPOINT).exists():
        return {"settings": {}, "step": 0, "evaluations": ()}
    try:
        return read_checkpoint(logdir)["run"]
    except WrongInput as error:
        raise WrongInput(f"{error}; delete {logdir} to train it from the start") from error


def pack(logdir):
    """Packs the directory of a run, if there is one, into a tar archive; returns its bytes."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        if os.path.isdir(logdir):
            tar.add(logdir, os.path.basename(logdir))
    return archive.getvalue()


def packed_in(checkpoint):
    """Takes out of a checkpoint of Ray what `train_one` has put in: the bytes of `pack`."""
    with checkpoint.as_directory() as folder:
        return Path(folder, PACKED).read_bytes()


def unpack(packed, folder):
    """Unpacks the directory of a run; if that is interrupted, its checkpoint is still whole.

    Args:
        packed: what `pack` returned, bytes.
        folder: where the directory is to be; its files may be there, of an earlier checkpoint.

    Raises:
        OSError: a file can't be written.
    """
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        files = [member for member in tar if member.isfile()]
        for file in sorted(files, key=lambda file: os.path.basename(file.name) == CHECKPOINT):
            path, content = Path(folder, file.name), tar.extractfile(file).read()
            path.parent.mkdir(exist_ok=True)
            old = path.read_bytes() if path.exists() else b""
            if "tfevents" in path.name and content.startswith(old):  # TensorBoard may be reading it
                with open(path, "ab") as events:
                    events.write(content[len(old) :])
                    events.flush()
                    os.fsync(events.fileno())
            elif content != old:
                write_file(path, content)
