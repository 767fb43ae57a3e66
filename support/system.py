"""What the operating system allows a program: how much memory to use, and how long to run."""

import contextlib
import os
import signal
from pathlib import Path
from typing import NamedTuple

CGROUPS = Path("/sys/fs/cgroup")  # where Linux says what a container or a job may use
CGROUPS_OF_THIS = Path("/proc/self/cgroup")  # in which of them this program is
MEMORY_FILES = (  # of control groups, versions 2 and 1: the limit, and what is used
    ("memory.max", "anon", "shmem"),
    ("memory.limit_in_bytes", "total_rss", "total_shmem"),
)


class Memory(NamedTuple):
    """Amounts of memory, in bytes."""

    total: int
    used: int
    free: int


def find_memory():
    """The `Memory` of this machine, or the part that a container or a cluster's job may use."""
    import psutil  # here, because this file is imported even where libraries are missing

    machine = psutil.virtual_memory()
    found = [Memory(machine.total, machine.used, machine.available)]
    groups = CGROUPS_OF_THIS.read_text().splitlines() if CGROUPS_OF_THIS.exists() else []
    for line in groups:
        _, controllers, name = line.split(":", 2)
        if controllers in ("memory", ""):  # "" in version 2 of control groups
            folder = CGROUPS / controllers / name.lstrip("/")
            # In a container, the names may be those outside, and its own group is the outermost.
            limits = [read_memory_limit(group) for group in (folder, *folder.parents)]
            found += [limit for limit in limits if limit is not None]
    free = min(memory.free for memory in found)
    return min(found)._replace(free=free)


def read_memory_limit(group):
    """What a control group of Linux, a path, may use: a `Memory`; None where it has no limit.

    Files that are kept in memory don't count as used.
    """
    for limit, *names in MEMORY_FILES:
        with contextlib.suppress(OSError, ValueError, KeyError):  # of the other version, or "max"
            total = int((group / limit).read_text())
            lines = (group / "memory.stat").read_text().splitlines()
            statistics = dict(line.split() for line in lines)
            used = sum(int(statistics[name]) for name in names)
            return Memory(total, used, total - used)
    return None


def stop_signals():
    """Signals that ask a program to end: a list, of those that this system has.

    They are that of Ctrl-C; that of `kill`, and of a scheduler at the end of a job; that of a
    closed terminal, unless `nohup` has it ignored; and one with which schedulers warn.
    """
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    return [
        number
        for number in numbers
        if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN
    ]


def write_in_handler(text):
    """Writes bytes to standard output in a signal handler, which may have interrupted a print.

    Where the terminal has been closed, all further output is discarded.
    """
    try:
        os.write(1, text)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
