"""Nothing is lost: whatever stops a run, --resume takes it to the end that it would have had."""

import contextlib
import errno
import functools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import keras
import numpy as np
import pytest
from conftest import ROOT, main, read_until, rewrite, scalars

import run
from loggers import TensorBoardLogger
from support import checkpoints, runs
from support.checkpoints import read_checkpoint
from support.command_line import as_option, read_settings
from support.errors import WrongInput
from support.files import PARTIAL, lock

SETTINGS = (
    "--train-start 100 --batch-size 16 --q-validation-size 200 --target-update-every 100 "
    "--train-epsilon 0.3 --max-steps 3000 --eval-every 500 --eval-steps 450 --snapshot-every 400 "
    "--log-every 200 --checkpoint-every 250 --replay-buffer-size 1000 --hidden-units 128 "
    "--n-steps 3 --layer-normalization"
).split()
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
TIMINGS = {"episode_seconds", "steps_per_second", "memory_used"}
# Runs run.py with the clock set back, and kills it: at the COUNTth call of FUNCTION, or, where
# COUNT is less than 1, three times that many seconds after the first. What was not synced yet is
# written in part, as after a power cut.
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
        if name == "fsync":
            path = os.readlink(f"/proc/self/fd/{arguments[0]}")
            size = os.fstat(arguments[0]).st_size
            if ".partial." in path:
                os.truncate(arguments[0], size // 2)
            elif "tfevents" in path:
                os.truncate(arguments[0], size - 5)
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


def finish(process, seconds=300):
    """(exit status, output, errors) of a started program, which ends within so many seconds."""
    try:
        output, errors = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, output, errors


def curves(logdir):
    """The curves of a run, without those of its timings."""
    return {tag: points for tag, points in scalars(logdir).items() if tag not in TIMINGS}


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
    evaluations = np.array(state["run"]["evaluations"])
    state["run"]["evaluations"] = evaluations[:, :3]  # without their seconds
    found |= {
        f"{part}/{name}": value.tobytes() if isinstance(value, np.ndarray) else value
        for part, values in state.items()
        for name, value in values.items()
    }
    return found | curves(logdir)


def run_of_seed_3(folder, *options):
    """Makes the run of `SETTINGS` in a directory; returns that of the run."""
    keras.backend.clear_session(free_memory=False)  # layers are named as in a new process
    with contextlib.chdir(folder):
        main(" ".join(["--name x --seed 3", *SETTINGS, *options]))
    return folder / "x-log"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """What the run leaves behind when nothing stops it."""
    return content(run_of_seed_3(tmp_path_factory.mktemp("uninterrupted")))


@pytest.fixture(scope="module")
def two_thirds(tmp_path_factory):
    """The directory of a run that has done 2,000 of 3,000 steps."""
    return run_of_seed_3(tmp_path_factory.mktemp("two_thirds"), "--max-steps", "2000")


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_as_if_it_had_not_been(uninterrupted, request):
    """4 kills, or more with `pytest --kills 100`: the run starts anew whenever it has ended.

    At every second start, the clock goes back an hour.
    """
    choices, kills, ended, starts = random.Random(0), 0, 0, 0
    on_purpose = [
        ("os", "replace", 3),  # the second checkpoint is complete, but has not its name yet
        ("os", "fsync", 4),  # half of it is written
        ("os", "fsync", 3),  # the last record of the curves is torn
        ("os", "fsync", 1),  # half a snapshot is written
    ]
    while kills < request.config.getoption("kills") or ended == 0:
        killer = on_purpose[kills] if kills < len(on_purpose) else ()
        if len(on_purpose) <= kills < request.config.getoption("kills"):
            killer = choices.choice(
                [("os", choices.choice(["replace", "fsync"]), choices.randint(1, 12))]
                + 3 * [("os", "replace", choices.uniform(0.001, 0.999))]
            )
        arguments = (
            ["--resume", "x-log"]
            if os.path.exists("x-log/checkpoint.npz")
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


@pytest.mark.slow
def test_a_learning_rate_that_falls_goes_on_where_it_was(command, monkeypatch):
    words = ["--seed", 3, *SETTINGS, "--max-steps", 600, "--learning-rate-decay", 0.01]
    assert command("--name", "x", *words)[0] == 0
    uninterrupted = content("x-log")
    os.rename("x-log", "whole-log")
    with monkeypatch.context() as patch:

        def press_ctrl_c(loss, step):
            if step == 300:
                signal.raise_signal(signal.SIGINT)

        patch.setattr("support.errors.check_loss", press_ctrl_c)
        assert command("--name", "x", *words)[0] == 130
    assert read_checkpoint("x-log")["run"]["step"] == 300
    assert command("--resume", "x")[0] == 0
    found = content("x-log")
    assert "300.h5" in found  # of Ctrl-C
    for name in uninterrupted:
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
    "--resume x-log --max-steps 400 --gif x.gif": "leave out --gif",
    "--resume x-log --max-steps 400 --batch-size 8": "leave out --batch-size",
    "--resume x-log --max-steps 400 --batch-size 16": "leave out --batch-size",
    "--resume x-log --max-steps 400 --env CartPole-v1": "--env=CartPole-v1 contradicts x-log",
}


def files(folder):
    return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in folder.rglob("*")}


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


