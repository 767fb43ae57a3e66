"""Mistakes in using a program end in one line; mistakes in its code keep their traceback."""

import contextlib
import importlib.util
import math
import os
import re
import signal
import sys
import sysconfig
import traceback
from pathlib import Path

from support.system import find_memory

ROOT = Path(__file__).parent.parent
GIGABYTE = 1024**3  # bytes
MODULES = {  # of libraries with another name on the registry
    "pillow": "PIL",
    "pygame-ce": "pygame",
    "pytest-xdist": "xdist",
}
INSTALLED = ("<frozen", *(sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib")))


class WrongInput(ValueError):
    """What the user asked for can't be done; the message says why, and what to do instead."""

    def _render_traceback_(self):
        """What a notebook shows of it: a line."""
        return [f"{type(self).__name__}: {self}"]


class BrokenEnvironment(WrongInput):
    """An environment has returned something that can't be learned from."""


class Diverged(ArithmeticError):
    """The training has diverged: its loss or a weight is no longer finite."""


def check_loss(loss, step):
    """Raises `Diverged` where the loss, a float, at a training step isn't finite."""
    if not math.isfinite(loss):
        raise Diverged(f"the loss is {loss} at step {step}")


def check_memory(needed, what):
    """Raises `WrongInput` where less memory is free than is needed.

    Args:
        needed: bytes.
        what: what needs them, a string.
    """
    free = find_memory().free
    if needed > free:
        raise WrongInput(
            f"{what} would need {needed / GIGABYTE:.1f} GB of memory, and "
            f"{free / GIGABYTE:.1f} GB are free; lower it"
        )


def check_installed(*files):
    """Ends the program in one line, with status 2, where a library is not installed.

    Args:
        files: names of requirements files in the project's folder; the last one includes the
            others, and is what the line tells the user to install.
    """
    lines = "\n".join((ROOT / file).read_text(encoding="utf-8") for file in files)
    names = re.findall(r"^\w[\w-]*", lines, re.MULTILINE)
    missing = [name for name in names if importlib.util.find_spec(MODULES.get(name, name)) is None]
    if missing:
        message = f"not installed: {', '.join(missing)}; pip install -r {files[-1]}"
        exit_with_error(message, status=2)


def print_message(message):
    """Prints a message on one line of standard error, with unprintable characters escaped."""
    text = " ".join(str(message).split())
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    program = os.path.basename(sys.argv[0])
    if program == "-m":  # Python is still looking for the module that it is to run
        program = "python -m"
    print(f"{program}: {text}", file=sys.stderr)


def exit_with_error(message, status):
    """Ends the program with a message on one line, and an exit status."""
    print_message(message)
    sys.exit(status)


@contextlib.contextmanager
def plain_errors():
    """Ends the program with a message on one line where the user or the machine is at fault.

    The exit status is 2 for wrong input, 128 and the number of the signal after Ctrl-C or another
    signal, and otherwise 1. An `OSError` that is raised in support/ or experiments/ is reported in
    one line; one that your own code raises is a mistake in it, and keeps its traceback, like all
    other exceptions. Output appears line by line, also in a pipe.
    """
    with contextlib.suppress(AttributeError):  # of an object that has replaced standard output
        sys.stdout.reconfigure(line_buffering=True, errors="replace")
    if os.isatty(2) and 0 in os.get_terminal_size(2):  # as in Google Colab: tqdm would show no bar
        import termios  # here, because Windows has none

        termios.tcsetwinsize(2, (24, 80))
    try:
        yield
    except WrongInput as error:
        exit_with_error(error, status=2)
    except KeyboardInterrupt as interrupt:
        (number,) = interrupt.args or (signal.SIGINT,)  # a `Run` says which signal has ended it
        sys.exit(128 + number)
    except Diverged as error:
        exit_with_error(error, status=1)
    except OSError as error:
        if not is_fault_of_machine(error):
            raise
        exit_with_error(error, status=1)


def is_fault_of_machine(error):
    """Whether an exception is due to a full disk or a lack of memory, say, and not to the code.

    An `OSError` that is raised in support/ or experiments/ is; one that your own code raises is a
    mistake in it.
    """
    if isinstance(error, OSError):
        frames = own_frames(error.__traceback__)
        return bool(frames) and is_machinery(frames[-1].filename)
    return isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"


def is_machinery(filename):
    """Whether a file of source is in support/ or experiments/."""
    folders = (ROOT / "support", ROOT / "experiments")
    return any(Path(filename).is_relative_to(folder) for folder in folders)


def describe(error):
    """An exception in one line, with the place in the project's code where it comes from."""
    frames = own_frames(error.__traceback__)
    if not frames:
        return repr(error)
    return f"{error!r} ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})"


def is_installed(filename):
    """Whether a file of source is part of Python or of an installed library."""
    return filename.startswith(INSTALLED)


def own_frames(trace):
    """The frames of a traceback that are in no installed library: list of `FrameSummary`."""
    return [frame for frame in traceback.extract_tb(trace) if not is_installed(frame.filename)]
