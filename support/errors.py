"""Mistakes end in one line on standard error, instead of a traceback."""

import importlib.metadata
import os
import re
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).parent.parent


class WrongInput(ValueError):
    """What the reader asked for can't be done; the message says why, and what to do instead."""


def one_line(message, status):
    """Prints a message on one line of standard error, with what isn't printable spelled out.

    Args:
        message: string or exception.
        status: exit status of the program, returned for `sys.exit`.
    """
    text = " ".join(str(message).split())
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    print(f"{os.path.basename(sys.argv[0])}: {text}", file=sys.stderr)
    return status


def plain_errors(kind, error, trace):
    """`sys.excepthook` that knows whose mistake an error is; one of ours keeps its traceback.

    The exit status is 2 for wrong input and for a library that isn't installed, 130 after Ctrl-C,
    otherwise 1.
    """
    if hasattr(sys, "ps1"):  # typed into Python
        return sys.__excepthook__(kind, error, trace)
    if issubclass(kind, KeyboardInterrupt):
        sys.exit(130)
    if issubclass(kind, WrongInput):
        sys.exit(one_line(error, status=2))
    if issubclass(kind, ModuleNotFoundError):
        places = [Path(frame.filename).parent for frame in traceback.extract_tb(trace)]
        requirements = Path("experiments" if ROOT / "experiments" in places else "")
        requirements /= "requirements.txt"
        missing = missing_libraries(ROOT / requirements)
        if missing:
            problem = f"{', '.join(missing)} not installed: pip install -r {requirements}"
            sys.exit(one_line(problem, status=2))
    if issubclass(kind, MemoryError):
        sys.exit(one_line(f"too little memory: {error}; lower what you have raised", status=2))
    if issubclass(kind, (OSError, FloatingPointError)):
        sys.exit(one_line(error, status=1))
    sys.__excepthook__(kind, error, trace)


def missing_libraries(requirements):
    """Names in a requirements.txt, and in those that it includes, that are not installed: a list."""
    missing = []
    for line in requirements.read_text().splitlines():
        if line.startswith("-r "):
            missing += missing_libraries(requirements.parent / line[3:])
        else:
            name = re.match(r"[\w.-]+", line)[0]
            try:
                importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                missing.append(name)
    return missing
