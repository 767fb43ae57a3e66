"""Trains runs side by side, on this machine or a cluster; the only module that uses Ray.

A run is a task of Ray. While it is trained, it puts its newest state into a mailbox, from which the
program that was started takes it out and writes it down; so the computers of a cluster share no
directory. When its process or its computer dies, it starts again from the newest state.
"""

import collections
import contextlib
import io
import os
import secrets
import signal
import socket
import tempfile

import loky
import psutil

from experiments.common.state import State
from support.errors import ROOT, WrongInput
from support.system import find_memory, stop_signals, write_in_handler

# Ray reads these when it is imported. It is to send no statistics about its use, and to leave out
# what is excluded below, not what Git ignores.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_RUNTIME_ENV_IGNORE_GITIGNORE"] = "1"

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

DEATHS = 5  # of a run, with its process or its computer, after which it has failed
PATIENCE = 0.5  # seconds between two looks into the mailbox
MEMORY = 2**30  # bytes that a process takes, TensorFlow included
MEMORY_PER_CONFIGURATION = 20 * 2**20  # bytes more, for TensorFlow keeps all that it has compiled
STORE = 2**28  # bytes for what processes send each other
MAX_FOLDER = 26  # bytes, for a socket's path has at most 103, and Ray's in it take up to 77
WORKER = {  # what a process gets: the project as it is now, the reader's files included; one core
    "working_dir": str(ROOT),
    "excludes": [
        *(f"/{file.parent.name}" for file in ROOT.glob("*/pyvenv.cfg")),  # libraries, which it has
        *(".git", ".*_cache", "__pycache__", "*-log", "*-sweep"),
        *("/docs", "/images", "/tests", "/findings", "/experiments/results", "/experiments/page"),
    ],
    "env_vars": {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"},
}


def check_address(address):
    """Raises `WrongInput` if nothing answers at the HOST:PORT of a cluster."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        what = f"--address {address!r} is not the HOST:PORT of a `ray start --head`"
        raise WrongInput(f"{what}: {error}") from error


@contextlib.contextmanager
def connect(address=None, cores=None):
    """Starts Ray on this machine, or connects to a cluster; ends that afterwards.

    Ctrl-C, SIGTERM and the like would make Ray crash, so meanwhile they only add to a list; its
    processes ignore them, for schedulers send them to all of a job. Ray's files are in a
    directory of its own, which is removed afterwards. What is to be printed has to be printed to
    `sys.__stdout__`.

    Args:
        address: HOST:PORT of a cluster; None for this machine.
        cores: how many to use of this machine; None for all that this program may use.

    Yields:
        List of the signals that have come, ints.

    Raises:
        WrongInput: there is no such cluster.
    """
    if address:
        check_address(address)
    signals = []
    others = psutil.Process().children(recursive=True)
    with (
        collecting(signals),
        # Ray reports processes that have died on standard output; here, `train` reports them.
        contextlib.redirect_stdout(io.StringIO()),
        tempfile.TemporaryDirectory(
            prefix="ray-", dir=find_short_folder(), ignore_cleanup_errors=True
        ) as folder,
    ):
        here = {
            "address": "local",
            "num_cpus": cores or loky.cpu_count(),
            "_memory": max(1, find_memory().free - STORE),
            "object_store_memory": STORE,
            "include_dashboard": False,
            "_temp_dir": folder,
        }
        where = {"address": address} if address else here
        if address is None:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # or it is put into ~
        try:
            with held_back(stop_signals()):
                ray.init(
                    **where,
                    runtime_env={**WORKER},  # a copy, for Ray changes it
                    log_to_driver=False,
                    logging_level="CRITICAL",
                )
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            if address is None:
                problem = f"Ray doesn't start: {error}"
                raise OSError(
                    f"{problem}; its files are in {folder}, or where TMPDIR says"
                ) from error
            problem = f"--address {address}: {error}; is RAY_AUTH_MODE the same as there?"
            raise WrongInput(problem) from error
        try:
            yield signals
        finally:
            shut_down(others, folder)


def find_short_folder():
    """A directory for temporary files whose name leaves room for those of Ray's sockets."""
    folder = tempfile.gettempdir()
    return folder if len(os.fsencode(folder)) <= MAX_FOLDER or os.name == "nt" else "/tmp"


def shut_down(others, folder):
    """Ends Ray and all its processes here; these don't hear the SIGTERM with which it would do so.

    Args:
        others: list of the processes that this one has started besides, of `psutil`.
        folder: the directory of Ray's files, which is named to those that begin.
    """
    started = set(psutil.Process().children(recursive=True)) - set(others)
    node = ray._private.worker._global_node  # to this, there is no public way
    kill = node.kill_all_processes
    node.kill_all_processes = lambda **how: kill(**{**how, "allow_graceful": False})
    ray.shutdown()
    for process in psutil.process_iter(["cmdline"]):
        if folder in " ".join(process.info["cmdline"] or []):
            started.add(process)  # it had not begun before
    for process in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(started, timeout=10)


@contextlib.contextmanager
def collecting(signals):
    """Lets the signals that ask a program to end do nothing but add their numbers to a list."""

    def collect(number, frame):
        signals.append(number)
        write_in_handler(b"\nStopping\n")

    numbers = stop_signals()
    before = [signal.signal(number, collect) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def held_back(numbers):
    """Lets signals wait, and keeps their handlers; processes started meanwhile never get them."""
    handlers = [signal.getsignal(number) for number in numbers]
    can_wait = hasattr(signal, "pthread_sigmask")  # not on Windows
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers) if can_wait else None
    try:
        yield
    finally:
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)
        if can_wait:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def demand(n_configurations):
    """What a process needs: a core, and memory for so many configurations.

    It asks for no more memory than a computer has.

    Returns:
        Dict of options of a task of Ray.
    """
    memory = MEMORY + MEMORY_PER_CONFIGURATION * (n_configurations - 1)
    most = max(node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"])
    return {"num_cpus": 1, "memory": min(memory, int(most)), "max_retries": 0}


def count_places(n_configurations):
    """How many runs there are cores and memory for at a time, at least 1; see `demand`."""
    memory = demand(n_configurations)["memory"]
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    places = [min(has.get("CPU", 0), has.get("memory", 0) // memory) for has in resources]
    return max(1, int(sum(places)))


def call(signals, function, *args):
    """Calls a function in a process of its own, and returns its result.

    Args:
        signals: what `connect` gives.
        function, args: what to call.

    Raises:
        KeyboardInterrupt: a signal has come.
        OSError: the process has died.
    """
    task = ray.remote(**demand(1))(function).remote(*args)
    while not ray.wait([task], timeout=PATIENCE)[0]:
        if signals:
            raise KeyboardInterrupt
    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError as error:
        raise OSError(why_died(error)) from error


class Mailbox:
    """Where runs put their newest states."""

    def __init__(self):
        self.states = {}

    def put(self, name, state):
        """Puts in the `State` of a run in place of the one before."""
        self.states[name] = state

    def take(self):
        """Takes everything out: a dict of the names of runs to `State`s."""
        states, self.states = self.states, {}
        return states


def train_one(engine, run, begun, mailbox):
    """The task of a run; see `engines`."""
    from experiments.common import engines  # here, for it loads TensorFlow

    train = {"compiled": engines.train_compiled, "exact": engines.train_exact}[engine]
    return train(run, begun, lambda state: ray.get(mailbox.put.remote(run.name, state)))


def train(runs, engine, find_begun):
    """Trains runs, as many at a time as there are cores and memory for.

    Args:
        runs: list of `Run`s.
        engine: "compiled" or "exact".
        find_begun: function from a `Run` to its directory, packed, if it has begun before, or None.

    Yields:
        Twice a second, and whenever a run ends: the news, a list of pairs of a `Run` and its newest
        `State`.

    Raises:
        OSError: Ray itself has died.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    lasting = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
    mailbox = ray.remote(Mailbox).options(scheduling_strategy=here, **lasting).remote()
    n_configurations = len({run.configuration for run in runs})
    task = ray.remote(**demand(n_configurations))(train_one)
    by_name = {run.name: run for run in runs}
    waiting = collections.deque(runs)
    running = {}
    deaths = collections.Counter()

    while waiting or running:
        # Not more: Ray lends the core of a task that waits for the mailbox to another.
        while waiting and len(running) < count_places(n_configurations):
            run = waiting.popleft()
            running[task.remote(engine, run, find_begun(run), mailbox)] = run
        ended, _ = ray.wait(list(running), timeout=PATIENCE)
        try:
            reported = ray.get(mailbox.take.remote())
        except ray.exceptions.RayError as error:
            raise OSError(f"Ray has died: {type(error).__name__}") from error
        news = [(by_name[name], state) for name, state in reported.items()]
        for reference in ended:
            run = running.pop(reference)
            try:
                state = ray.get(reference)
            except ray.exceptions.RayError as error:
                deaths[run.name] += 1
                state = State(died=why_died(error))
                if deaths[run.name] < DEATHS:
                    waiting.appendleft(run)
                else:
                    reason = f"{state.died}, {DEATHS} times (--resume tries again)"
                    state = State(failed=reason, is_over=True)
            news.append((run, state))
        yield news


def why_died(error):
    """Why a process has ended without a result, from an exception of Ray: a string."""
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "its process was killed for lack of memory; fewer --cores take less"
    if isinstance(error, ray.exceptions.RayTaskError):
        return str(error.cause)
    if isinstance(error, ray.exceptions.RuntimeEnvSetupError):
        reason = str(error).strip().splitlines()[-1]
        return f"its process couldn't be started: {reason} (Ray's files are where TMPDIR says)"
    return "its process or its computer has died"
