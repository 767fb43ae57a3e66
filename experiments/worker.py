"""One training of experiments/grid.py in a worker of Ray Tune, and its run directory on the way."""

import contextlib
import io
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import fast_tensorflow  # noqa: F401  # isort: skip (first: it keeps TensorFlow quiet)

import ray
from ray import tune

import run
from checkpoints import CHECKPOINT, CheckpointError, read_checkpoint, write_file
from command_line import WrongInput, make_env

PACKED = "run.tar"  # in a checkpoint of Ray: the directory of the run


def train_one(config, begun):
    """One training, from its beginning or its last checkpoint; Ray Tune calls it in a worker.

    The run's directory is in the worker's own. What Ray keeps as checkpoint is that, packed. With
    it come the `step` and, for a training that can't go on, why it has `failed`.

    Args:
        config: dict whose `training` is one of `list_trainings`.
        begun: dict of the names of trainings that have begun before, to references that Ray has to
            what `pack` returned.

    Raises:
        OSError: a file can't be written. Ray tries again.
    """
    training, failed = config["training"], None
    name, argv = training["name"], training["argv"]
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
        if read_checkpoint(logdir)[0]["step"] == training["max_steps"]:
            return
        argv = ["--resume", logdir]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
            args = run.parse_args(argv)
            envs = make_env(args.env), make_env(args.env)
            run.start_training(args, *envs, lambda checkpoint: send(checkpoint.saved_step))
    except SystemExit:
        failed = errors.getvalue().partition(": ")[2].strip()  # without the program's name
    except (FloatingPointError, WrongInput) as error:
        failed = str(error)
    if failed:
        send(training["max_steps"])
    shutil.rmtree(logdir, ignore_errors=True)


def steps_done(folder, trainings):
    """How far the trainings of a grid are.

    Args:
        folder: directory of the grid.
        trainings: list of `list_trainings`.

    Returns:
        dict of their names to their steps up to the last checkpoint, ints.

    Raises:
        CheckpointError: a checkpoint can't be read.
    """
    done = {}
    for name in (training["name"] for training in trainings):
        logdir = Path(folder, f"{name}-log")
        try:
            done[name] = read_checkpoint(logdir)[0]["step"]
        except CheckpointError as error:
            if (logdir / CHECKPOINT).exists():
                raise CheckpointError(f"{error}; delete {logdir} to train it anew") from error
            done[name] = 0
    return done


def pack(logdir):
    """Directory of a run, if there is one, as a tar archive (which TensorBoard ignores): bytes."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        if os.path.isdir(logdir):
            tar.add(logdir, os.path.basename(logdir))
    return archive.getvalue()


def packed_in(checkpoint):
    """What `train_one` has put into a checkpoint of Ray: bytes of `pack`."""
    with checkpoint.as_directory() as folder:
        return Path(folder, PACKED).read_bytes()


def unpack(packed, folder):
    """Writes the directory of a run so that, whatever happens, its checkpoint is whole.

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
            if "tfevents" in file.name:  # which only grows, and TensorBoard may be reading it
                with open(path, "ab") as events:
                    events.write(content[events.tell() :])
                    events.flush()
                    os.fsync(events.fileno())
            elif not path.exists() or path.read_bytes() != content:
                write_file(path, content)