def test_a_run_goes_on_with_its_own_settings_and_takes_no_others(stopped):
    resume = f"--resume {stopped} --max-steps 310"
    recorded = read_checkpoint(stopped)["run"]["settings"]
    for setting in read_settings(vars(run)):
        if setting.name != "max_steps":
            same = as_option(setting.name, recorded[setting.name])
            with pytest.raises(WrongInput, match=f"leave out {setting.option}$"):
                main(f"{resume} {same}")
    assert main(f"{resume} --env MountainCar-v0") == -200.0


def test_a_run_that_does_not_fit_into_memory_stays_as_it_is(command, stopped, monkeypatch):
    before = files(Path(stopped))
    monkeypatch.setattr("support.errors.find_memory", lambda: SimpleNamespace(free=0))
    status, _, errors = command("--resume", stopped, "--max-steps", 310)
    assert (status, errors.count("\n")) == (2, 1)
    assert "REPLAY_BUFFER_SIZE 1000 would need " in errors
    assert files(Path(stopped)) == before


def test_a_run_with_a_constant_that_is_not_a_number_goes_on_with_it(command, tmp_path):
    source = (ROOT / "run.py").read_text()
    script = tmp_path / "lesson.py"
    script.write_text(source.replace("\nTRAIN_EPSILON", "\nLIMIT = float('nan')\nTRAIN_EPSILON"))
    new = ["--name", "x", "--seed", 3, *SETTINGS, "--max-steps", 110]
    assert command(*new, script=script)[::2] == (0, "")
    assert command("--resume", "x-log", "--max-steps", 120, script=script)[::2] == (0, "")
    play = ["--model", "x-log/x-120.h5", "--eval", "--eval-steps", 5]
    assert command(*play, script=script)[::2] == (0, "")
    recorded = read_checkpoint("x-log")["run"]["settings"]["limit"]
    assert np.isnan(recorded)


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


def test_a_directory_moved_away_under_a_run_ends_it_in_a_line(command, monkeypatch):
    moved = functools.partial(runs.Run, on_checkpoint=lambda step: os.rename("x-log", "elsewhere"))
    monkeypatch.setattr("support.runs.Run", moved)
    status, _, errors = command("--name", "x", "--seed", 3, *SETTINGS)
    assert status == 1
    assert re.fullmatch(r"run\.py: x-log/\S+ can't be written: .*No such file.*\n", errors)
    assert read_checkpoint("elsewhere")["run"]["step"] > 0


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
    assert f"if you trust it, give --env {env}" in errors
    assert not os.path.exists("trap")
    assert command("--resume", stopped, "--max-steps", 310, "--env", env)[::2] == (0, "")
    assert os.path.exists("trap")


