"""What a system asks of a program, allows it and keeps from it: containers, clusters, Windows."""

import contextlib
import errno
import gc
import os
import pty
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT

from support import files, system
from support.errors import WrongInput
from support.fast_tensorflow import uncollected
from support.files import lock, quote, write_file
from support.runs import Run
from support.system import find_memory, stop_signals

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]
GIGABYTE = 2**30
OPTIONS = SimpleNamespace(name="x", seed=1, settings={}, stopped_run=None)


def start(code, **options):
    """Starts Python code from the project's folder, in which it prints to pipes."""
    command = [sys.executable, "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **{"cwd": ROOT, **pipes, **options})


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_run_after_its_step_though_it_is_sent_twice(number, capfd):
    with pytest.raises(KeyboardInterrupt) as ended, Run(OPTIONS, 10, 5) as run:
        signal.raise_signal(number)
        signal.raise_signal(number)
        assert run.is_interrupted
    assert ended.value.args == (number,)
    assert capfd.readouterr().out.count("Stopping after this step") == 1


@pytest.mark.parametrize("number, is_hurried", [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_a_second_ctrl_c_leaves_at_once_and_other_signals_wait(number, is_hurried, monkeypatch):
    clock, left = [0.0], []
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr("os._exit", left.append)
    with pytest.raises(KeyboardInterrupt), Run(OPTIONS, 10, 5):
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(number)
        assert left == []  # within a second
        clock[0] = 1.5
        signal.raise_signal(number)
        assert left == ([128 + number] if is_hurried else [])


def test_after_nohup_a_closed_terminal_ends_nothing(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Run(OPTIONS, 10, 5) as run:
            signal.raise_signal(signal.SIGHUP)
            assert not run.is_interrupted
        assert stop_signals() == [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_is_printed_after_its_terminal_is_closed_ends_no_program():
    ours, theirs = pty.openpty()
    code = """
import signal, sys
from support.system import write_in_handler
def end(*_):
    write_in_handler(b"Stopping")
    print("Saved", flush=True)
    sys.exit(129)
signal.signal(signal.SIGHUP, end)
print("ready", flush=True)
while True:
    signal.pause()
"""
    process = start(code, stdout=theirs)
    os.close(theirs)
    assert os.read(ours, 100).startswith(b"ready")
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    _, problems = process.communicate(timeout=60)
    assert (process.returncode, problems) == (129, "")


JOBS = {  # what there is when the job starts, and how the program is called
    (): "run.py --seed 1 --name job\n",
    (".lock",): "run.py --seed 1 --name job\n",  # killed in its first moments
    (".lock", "checkpoint.npz", "job-50000.h5"): "run.py --resume job\n",
    ("checkpoint.npz", "job-200000.h5"): "",  # finished
}


@pytest.mark.parametrize("found", JOBS)
def test_the_line_for_job_scripts_does_the_right_thing_at_each_start(found, tmp_path):
    page = (ROOT / "docs" / "using.md").read_text()
    (line,) = re.findall(r"^\[ -e job-log/.*\n", page, re.MULTILINE)
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "python").chmod(0o755)
    for name in found:
        (tmp_path / "job-log").mkdir(exist_ok=True)
        (tmp_path / "job-log" / name).touch()
    path = f"{tmp_path}:{os.environ['PATH']}"
    job = subprocess.run(
        ["sh", "-c", line], cwd=tmp_path, env={"PATH": path}, capture_output=True, text=True
    )
    assert (job.returncode, job.stdout, job.stderr) == (0, JOBS[found], "")


@pytest.fixture
def control_groups(tmp_path, monkeypatch):
    """Writes what Linux says of the control groups: their names, and files in their folders."""
    machine = SimpleNamespace(total=24 * GIGABYTE, used=3 * GIGABYTE, available=20 * GIGABYTE)
    monkeypatch.setattr("psutil.virtual_memory", lambda: machine)
    monkeypatch.setattr(system, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(system, "CGROUPS_OF_THIS", tmp_path / "names")

    def write(names, **contents):
        (tmp_path / "names").write_text(names)
        for name, content in contents.items():
            file = tmp_path / "cgroup" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(str(content))

    return write


VERSION_1 = "total_cache 4000000000\ntotal_rss 500\ntotal_shmem 24\n"
VERSION_2 = "anon 500\nfile 4000000000\nshmem 24\n"
V1_LIMIT, V2_LIMIT = "memory.limit_in_bytes", "memory.max"


@pytest.mark.parametrize(
    "names, contents",
    [
        ("0::/\n", {V2_LIMIT: 1024, "memory.stat": VERSION_2}),
        (
            "0::/slurm/job_7/step_0\n",  # the limit is the job's, not the step's
            {
                f"slurm/job_7/{V2_LIMIT}": 1024,
                "slurm/job_7/memory.stat": VERSION_2,
                f"slurm/job_7/step_0/{V2_LIMIT}": "max\n",
                "slurm/job_7/step_0/memory.stat": "anon 20\nshmem 0\n",
            },
        ),
        (
            "5:cpu,cpuacct:/docker/77\n4:memory:/docker/77\n",  # names as outside of the container
            {f"memory/{V1_LIMIT}": 1024, "memory/memory.stat": VERSION_1},
        ),
    ],
)
def test_memory_is_what_a_container_or_a_job_may_use(names, contents, control_groups):
    control_groups(names, **contents)
    assert find_memory() == (1024, 524, 500)


@pytest.mark.parametrize(
    "names, contents",
    [
        ("0::/\n", {}),
        ("0::/user\n", {f"user/{V2_LIMIT}": "max\n", "user/memory.stat": VERSION_2}),
        ("4:memory:/\n", {f"memory/{V1_LIMIT}": 2**63 - 4096, "memory/memory.stat": VERSION_1}),
    ],
)
def test_memory_is_the_machines_where_nothing_limits_it(names, contents, control_groups):
    control_groups(names, **contents)
    assert find_memory() == (24 * GIGABYTE, 3 * GIGABYTE, 20 * GIGABYTE)


def test_memory_that_other_programs_have_taken_is_not_free_in_a_container(control_groups):
    control_groups("0::/\n", **{V2_LIMIT: 23 * GIGABYTE, "memory.stat": VERSION_2})
    assert find_memory().total == 23 * GIGABYTE
    assert find_memory().free == 20 * GIGABYTE


def import_tensorflow(folder, code, **environment):
    """Ends with status and standard error of an import of TensorFlow that executes code instead."""
    (folder / "keras.py").write_text(f"import os\n{code}")
    path = f"{folder}:{ROOT}"
    process = start(
        "import support.fast_tensorflow",
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )
    _, problems = process.communicate(timeout=60)
    return process.returncode, problems


def test_why_tensorflow_ends_the_program_is_shown(tmp_path):
    code = "os.write(2, b'no AVX\\n')\nos.abort()\n"
    assert import_tensorflow(tmp_path, code) == (-signal.SIGABRT, "no AVX\n")


SHOW = "os.write(2, os.environ[{!r}].encode())\nos._exit(0)\n"


def test_a_graphics_card_that_a_scheduler_has_chosen_is_not_used(tmp_path):
    code = SHOW.format("CUDA_VISIBLE_DEVICES")
    assert import_tensorflow(tmp_path, code, CUDA_VISIBLE_DEVICES="0") == (0, "-1")


def test_without_a_home_keras_makes_none_in_the_current_folder(tmp_path):
    code = SHOW.format("KERAS_HOME")
    assert import_tensorflow(tmp_path, code, HOME="~") == (0, os.devnull)


def test_garbage_collection_goes_on_after_the_import_but_passes_over_tensorflow():
    assert gc.isenabled() and gc.get_freeze_count() > 300_000
    gc.disable()
    try:
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()  # whoever turned it off wanted that
    finally:
        gc.enable()


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-", "<&- >&- 2>&-"])
def test_no_file_takes_the_number_of_a_closed_stream(closed, tmp_path):
    code = (
        "import support, sys; file = open(sys.argv[1], 'w')\n"
        "print('said', file=sys.stderr); print('said'); sys.exit(file.fileno() < 3)\n"
    )
    command = ["sh", "-c", f'exec "$0" -c "$1" "$2" {closed}', sys.executable, code, tmp_path / "x"]
    assert subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL).returncode == 0


def test_a_lock_of_another_computer_names_it_where_the_file_system_has_no_locks(
    tmp_path, monkeypatch, recwarn
):
    def refuse(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", refuse)
    locked = lock(tmp_path)
    with pytest.raises(WrongInput, match=f"is in use by another program, process {os.getpid()} on"):
        lock(tmp_path)
    locked.release()
    file = tmp_path / ".lock"
    file.write_text("4711\nnode7\n123456\n")
    os.utime(file, (0, 0))
    told = rf", process 4711 on node7, since 19\S+ \d\d:\d\d; if that has ended, delete {file}$"
    with pytest.raises(WrongInput, match=told):
        lock(tmp_path)
    file.unlink()
    lock(tmp_path).release()
    assert not recwarn.list


@contextlib.contextmanager
def windows():
    """Lets the program take this system for Windows; that is an imitation."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("os.name", "nt")
        yield


def test_names_of_files_are_quoted_as_the_system_does():
    assert quote("a b-log/b.h5") == "'a b-log/b.h5'"
    with windows():
        names = quote(r"first-log\first-best.h5"), quote(r"a b-log\b.h5")
    assert names == (r"first-log\first-best.h5", r'"a b-log\b.h5"')


@pytest.mark.parametrize("patience, is_written", [(60, True), (0, False)])
def test_a_file_that_a_scanner_holds_on_windows_is_tried_again(
    patience, is_written, tmp_path, monkeypatch
):
    refusals = [PermissionError(errno.EACCES, "Access is denied")] * 2
    original = os.replace

    def refuse(*names):
        if refusals:
            raise refusals.pop()
        original(*names)

    monkeypatch.setattr("os.replace", refuse)
    monkeypatch.setattr(files, "PATIENCE", patience)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with windows(), contextlib.nullcontext() if is_written else pytest.raises(OSError):
        write_file(str(tmp_path / "x"), b"new")
    assert (tmp_path / "x").exists() == is_written
