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
    """Prints a message on one line of standard error, unprintables escaped; returns `status`."""
    text = " ".join(str(message).split())
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    print(f"{os.path.basename(sys.argv[0])}: {text}", file=sys.stderr)
    return status


def plain_errors(kind, error, trace):
    """`sys.excepthook` that tells the user's mistakes from ours, which keep their traceback.

    The exit status is 2 for wrong input and missing libraries, 130 after Ctrl-C, otherwise 1.
    """
    if isinstance(error, ModuleNotFoundError):
        folders = {Path(frame.filename).parent for frame in traceback.extract_tb(trace)}
        file = f"{'experiments/' if ROOT / 'experiments' in folders else ''}requirements.txt"
        installed = {library.name for library in importlib.metadata.distributions()}
        lines = (ROOT / "requirements.txt").read_text() + (ROOT / file).read_text()
        needed = dict.fromkeys(re.findall(r"^\w[\w-]*", lines, re.MULTILINE))
        missing = ", ".join(name for name in needed if name not in installed)
        if missing:
            error = WrongInput(f"not installed: {missing}; pip install -r {file}")
    if isinstance(error, MemoryError):
        error = WrongInput(f"too little memory: {error}; make what you have raised smaller")
    if hasattr(sys, "ps1"):  # typed into Python
        sys.__excepthook__(kind, error, trace)
    elif isinstance(error, WrongInput):
        sys.exit(one_line(error, status=2))
    elif isinstance(error, KeyboardInterrupt):
        sys.exit(130)
    elif isinstance(error, (OSError, FloatingPointError)):
        sys.exit(one_line(error, status=1))
    else:
        sys.__excepthook__(kind, error, trace)
