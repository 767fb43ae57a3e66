"""Files and directories that are whole at any moment, and used by one program at a time."""

import contextlib
import os

from support.errors import WrongInput

try:
    import fcntl
except ImportError:  # Windows, where two programs are not kept from one run
    fcntl = None

PARTIAL = ".partial"


def write_file(filename, content):
    """Writes a file in one instant: whatever happens, there is the old one or the new one.

    Args:
        filename: path of the file.
        content: bytes.

    Raises:
        OSError: it can't be written; an old one is as it was.
    """
    root, extension = os.path.splitext(filename)
    partial = f"{root}{PARTIAL}{extension}"
    try:
        with open(partial, "wb") as file:
            file.write(content)
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


def lock(directory):
    """Locks a directory, until it is unlocked or this program ends, however it ends.

    Args:
        directory: path.

    Returns:
        File descriptor, which `unlock` takes; None on Windows.

    Raises:
        WrongInput: another program has locked it.
        OSError: there is no such directory, or it can't be opened.
    """
    if not fcntl:
        return None
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise WrongInput(f"{directory} is in use by another program") from None
    return descriptor


def unlock(descriptor):
    """Ends what `lock` began."""
    if descriptor is not None:
        os.close(descriptor)


def check_name(option, name):
    """Raises `WrongInput` where the value of `option` can't be part of a file name."""
    plain = name and name[0] not in ".-" and name == os.path.basename(name) and name.isprintable()
    if not plain:
        raise WrongInput(f"{option} {name!r} is no plain file name")
    if len(os.fsencode(name)) > 200:
        raise WrongInput(f"{option} {name!r} is too long for a file name")