@pytest.mark.parametrize("name, value", [("\x1b[31mred", 1), ("env", "\x1b[31mred\n:Car-v0")])
def test_what_a_stranger_recorded_is_shown_without_escape_sequences(name, value, command, stopped):
    rewrite(stopped, lambda state: state["run"]["settings"].update({name: value}))
    status, output, errors = command("--resume", stopped, "--max-steps", 310)
    assert (status, errors.count("\n")) == (2, 1)
    assert "\\x1b[31mred" in errors
    assert "\x1b[31m" not in output + errors


def event_files(logdir):
    """The event files of a run in the order in which TensorBoard reads them."""
    return sorted(Path(logdir).glob("events.out.tfevents.*"))


@pytest.mark.slow
def test_each_start_writes_curves_that_come_behind_the_earlier_ones(
    command, uninterrupted, monkeypatch
):
    now, earlier = time.time, {}
    for start_number, max_steps in enumerate([500, 1500, 2500, 3000]):  # each an hour back
        monkeypatch.setattr(time, "time", lambda back=start_number: now() - 3600 * back)
        begin = ["--resume", "x-log"] if start_number else ["--name", "x", "--seed", 3, *SETTINGS]
        assert command(*begin, "--max-steps", max_steps)[::2] == (0, "")
        *others, newest = event_files("x-log")
        assert {path: path.read_bytes() for path in others} == earlier
        earlier[newest] = newest.read_bytes()
    assert len(earlier) == 4
    for snapshot in ("x-500.h5", "x-1500.h5", "x-2500.h5"):
        os.remove(f"x-log/{snapshot}")
    assert content("x-log") == uninterrupted


def test_curves_that_end_in_the_middle_of_a_record_go_on_where_the_run_does(
    command, uninterrupted, two_thirds
):
    shutil.copytree(two_thirds, "x-log")
    (first,) = event_files("x-log")
    with open(first, "ab") as file:
        file.write(first.read_bytes()[:30])  # of a record of 40
    killed = TensorBoardLogger("x-log")
    killed.log_restart(2001)
    killed.log(2200, loss=0.5, episode_return=-1)  # which comes again
    killed.log(2400, loss=0.5)
    killed.close()
    os.truncate(event_files("x-log")[1], event_files("x-log")[1].stat().st_size - 5)
    assert command("--resume", "x-log", "--max-steps", 3000)[::2] == (0, "")
    assert len(event_files("x-log")) == 3
    assert content("x-log") == uninterrupted


def test_a_run_does_not_need_its_curves(command, uninterrupted, two_thirds):
    shutil.copytree(two_thirds, "x-log")
    event_files("x-log")[0].unlink()
    assert command("--resume", "x-log", "--max-steps", 3000)[::2] == (0, "")
    shown = curves("x-log")
    assert [step for step, _ in shown["avg_max_q_value"]] == [2500, 3000]
    assert content("x-log") == uninterrupted | shown  # its evaluations included


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
    first, *later = [i for i, name in enumerate(order) if name == "x-log/checkpoint.npz"]
    assert first == 1  # there are no curves yet
    assert len(later) == 4
    for i in later:
        assert order[i - 2].startswith("events.out.tfevents")
        assert order[i - 1] == "checkpoint.partial.npz"


@pytest.mark.slow
def test_a_run_killed_in_its_first_moments_leaves_its_name_free(command):
    new = ["--name", "x", "--seed", 3, *SETTINGS, "--max-steps", 300]
    first_moments = {
        ("support.files", "lock", 1): [],  # the directory is made
        ("os", "replace", 1): [".lock", "checkpoint.partial.npz"],  # no checkpoint has its name yet
    }
    for killer, left in first_moments.items():
        assert finish(start(*new, killer=killer))[0] == -signal.SIGKILL
        assert sorted(os.listdir("x-log")) == left
        status, _, errors = command("--resume", "x-log")
        assert (status, errors.count("\n")) == (2, 1)
        assert "there is no run to resume" in errors
    assert command(*new)[::2] == (0, "")
    assert read_checkpoint("x-log")["run"]["step"] == 300
    assert not list(Path("x-log").glob("*.partial.*"))


