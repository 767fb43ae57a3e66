"""Refuses what doesn't fit into memory before a system without any left kills the program."""

import psutil

from support.errors import WrongInput

GIGABYTE = 1024**3  # bytes


def check_memory(needed, what):
    """Raises `WrongInput` where less memory is free than is needed.

    Args:
        needed: bytes.
        what: what needs them, and where they are set, a string.
    """
    available = psutil.virtual_memory().available
    if needed > available:
        raise WrongInput(
            f"{what} would need {needed / GIGABYTE:.1f} GB of memory, and "
            f"{available / GIGABYTE:.1f} GB are free; lower it"
        )
