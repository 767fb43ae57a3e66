"""Files that are written atomically, and directories that one program at a time uses."""

import contextlib
import os
import shlex
import subprocess
import time
import warnings

import filelock

from support.errors import WrongInput

PARTIAL = ".partial"
PATIENCE = 1  # second for which another program may hold a file, on Windows
MAX_NAME_BYTES = 200  # file systems allow 255, and a name gets endings


def write_file(filename, *pieces):
    """Writes a file atomically: at any moment it is the old one or the new one.

    It is written beside the old one and then renamed, so that a link of that name is replaced, and
    what it leads to stays as it is.

    Args:
        filename: its name.
        pieces: bytes, one after the other.

    Raises:
        OSError: it can't be written; an old one is then as it was.
    """
    partial = partial_name(filename)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.remove(partial)
        with open(partial, "xb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        replace(partial, filename)
        if os.name == "posix":  # where the new name has to be synced, too
            directory = os.open(os.path.dirname(filename) or ".", os.O_RDONLY)
            os.fsync(directory)
            os.close(directory)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.remove(partial)
        raise OSError(f"{filename} can't be written: {error.strerror}") from error


def replace(source, target):
    """Renames a file, which replaces another.

    On Windows, it waits a while for a program that reads that file, such as a virus scanner.
    """
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return os.replace(source, target)
        except PermissionError:
            if os.name != "nt" or time.monotonic() > end:
                raise
            time.sleep(0.05)


def partial_name(filename):
    """The name of a file while it is written."""
    root, extension = os.path.splitext(filename)
    return f"{root}{PARTIAL}{extension}"


def lock(directory):
    """Locks a directory until the `FileLock` returned is released, or this program ends.

    Where the file system has no locks, a file stands for one, and outlasts a kill; one of another
    computer has to be deleted by hand.

    Raises `WrongInput` where another program has locked it, OSError where it can't be written to.
    """
    filename = os.path.join(directory, ".lock")
    locked = filelock.FileLock(filename)
    try:
        with warnings.catch_warnings(action="ignore"):  # that a file stands for it
            locked.acquire(blocking=False)
    except filelock.Timeout:
        raise WrongInput(f"{directory} is in use by another program{owner(filename)}") from None
    except OSError as error:
        raise OSError(f"{directory} can't be locked: {error.strerror}") from error
    return locked


def owner(filename):
    """Who has made a file that stands for a lock: a part of a sentence; "" if that isn't known.

    Such a file has the number of a process and the name of its computer.
    """
    try:
        with open(filename, encoding="utf-8") as file:
            process, computer, *_ = file.read().splitlines()
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(os.path.getmtime(filename)))
    except (OSError, ValueError):
        return ""
    return (
        f", process {process} on {computer}, since {since}; if that has ended, delete "
        f"{quote(filename)}"
    )


def quote(name):
    """A name of a file as a command line takes it, with quotes where it needs some."""
    return subprocess.list2cmdline([name]) if os.name == "nt" else shlex.quote(name)


def check_name(option, name):
    """Raises `WrongInput` where the value of `option` can't be part of a file name."""
    is_one_name = name == os.path.basename(name) and name.isprintable()
    if not name or name[0] in ".-" or not is_one_name:
        raise WrongInput(f"{option} {name!r} is not a valid file name")
    if len(os.fsencode(name)) > MAX_NAME_BYTES:
        raise WrongInput(f"{option} {name!r} is too long for a file name")
