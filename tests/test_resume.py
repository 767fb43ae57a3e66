"""Nothing is lost: whatever stops a run, --resume takes it to the end that it would have had."""

import contextlib
import errno
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import ROOT, main, read_until
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from support import checkpoints
from support.checkpoints import encode, read_checkpoint, write_checkpoint
from support.files import PARTIAL

SETTINGS = (
    "--train-start 100 --batch-size 16 --q-validation-size 200 --target-update-every 100 "
    "--train-epsilon 0.3 --max-steps 3000 --eval-every 500 --eval-steps 450 --snapshot-every 400 "
    "--log-every 200 --checkpoint-every 250 --replay-buffer-size 1000 --hidden-units 128"
).split()
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
TIMINGS = {"episode_seconds", "steps_per_second", "memory_used"}
# Runs run.py with the clock set back, and kills it: at the COUNTth call of FUNCTION, or, where
# COUNT is less than 1, three times that many seconds after the first.
KILLER = """
import os, runpy, signal, sys, threading, time
module, name, count, back, *sys.argv = sys.argv[1:]
now = time.time
time.time = lambda: now() - float(back)
def kill():
    os.kill(os.getpid(), signal.SIGKILL)
__import__(module)
function, calls = getattr(sys.modules[module], name), []
def call(*arguments, **options):
    calls.append(arguments)
    if float(count) < 1 and len(calls) == 1:
        threading.Timer(float(count) * 3, kill).start()
    if len(calls) == float(count):
        path = os.readlink(f"/proc/self/fd/{arguments[0]}") if name == "fsync" else ""
        if ".partial." in path:
            os.truncate(arguments[0], os.fstat(arguments[0]).st_size // 2)
        kill()
    return function(*arguments, **options)
setattr(sys.modules[module], name, call)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def start(*arguments, killer=(), back=0):
    """Starts run.py here, under `KILLER` with the arguments `killer`, the clock `back` seconds."""
    killer = killer or (("os", "replace", 10**9) if back else ())
    program = ["-c", KILLER, *map(str, killer), str(back)] if killer else []
    return subprocess.Popen(
        [sys.executable, *program, str(ROOT / "run.py"), *map(str, arguments)],
        **PIPES,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def finish(process):
    """(exit status, output, errors) of a started program."""
    output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


def content(logdir):
    """All that a run leaves behind and that isn't a timing, comparable bit by bit."""
    found = {}
    for filename in sorted(Path(logdir).glob("*.h5")):
        arrays = []
        with h5py.File(filename) as file:
            file.visititems(
                lambda name, item, arrays=arrays: (
                    arrays.append((name, item[()].tobytes())) if hasattr(item, "dtype") else None
                )
            )
        found[filename.name.split("-")[-1]] = arrays
    state = read_checkpoint(str(logdir))
    del state["run"]["name"], state["run"]["seconds"]
    state["run"]["evaluations"] = state["run"]["evaluations"][:, :3]  # without their seconds
    found |= {
        f"{part}/{name}": value.tobytes() if isinstance(value, np.ndarray) else value
        for part, values in state.items()
        for name, value in values.items()
    }
    events = EventAccumulator(str(logdir), size_guidance={"scalars": 0}).Reload()
    for tag in set(events.Tags()["scalars"]) - TIMINGS:
        found[tag] = [(event.step, event.value) for event in events.Scalars(tag)]
    return found


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """What the run leaves behind when nothing stops it."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    previous = Path.cwd()
    os.chdir(folder)
    status, _, errors = finish(start("--name", "x", "--seed", 3, *SETTINGS))
    os.chdir(previous)
    assert (status, errors) == (0, "")
    return content(folder / "x-log")


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_as_if_it_had_not_been(command, request):
    """4 kills, or more with `pytest --kills 100`: the run starts anew whenever it has ended.

    At every second start, the clock goes back an hour.
    """
    assert command("--name", "whole", "--seed", 3, *SETTINGS)[::2] == (0, "")
    uninterrupted = content("whole-log")
    choices, kills, ended, starts = random.Random(0), 0, 0, 0
    on_purpose = [
        ("os", "replace", 3),  # a checkpoint is complete, but has not its name yet
        ("os", "fsync", 3),  # half of one is written
        ("os", "fsync", 1),  # half a snapshot is written
    ]
    while kills < request.config.getoption("kills") or ended == 0:
        killer = on_purpose[kills] if kills < 3 else ()
        if kills >= 3 and kills < request.config.getoption("kills"):
            killer = choices.choice(
                [("os", choices.choice(["replace", "fsync"]), choices.randint(1, 12))]
                + 3 * [("os", "replace", choices.uniform(0.001, 0.999))]
            )
        arguments = (
            ["--resume", "x-log"]
            if os.path.isdir("x-log")
            else ["--name", "x", "--seed", 3, *SETTINGS]
        )
        starts += 1
        status, _, errors = finish(start(*arguments, killer=killer, back=3600 * (starts // 2)))
        was_finished = status == 2 and "has done 3000 steps" in errors  # killed at the very end
        assert was_finished or (status, errors) in [(-signal.SIGKILL, ""), (0, "")]
        kills += status == -signal.SIGKILL
        if status == 0 or was_finished:
            ended += 1
            assert content("x-log") == uninterrupted
            assert not [name for name in os.listdir("x-log") if PARTIAL in name]
            os.rename("x-log", f"ended-{ended}")
    print(f"{kills} kills, {ended} runs ended, all as the uninterrupted one")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_save_and_say_how_to_resume(number, status, uninterrupted, command):
    process = start("--name", "x", "--seed", 3, *SETTINGS)
    read_until("/800 ", process)  # the log line of step 800
    process.send_signal(number)
    assert finish(process)[0] == status
    step = read_checkpoint("x-log")["run"]["step"]
    assert step >= 800
    assert Path(f"x-log/x-{step}.h5").exists()
    if number == signal.SIGTERM:
        return
    status, _, errors = command("--resume", "x-log")
    assert (status, errors) == (0, "")
    if step % 400:
        os.remove(f"x-log/x-{step}.h5")
    assert content("x-log") == uninterrupted


@pytest.mark.slow
def test_a_finished_run_grows_to_what_a_longer_one_would_be(command, uninterrupted):
    for arguments in (
        ["--name", "x", "--seed", "3", *SETTINGS, "--max-steps", "1234"],
        ["--resume", "x-log", "--max-steps", "3000"],
    ):
        status, _, errors = command(*arguments)
        assert (status, errors) == (0, "")
    os.remove("x-log/x-1234.h5")
    found = content("x-log")
    assert found.keys() == uninterrupted.keys()
    for tag in ("episode_return_avg", "avg_max_q_value"):  # with the evaluation of the first end
        assert [step for step, _ in found[tag]] == [500, 1000, 1234, 1500, 2000, 2500, 3000]
        del found[tag][2]
    evaluations = np.frombuffer(found["run/evaluations"]).reshape(-1, 3)
    found["run/evaluations"] = np.delete(evaluations, 2, axis=0).tobytes()
    for name in found.keys() - {"best.h5"}:
        assert found[name] == uninterrupted[name], name


@pytest.fixture
def stopped(command):
    """A run of 300 of 3,000 steps in x-log."""
    assert command("--name", "x", "--seed", 3, *SETTINGS, "--max-steps", 300)[0] == 0
    return "x-log"


WRONG = {
    "--resume nowhere-log": "no run to resume",
    "--resume .": "no run to resume",
    "--resume=": "no run to resume",
    "--resume x-log": "has done 300 steps",
    "--resume x": "x-log has done 300 steps",
    "--resume x-log --max-steps 200": "has done 300 steps",
    "--resume x-log --max-steps 400 --model x-log/x-300.h5": "leave out --model",
    "--resume x-log --max-steps 400 --name y": "leave out --name",
    "--resume x-log --max-steps 400 --seed 3": "leave out --seed",
    "--resume x-log --max-steps 400 --seed 0": "leave out --seed",
    "--resume x-log --max-steps 400 --eval": "leave out --eval",
    "--resume x-log --max-steps 400 --test": "leave out --test",
    "--resume x-log --max-steps 400 --batch-size 8": "--batch-size 8 contradicts x-log",
    "--resume x-log --max-steps 400 --env CartPole-v1": "--env CartPole-v1 contradicts x-log",
}


def files(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


@pytest.mark.slow
def test_wrong_use_ends_in_one_line_and_changes_nothing(command, stopped, tmp_path):
    before = files(tmp_path)
    for arguments, message in WRONG.items():
        status, _, errors = command(*arguments.split(" "))
        assert status == 2
        assert errors.startswith("run.py: ")
        assert message in errors
        assert errors.count("\n") == 1
        assert files(tmp_path) == before


def test_settings_given_again_that_are_the_same_are_accepted(command, stopped):
    arguments = ["--resume", stopped, "--eval-every", 500, "--max-steps", 310]
    assert command(*arguments)[::2] == (0, "")


@pytest.mark.slow
def test_only_what_a_kill_left_behind_is_cleared_away(command, tmp_path):
    name = "x.partial"
    assert command("--name", name, "--seed", 3, *SETTINGS, "--max-steps", 300)[0] == 0
    (tmp_path / f"{name}-log" / "notes.partial.txt").touch()
    (tmp_path / f"{name}-log" / f"{name}-400.partial.h5").touch()
    before = {path.name for path in (tmp_path / f"{name}-log").iterdir()}
    assert command("--resume", f"{name}-log", "--max-steps", 310)[0] == 0
    after = {path.name for path in (tmp_path / f"{name}-log").iterdir()}
    assert before - after == {f"{name}-400.partial.h5"}


def rewrite(logdir, change):
    """Writes the checkpoint again with a changed state."""
    state = read_checkpoint(logdir)
    del state["file"]
    change(state)
    write_checkpoint(logdir, {part: encode(values) for part, values in state.items()})


def test_a_run_of_other_library_versions_resumes_with_a_warning(command, stopped, monkeypatch):
    versions = {**checkpoints.versions(), "keras": "3.0.0"}
    with monkeypatch.context() as others:
        others.setattr(checkpoints, "versions", lambda: versions)
        rewrite(stopped, lambda state: None)
    status, _, errors = command("--resume", stopped, "--max-steps", 310)
    assert status == 0, errors
    assert re.fullmatch(r"run\.py: warning: x-log was made with keras 3\.0\.0, now .*\n", errors)


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_first_checkpoint_starts_over(command, uninterrupted):
    status, *_ = finish(start("--name", "x", "--seed", 3, *SETTINGS, killer=("os", "replace", 2)))
    assert status == -signal.SIGKILL
    assert read_checkpoint("x-log")["run"]["step"] == 0
    assert command("--resume", "x-log/")[0] == 0
    assert content("x-log") == uninterrupted


@pytest.mark.slow
def test_two_processes_never_share_a_run(command, stopped):
    first = start("--resume", stopped, "--max-steps", 10**6)
    read_until("Resumed", first)
    try:
        for max_steps in (200, 400, 10**6):  # whatever else is wrong with it
            status, _, errors = command("--resume", stopped, "--max-steps", max_steps)
            assert (status, errors) == (2, "run.py: x-log is in use by another program\n")
    finally:
        first.kill()
        first.communicate()
    assert "has done" in command("--resume", stopped, "--max-steps", 200)[2]


def test_a_diverged_run_stops_and_keeps_the_last_good_files(command, monkeypatch):
    late = ["--learning-rate", 1e6, "--train-start", 600]  # after the first checkpoint
    status, _, errors = command("--name", "x", "--seed", 3, *SETTINGS, *late)
    assert status == 1
    assert re.fullmatch(
        r"run\.py: the (loss is (nan|inf)|weights are not finite) at step \d+; "
        r"the last good checkpoint is x-log's of step \d+\n",
        errors,
    )
    state = read_checkpoint("x-log")
    assert state["run"]["step"] == int(errors.split()[-1]) > 0
    assert all(np.isfinite(array).all() for array in state["model"].values())


@pytest.mark.slow
def test_a_directory_deleted_under_a_training_ends_it_in_a_line(tmp_path):
    process = start("--name", "x", "--seed", 3, *SETTINGS, "--max-steps", 10**6)
    read_until("/400 ", process)
    os.rename("x-log", "elsewhere")
    status, _, errors = finish(process)
    assert status == 1
    assert re.fullmatch(r"run\.py: x-log/\S+ can't be written: .*No such file.*\n", errors)


@pytest.mark.slow
def test_a_strangers_run_brings_in_no_code_unless_it_is_asked_for(
    command, stopped, tmp_path, monkeypatch
):
    (tmp_path / "payload.py").write_text("open('trap', 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    env = "payload:MountainCar-v0"
    rewrite(stopped, lambda state: state["run"]["settings"].update(env=env))
    status, _, errors = command("--resume", stopped, "--max-steps", 310)
    assert (status, errors.count("\n")) == (2, 1)
    assert f"if you trust it, repeat --env {env}" in errors
    assert not os.path.exists("trap")
    assert command("--resume", stopped, "--max-steps", 310, "--env", env)[::2] == (0, "")
    assert os.path.exists("trap")


def event_file(logdir):
    (filename,) = Path(logdir).glob("events*")
    return filename


@pytest.fixture(scope="module")
def two_thirds(tmp_path_factory):
    """The directory of a run that has done 2,000 of 3,000 steps."""
    folder = tmp_path_factory.mktemp("two_thirds")
    with contextlib.chdir(folder):
        main(" ".join(map(str, ["--name", "x", "--seed", 3, *SETTINGS, "--max-steps", 2000])))
    return folder / "x-log"


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 0.5, 0.97, None])
def test_curves_that_were_damaged_are_filled_in_from_the_checkpoint(
    size, command, uninterrupted, two_thirds
):
    shutil.copytree(two_thirds, "x-log")
    if size is None:
        event_file("x-log").unlink()
    else:
        os.truncate(event_file("x-log"), int(size * event_file("x-log").stat().st_size))
    status, output, errors = command("--resume", "x-log", "--max-steps", 3000)
    assert (status, errors) == (0, "")
    assert "Curves in x-log were lost; " in output
    events = EventAccumulator("x-log", size_guidance={"scalars": 0}).Reload()
    for tag in ("episode_return_avg", "avg_max_q_value"):
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        assert found == uninterrupted[tag]
    assert "_hparams_/session_start_info" in events.summary_metadata


@pytest.mark.slow
def test_curves_are_on_the_disk_before_the_checkpoint_that_stands_on_them(command, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace

    def fsync_and_note(descriptor):
        order.append(os.readlink(f"/proc/self/fd/{descriptor}").rpartition("/")[2])
        fsync(descriptor)

    def replace_and_note(old, new):
        order.append(str(new))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", fsync_and_note)
    monkeypatch.setattr(os, "replace", replace_and_note)
    assert command("--name", "x", "--seed", 3, *SETTINGS, "--max-steps", 1000)[0] == 0
    checkpoints = [i for i, name in enumerate(order) if name == "x-log/checkpoint.npz"]
    assert len(checkpoints) == 4
    for i in checkpoints:
        assert order[i - 2].startswith("events.out.tfevents")
        assert order[i - 1] == "checkpoint.partial.npz"


@pytest.mark.slow
def test_a_clock_that_was_set_back_breaks_no_curves(command, uninterrupted, monkeypatch):
    now, max_steps = time.time, [500, 1500, 2500, 3000]
    for back, steps in enumerate(max_steps):
        monkeypatch.setattr(time, "time", lambda back=back: now() - 3600 * back)
        begin = ["--resume", "x-log"] if back else ["--name", "x", "--seed", 3, *SETTINGS]
        assert command(*begin, "--max-steps", steps)[::2] == (0, "")
    for steps in max_steps[:3]:
        os.remove(f"x-log/x-{steps}.h5")
    found = content("x-log")
    for tag in found:
        assert found[tag] == uninterrupted[tag], tag
    assert event_file("x-log")


def test_what_a_kill_left_behind_does_not_take_a_name(command):
    os.mkdir(f".x-log-{os.getpid()}")
    assert command("--name", "x", "--seed", 3, *SETTINGS, "--max-steps", 300)[::2] == (0, "")


def test_a_read_only_file_system_ends_in_one_line(command, stopped, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "x-log/.lock")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    status, _, errors = command("--resume", stopped, "--max-steps", 310)
    assert (status, errors.count("\n")) == (1, 1)
    assert "Read-only file system" in errors


@pytest.mark.slow
def test_names_that_are_not_utf_8_work(stopped):
    shutil.copy("x-log/x-300.h5", "\udcff.h5")
    os.mkdir("\udcff")
    shutil.copytree(stopped, "\udcff/x-log")
    event_file("\udcff/x-log").unlink()
    started = [
        start("--model", "\udcff.h5", *SETTINGS, "--max-steps", 110, "--name", "y"),
        start("--resume", "\udcff/x-log", "--max-steps", 310),
    ]
    assert [finish(process)[::2] for process in started] == [(0, ""), (0, "")]
    assert read_checkpoint("y-log")["run"]["settings"]["model"] == "\ufffd.h5"
    assert read_checkpoint("\udcff/x-log")["run"]["step"] == 310


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_strangers_event_file_leads_nowhere_else(kind, command, stopped, tmp_path):
    name = event_file(stopped).name
    event_file(stopped).unlink()
    (tmp_path / "victim").write_text("precious")
    if kind == "link":
        (tmp_path / stopped / name).symlink_to(tmp_path / "victim")
    else:
        os.mkfifo(tmp_path / stopped / name)
    status, _, errors = command("--resume", stopped, "--max-steps", 310)
    assert (status, errors.count("\n")) == (2, 1)
    assert "is not a regular file; remove it" in errors
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.parametrize("fails", ["os.rename", "support.training.write_checkpoint"])
def test_a_crash_while_a_run_is_made_leaves_no_directory(fails, command, tmp_path, monkeypatch):
    def crash(*arguments):
        raise RuntimeError("crash")

    monkeypatch.setattr(fails, crash)
    with pytest.raises(RuntimeError):
        command("--name", "x", "--seed", 3, *SETTINGS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_crash_keeps_what_was_saved_and_otherwise_frees_the_name(command, tmp_path, monkeypatch):
    def crash_at(step):
        def end_episode(self, at, loss, info):
            if at >= step:
                raise RuntimeError("crash")
            return original(self, at, loss, info)

        return end_episode

    # runpy imports loggers once, so that it can be changed from here.
    from loggers import TrainingLog

    original = TrainingLog.step
    monkeypatch.setattr(TrainingLog, "step", crash_at(150))
    with pytest.raises(RuntimeError):
        command("--name", "x", "--seed", 3, *SETTINGS)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(TrainingLog, "step", crash_at(700))
    with pytest.raises(RuntimeError):
        command("--name", "x", "--seed", 3, *SETTINGS)
    assert read_checkpoint("x-log")["run"]["step"] == 600
