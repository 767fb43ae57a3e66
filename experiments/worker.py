"""Trains one run of a grid in a worker of Ray Tune, and sends its directory back."""

import contextlib
import io
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import ray
from ray import tune

from experiments.runs import as_options, describe_mistake
from support.checkpoints import CHECKPOINT, read_checkpoint
from support.errors import ROOT, Diverged, WrongInput
from support.files import write_file
from support.options import load_lesson

PACKED = "run.tar"  # in a checkpoint of Ray: the directory of the run


def train_one(config, begun):
    """Trains one run, from its start or its last checkpoint; Ray Tune calls it in a worker.

    The run's directory is made in that of the worker. Ray's checkpoints hold it, packed; each comes
    with the `step` and, for a run that can't go on, the reason why it `failed`, and whether that
    `is_mistake` in the code, which every run may come to, or the fault of its setting.

    Args:
        config: dict whose `run` is one of `list_runs`.
        begun: dict from the names of runs that have begun before to Ray's references to what `pack`
            returned.

    Raises:
        OSError: a file can't be written. Ray tries again.
    """
    planned = config["run"]
    failed, is_mistake = None, False
    name, max_steps = planned["name"], planned["hyperparameters"]["max_steps"]
    logdir = f"{name}-log"

    def send(step):
        metrics = {"step": step, "failed": failed, "is_mistake": is_mistake}
        try:
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, PACKED).write_bytes(pack(logdir))
                tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))
        except Exception as error:  # the library of each kind of storage has its own
            raise OSError(f"a checkpoint can't be stored: {error!r}") from error

    shutil.rmtree(logdir, ignore_errors=True)  # left by a worker that died here
    if tune.get_checkpoint():
        unpack(packed_in(tune.get_checkpoint()), ".")
    elif name in begun:
        unpack(ray.get(begun[name]), ".")
    if os.path.isdir(logdir):
        state = read_checkpoint(logdir)
        if state["run"]["step"] == max_steps:
            return
        if state["file"]["missing"]:  # it can't be resumed, so it starts again
            shutil.rmtree(logdir)
    arguments = ["--name", name, "--seed", str(planned["seed"]), *as_options(planned)]
    if os.path.isdir(logdir):
        resumed = ["--max-steps", str(max_steps), "--env", planned["env"]]
        arguments = ["--resume", logdir, *resumed]
    silent = io.StringIO()
    try:
        with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
            lesson = load_lesson(ROOT / "run.py", arguments)
            from support.training import Training  # here, where TensorFlow is loaded

            Training.on_checkpoint = staticmethod(send)
            lesson.main(lesson.options)
    except OSError:
        raise
    except Exception as error:
        is_mistake = not isinstance(error, (Diverged, WrongInput))
        failed = describe_mistake(error) if is_mistake else str(error)
        send(max_steps)
    shutil.rmtree(logdir, ignore_errors=True)


def read_progress(folder, planned):
    """Reads from its checkpoint how far a run is.

    Args:
        folder: directory of the grid.
        planned: one of `list_runs`.

    Returns:
        Dict with the `settings`, `step` and `evaluations` of the run; without a checkpoint, those
        of one that has not begun.

    Raises:
        WrongInput: the checkpoint can't be read.
    """
    logdir = Path(folder, f"{planned['name']}-log")
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
    """What `pack` returned, bytes, from a checkpoint of Ray into which `train_one` has put it."""
    with checkpoint.as_directory() as folder:
        return Path(folder, PACKED).read_bytes()


def unpack(packed, folder):
    """Unpacks the directory of a run; if that is interrupted, its checkpoint is still whole.

    Args:
        packed: what `pack` returned, bytes.
        folder: where the directory is to be; files of an earlier checkpoint may be there.

    Raises:
        OSError: a file can't be written.
    """
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        files = [member for member in tar if member.isfile()]
        for file in sorted(files, key=lambda file: os.path.basename(file.name) == CHECKPOINT):
            path, content = Path(folder, file.name), tar.extractfile(file).read()
            path.parent.mkdir(exist_ok=True)
            old = path.read_bytes() if path.exists() else b""
            is_log = "tfevents" in path.name and not path.is_symlink()
            if is_log and content.startswith(old):  # TensorBoard may be reading it
                with open(path, "ab") as events:
                    events.write(content[len(old) :])
                    events.flush()
                    os.fsync(events.fileno())
            elif content != old:
                write_file(path, content)
