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
from tensorboard.summary.writer.record_writer import RecordWriter

from support.errors import WrongInput

OVERHEAD = 16  # bytes of a record beside its event: length and two checksums


class EventFile:
    """The one event file of the run in a directory, which is made or written on.

    A run always uses the same file, so that the order of its events doesn't depend on the clock.
    What follows a damaged record is cut off, since no program can read it.

    Args:
        logdir: the directory.

    Attributes:
        past: list of the `Event`s that it had when it was opened.

    Raises:
        OSError: it can't be written.
        WrongInput: it is a link or something else that leads elsewhere.
    """

    def __init__(self, logdir):
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}"
        filename = max(Path(logdir).glob("events.out.tfevents.*"), default=Path(logdir, name))
        is_elsewhere = filename.is_symlink() or not filename.is_file()
        if os.path.lexists(filename) and is_elsewhere:
            raise WrongInput(f"{filename} is not a regular file; remove it")
        self.file = open(filename, "ab")
        self.writer = RecordWriter(self.file)
        self.past = []
        size = 0
        with contextlib.suppress(tf.errors.DataLossError, DecodeError):
            for record in tf.data.TFRecordDataset(os.fsencode(filename)).as_numpy_iterator():
                self.past.append(Event.FromString(record))
                size += OVERHEAD + len(record)
        self.file.truncate(size)
        if not self.past:
            self.write(file_version="brain.Event:2")

    def write(self, **fields):
        """Writes an `Event` of these fields, so that TensorBoard can see it at once."""
        self.writer.write(Event(wall_time=time.time(), **fields).SerializeToString())
        self.writer.flush()

    def sync(self):
        """Returns when all that was written is on the disk."""
        os.fsync(self.file.fileno())

    def close(self):
        """Closes the file."""
        self.writer.close()


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
