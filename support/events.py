"""Event files of TensorBoard that are written on after a kill, a crash or a power cut."""

import contextlib
import os
import socket
import time
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event

OVERHEAD = 16  # bytes of a record beside its event: length and two check sums


def open_events(logdir):
    """Opens the one event file of the run in a directory, or makes it, to write at its end.

    That a run has one file for life makes the order of its events independent of any clock. What
    follows a damaged record is cut off, for no program reads it.

    Returns:
        (file, events): unbuffered binary file; list of the `Event`s in it.

    Raises:
        OSError: it can't be written.
    """
    name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}"
    filename = max(Path(logdir).glob("events.out.tfevents.*"), default=Path(logdir, name))
    file = open(filename, "ab", buffering=0)
    events, size = [], 0
    with contextlib.suppress(tf.errors.DataLossError, DecodeError):
        for record in tf.data.TFRecordDataset(os.fsencode(filename)).as_numpy_iterator():
            events.append(Event.FromString(record))
            size += OVERHEAD + len(record)
    file.truncate(size)
    return file, events
