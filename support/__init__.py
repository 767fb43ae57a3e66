"""What makes a program of the lesson, and never imports it: what it needs is handed to it.

Importing it opens standard streams that are closed, and makes mistakes end in one line.
"""

import contextlib
import os
import sys

for _descriptor in range(3):
    try:
        os.fstat(_descriptor)
    except OSError:
        os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
for _name in ("stdout", "stderr"):
    if getattr(sys, _name) is None:
        setattr(sys, _name, open(os.devnull, "w"))
with contextlib.suppress(AttributeError):  # of what somebody has put in its place
    sys.stdout.reconfigure(line_buffering=True, errors="replace")

from support.errors import plain_errors  # noqa: E402 (it may have to write)

sys.excepthook = plain_errors
