"""What turns the lesson into a robust program.

It never imports the lesson: what it needs to know about it is passed to it.
"""

import os
import sys

from support.errors import check_installed

for stream in ("stdin", "stdout", "stderr"):
    if getattr(sys, stream) is None:  # it is closed, and the next file opened would have its number
        setattr(sys, stream, open(os.devnull, "r" if stream == "stdin" else "w"))

check_installed("requirements.txt")
