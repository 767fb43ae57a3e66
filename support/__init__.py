"""What makes a program of the lesson. Nothing here imports the lesson: what it needs is handed to it.

Whatever imports it first gets open standard streams and mistakes told in one line.
"""

import contextlib
import os
import sys

for _descriptor in range(3):
    try:
        os.fstat(_descriptor)
    except OSError:  # whoever started us has closed it
        os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
for _name in ("stdout", "stderr"):
    if getattr(sys, _name) is None:
        setattr(sys, _name, open(os.devnull, "w"))
with contextlib.suppress(AttributeError):  # of what others have put in its place
    sys.stdout.reconfigure(line_buffering=True, errors="replace")

from support.errors import plain_errors  # noqa: E402 (it may have to write)

sys.excepthook = plain_errors
