"""Files that are never half written, and directories that one program at a time uses."""

import contextlib
import os

import filelock

from support.errors import WrongInput

PARTIAL = ".partial"
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
        os.replace(partial, filename)
        if os.name == "posix":  # where the new name has to be synced, too
            directory = os.open(os.path.dirname(filename) or ".", os.O_RDONLY)
            os.fsync(directory)
            os.close(directory)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.remove(partial)
        raise OSError(f"{filename} can't be written: {error.strerror}") from error


def partial_name(filename):
    """What a file is called while it is written."""
    root, extension = os.path.splitext(filename)
    return f"{root}{PARTIAL}{extension}"


def lock(directory):
    """Locks a directory until the `FileLock` returned is released, or this program ends.

    Raises `WrongInput` where another program has locked it, OSError where it can't be written to.
    """
    locked = filelock.FileLock(os.path.join(directory, ".lock"))
    try:
        locked.acquire(blocking=False)
    except filelock.Timeout:
        raise WrongInput(f"{directory} is in use by another program") from None
    except OSError as error:
        raise OSError(f"{directory} can't be locked: {error.strerror}") from error
    return locked


def check_name(option, name):
    """Raises `WrongInput` where the value of `option` can't be part of a file name."""
    is_one_name = name == os.path.basename(name) and name.isprintable()
    if not name or name[0] in ".-" or not is_one_name:
        raise WrongInput(f"{option} {name!r} is not a valid file name")
    if len(os.fsencode(name)) > MAX_NAME_BYTES:
        raise WrongInput(f"{option} {name!r} is too long for a file name")
