"""What a worker of experiments/grid.py does: one training, and checkpoints of it for Ray Tune."""

import contextlib
import io
import os
import shutil
import tempfile

import fast_tensorflow  # noqa: F401  # isort: skip (first: it keeps TensorFlow quiet)

from ray import tune

import run
from checkpoints import CheckpointError, read_checkpoint
from command_line import WrongInput, make_env


def train_one(config):
    """One training, from its beginning or its last checkpoint; Ray Tune calls it in a worker.

    The run's directory is in the worker's own. A copy of it is what Ray keeps as checkpoint. With
    it come the `step` and, for a training that can't go on, why it has `failed`.

    Args:
        config: dict whose `training` is one of `list_trainings`.

    Raises:
        OSError: a file can't be written. Ray tries again.
    """
    training, failed = config["training"], None
    logdir = f"{training['name']}-log"

    def send(step):
        with tempfile.TemporaryDirectory() as folder:
            if os.path.isdir(logdir):
                shutil.make_archive(f"{folder}/run", "tar", base_dir=logdir)
            checkpoint = tune.Checkpoint.from_directory(folder)
            tune.report({"step": step, "failed": failed}, checkpoint=checkpoint)

    shutil.rmtree(logdir, ignore_errors=True)  # of a worker that died here
    argv = training["argv"]
    if tune.get_checkpoint():
        try:
            unpack(tune.get_checkpoint(), ".")
            step = read_checkpoint(logdir)[0]["step"]
        except (OSError, CheckpointError):  # Ray has deleted it: from the beginning, then
            shutil.rmtree(logdir, ignore_errors=True)
        else:
            if step == training["max_steps"]:
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


def unpack(checkpoint, folder):
    """Unpacks the directory of a run, which `train_one` has put into a checkpoint of Ray."""
    with checkpoint.as_directory() as packed:
        if os.path.isfile(f"{packed}/run.tar"):
            shutil.unpack_archive(f"{packed}/run.tar", folder, filter="data")