def make_directory_with(name):
    def make(logdir):
        logdir.mkdir()
        (logdir / name).mkdir()

    return make


def make_link_to(folder):
    def make(logdir):
        if folder:
            (logdir.parent / folder).mkdir()
        logdir.symlink_to(logdir.parent / "elsewhere")

    return make


@pytest.mark.parametrize(
    "make",
    [
        make_directory_with("notes.txt"),
        make_directory_with("notes.partial.txt"),
        make_directory_with("x-1.h5"),
        make_directory_with("checkpoint.npz"),
        make_link_to("elsewhere"),
        make_link_to(None),
        Path.touch,
        os.mkfifo,
    ],
    ids=[
        "notes",
        "partial notes",
        "snapshot",
        "checkpoint",
        "link",
        "dangling link",
        "file",
        "pipe",
    ],
)
def test_what_others_have_made_is_not_taken_for_a_new_run(make, command, tmp_path):
    make(tmp_path / "x-log")
    before = files(tmp_path)
    status, output, errors = command("--name", "x", "--seed", 3, *SETTINGS)
    assert (status, errors.count("\n")) == (2, 1)
    assert "x-log exists" in errors or "x-log can't be made: Not a directory" in errors
    assert files(tmp_path) == before
    assert "removed" not in output


def test_of_two_programs_that_want_a_name_at_the_same_moment_one_gets_it(command, tmp_path):
    os.mkdir("x-log")
    locked = lock("x-log")  # what the other one does next
    status, _, errors = command("--name", "x", "--seed", 3, *SETTINGS)
    assert (status, errors) == (2, "run.py: --name x: x-log exists; choose another name\n")
    assert os.listdir("x-log") == [".lock"]
    locked.release()


def test_a_read_only_file_system_ends_in_one_line(command, stopped, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "x-log/.lock")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    status, _, errors = command("--resume", stopped, "--max-steps", 310)
    assert (status, errors.count("\n")) == (1, 1)
    assert "Read-only file system" in errors


@pytest.mark.slow
def test_names_that_are_not_utf_8_work(command, stopped):
    shutil.copy("x-log/x-300.h5", "\udcff.h5")
    os.mkdir("\udcff")
    shutil.copytree(stopped, "\udcff/x-log")
    new = start("--model", "\udcff.h5", *SETTINGS, "--max-steps", 110, "--name", "y")
    assert finish(new)[::2] == (0, "")
    assert read_checkpoint("y-log")["run"]["settings"]["model"] == "\ufffd.h5"
    assert command("--resume", "\udcff/x-log", "--max-steps", 310)[::2] == (0, "")
    assert read_checkpoint("\udcff/x-log")["run"]["step"] == 310


@pytest.mark.slow
def test_a_strangers_event_files_are_never_opened(stopped, tmp_path):
    victim, pipe = tmp_path / "victim", tmp_path / "pipe"
    victim.write_text("precious")
    os.mkfifo(pipe)  # to open it would take forever
    later = int(time.time()) + 10**6
    (tmp_path / stopped / f"events.out.tfevents.{later}.link").symlink_to(victim)
    (tmp_path / stopped / f"events.out.tfevents.{later + 1}.pipe").symlink_to(pipe)
    os.mkfifo(tmp_path / stopped / f"events.out.tfevents.{later + 2}.pipe")
    before = victim.stat()
    resumed = start("--resume", stopped, "--max-steps", 310)
    assert finish(resumed, seconds=60)[::2] == (0, "")
    assert f".{later + 3}." in event_files(stopped)[-1].name
    assert victim.read_text() == "precious"
    assert victim.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("fails", ["os.replace", "support.runs.write_checkpoint"])
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
