"""Event files of TensorBoard that are written on after a kill, a crash or a power cut."""

import os
import socket
import time
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event

RECORD_OVERHEAD = 16  # bytes: length and two check sums


def open_events(logdir):
    """Opens the event file of a run, to write at its end, without what is damaged there.

    There is one file for the whole life of a run: so its order doesn't depend on any clock.

    Args:
        logdir: directory of the run.

    Returns:
        (file, events): unbuffered binary file; list of the `Event`s that it holds.

    Raises:
        OSError: it can't be written.
    """
    files = sorted(Path(logdir).glob("events.out.tfevents.*"))
    name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}"
    filename = files[-1] if files else Path(logdir, name)
    file = open(filename, "ab", buffering=0)
    events, size = read_events(filename)
    file.truncate(size)
    return file, events


def read_events(filename):
    """Reads an event file up to its end or the first record that is damaged.

    Returns:
        (events, size): list of `Event`s, and how many bytes they take.
    """
    events, size = [], 0
    try:
        for record in tf.data.TFRecordDataset(str(filename)).as_numpy_iterator():
            events.append(Event.FromString(record))
            size += RECORD_OVERHEAD + len(record)
    except (tf.errors.DataLossError, DecodeError):
        pass
    return events, size
