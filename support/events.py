"""Event files of TensorBoard that are written on after a kill, a crash or a power cut."""

import contextlib
import os
import socket
import time
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from support.errors import WrongInput

OVERHEAD = 16  # bytes of a record beside its event: length and two check sums


def open_events(logdir):
    """Opens the one event file of the run in a directory, or makes it, to write at its end.

    That a run has one file for life makes the order of its events independent of any clock. What
    follows a damaged record is cut off, for no program reads it.

    Returns:
        (file, events): binary file; list of the `Event`s in it.

    Raises:
        OSError: it can't be written.
        WrongInput: it is a link or something else that leads elsewhere.
    """
    name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}"
    filename = max(Path(logdir).glob("events.out.tfevents.*"), default=Path(logdir, name))
    if os.path.lexists(filename) and (filename.is_symlink() or not filename.is_file()):
        raise WrongInput(f"{filename} is no file, or one of somebody else's; remove it")
    file = open(filename, "ab")
    events, size = [], 0
    with contextlib.suppress(tf.errors.DataLossError, DecodeError):
        for record in tf.data.TFRecordDataset(os.fsencode(filename)).as_numpy_iterator():
            events.append(Event.FromString(record))
            size += OVERHEAD + len(record)
    file.truncate(size)
    return file, events


def first_columns(summary, count):
    """Lets the first columns of TensorBoard's HParams page stay the first ones.

    The page sorts columns by name and shows five of them, but those that are marked as differing
    between runs come before the others. `summary` is one of `hparams_config_pb`, and returned.
    """
    plugin_data = summary.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(plugin_data.content)
    for column in content.experiment.hparam_infos[:count]:
        column.differs = True
    plugin_data.content = content.SerializeToString()
    return summary
