"""A sweep: what it plans, what it writes down, and what of that outlasts mishaps."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import psutil
import pytest
from conftest import (
    ROOT,
    exit_status,
    finish,
    main,
    read_until,
    rewrite,
    start_experiment,
    wait_until,
)
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import SessionLog

from experiments import sweep
from experiments.common import engines, results
from experiments.common.packing import pack
from experiments.common.plan import read_plan
from experiments.common.progress import Progress
from experiments.common.record import Record, holds_something
from experiments.common.state import State
from support.checkpoints import CHECKPOINT, Evaluation, read_checkpoint
from support.command_line import Setting
from support.errors import WrongInput
from support.files import lock
from support.options import read_constants
from support.snapshots import read_snapshot

SHORT = (
    "--env CartPole-v1 --max-steps 4000 --train-start 200 --q-validation-size 300 "
    "--eval-every 1000 --eval-steps 300 --checkpoint-every 300 --log-every 500"
)
SETTINGS = ["--train-epsilon", "0.01", "0.3", "--seeds", "2", *SHORT.split()]
EXACT = ["--exact", *SETTINGS]
NAMES = [f"train_epsilon={e},seed={s}" for s in (0, 1) for e in (0.01, 0.3)]
NAMED = "train_start=200"
STRANGER = "from pathlib import Path\nPath(__file__).with_suffix('.imported').touch()\n"


def start(folder, *arguments, replacements=None):
    """Starts a sweep; see `start_experiment`."""
    return start_experiment("sweep", folder, *arguments, replacements=replacements)


def sweep_main(*arguments):
    """What `python -m experiments.sweep ARGUMENTS` does, in this process."""
    sweep.main(sweep.parse_args([str(argument) for argument in arguments]))


def status_of(*arguments):
    """The exit status of `sweep_main`."""
    return exit_status(lambda words: sweep_main(*words), *arguments)


def steps(folder):
    """How far the exact runs of a sweep are: a dict of names to steps."""
    done = dict.fromkeys(NAMES, 0)
    for name in NAMES:
        with contextlib.suppress(WrongInput):  # not begun, or being unpacked at this moment
            done[name] = read_checkpoint(folder / f"{name}-log")["run"]["step"]
    return done


def going_on(folder, done):
    """Name of a run in the middle that has done more than `done` says; None if none has."""
    now = steps(folder)
    return next((name for name in NAMES if done[name] < now[name] <= 3000), None)


def started_at(logdir):
    """The steps at which a run has gone on."""
    return [
        event.step
        for file in sorted(logdir.glob("events.*"))
        for event in EventFileLoader(str(file)).Load()
        if event.session_log.status == SessionLog.START
    ]


def content(folder):
    """All files in a directory: their bytes, and when they were written."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def end_of(logdir):
    """What a run must come to again: its last state, apart from names and times."""
    state = read_checkpoint(logdir)
    assert state["run"].pop("seconds") > 0
    evaluations = state["run"]["evaluations"]
    state["run"]["evaluations"] = [evaluation._replace(seconds=0) for evaluation in evaluations]
    del state["run"]["name"], state["run"]["settings"]["env"]
    return state


def results_in(folder):
    frame = pd.read_csv(folder / "results.csv").drop(columns="seconds")
    return frame.sort_values(["setting", "seed", "step"], ignore_index=True)


def finished_in(folder):
    """How many runs are in the results.csv of a sweep."""
    file = folder / "results.csv"
    return pd.read_csv(file)["name"].nunique() if file.exists() else 0


def assert_same(folder, whole):
    pd.testing.assert_frame_equal(results_in(folder), results_in(whole))
    for name in NAMES:
        np.testing.assert_equal(end_of(folder / f"{name}-log"), end_of(whole / f"{name}-log"))


def train_again(folder):
    """Lets the exact engine train all runs of a sweep, which have been trained already."""
    plan = read_plan(folder / "plan.json", read_constants(ROOT / "run.py"))
    record = Record(folder, plan)
    record.read()
    assert record.left() == plan.runs()
    for run in record.runs:
        record.write([(run, engines.train_exact(run, record.find_begun(run), pytest.fail))])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Directory of a complete sweep, each run of which is one of `python run.py`."""
    folder = tmp_path_factory.mktemp("sweep") / "whole-sweep"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        plan = sweep.parse_args(["--name", "new", *EXACT]).plan
        patch.chdir(folder)
        for name in NAMES:
            setting, seed = name.split(",")
            keras.backend.clear_session(free_memory=False)
            main(f"--name {name} --{setting.replace('_', '-')} --{seed} {SHORT}")
            Record(folder, plan).begin()
        train_again(folder)
        sweep.write_tables(folder, None)
    return folder


@pytest.fixture
def copy(whole, tmp_path, monkeypatch):
    """A copy of `whole`, beside which the test runs."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(whole, tmp_path / "whole-sweep"))


@pytest.mark.slow
def test_results_have_a_row_per_training_and_evaluation(whole):
    frame = pd.read_csv(whole / "results.csv")
    keys = list(zip(frame["setting"], frame["seed"], frame["step"], strict=True))
    assert len(set(keys)) == len(keys) == 4 * 4
    assert set(frame["step"]) == {1000, 2000, 3000, 4000}
    assert set(frame["setting"]) == {"train_epsilon=0.01", "train_epsilon=0.3"}
    assert (frame["max_steps"] == 4000).all() and frame["failed"].isna().all()
    assert frame["return"].nunique() > 8  # CartPole's returns differ, so sameness means something
    for name, group in frame.groupby("name"):
        evaluations = read_checkpoint(whole / f"{name}-log")["run"]["evaluations"]
        found = group[list(results.EVALUATION)].to_numpy()
        np.testing.assert_allclose(found, np.array(evaluations))


@pytest.mark.slow
def test_a_mistake_stops_a_sweep_and_once_it_is_fixed_configurations_that_fail_are_reported(
    tmp_path, request
):
    """The sweep varies a new constant, in an environment of one's own, on one core of two."""
    (tmp_path / "stranger.py").write_text(STRANGER)
    (tmp_path / "env").mkdir()  # libraries in a virtual environment, too large for Ray to send
    (tmp_path / "env" / "pyvenv.cfg").touch()
    (tmp_path / "env" / "library").touch()
    os.truncate(tmp_path / "env" / "library", 2**30)
    options = "--seeds 1 --reward-scale 1 1e38".split()
    env = ["--env", "stranger:CartPole-v1"]
    own = {
        "\nTRAIN_EPSILON": "\nREWARD_SCALE: float = 1\nTRAIN_EPSILON",
        "add(observation, action, reward,": "add(observation, action, REWARD_SCALE * reward,",
    }
    typo = {"        if step == Q_VALIDATION_SIZE": "        if stp == 2 * Q_VALIDATION_SIZE"}
    arguments = ["--name", "f", "--cores", "1", *SHORT.split(), *options, *env]
    process = start(tmp_path, *arguments, replacements=own | typo)
    whole = request.getfixturevalue("whole")  # meanwhile
    status, output, errors = finish(process)
    first = "reward_scale=1.0,seed=0"
    assert status == 1
    told = "Starting Ray\nExact (train has been changed): 2 runs, 1 at a time, about a minute\n"
    assert output.startswith(told)
    line, last = errors.splitlines()
    assert line.startswith(f"failed: {first}: NameError: name 'stp' is not defined (run.py, line ")
    assert line.endswith(
        "if stp == 2 * Q_VALIDATION_SIZE:  # which is no later than the first evaluation)"
    )
    assert "stopped by a mistake in the code; fix it, and start it again" in last
    assert not (tmp_path / "f-sweep").exists()  # nothing stands in the way of the next try

    status, output, errors = finish(start(tmp_path, *arguments, replacements=own))
    assert status == 0
    assert "\n1 of 2 done, 0 running, 1 failed\n" in output
    at_once, at_the_end = errors.splitlines()
    assert at_once.startswith("failed: reward_scale=1e+38,seed=0: the loss is")
    assert at_the_end.startswith("sweep.py: failed: reward_scale=1e+38, seed 0: the loss is")
    folder = tmp_path / "f-sweep"
    summary = pd.read_csv(folder / "summary.csv", index_col="setting")
    assert summary["failed"].to_dict() == {"reward_scale=1.0": 0, "reward_scale=1e+38": 1}
    own = end_of(folder / f"{first}-log")
    assert own["run"]["settings"].pop("reward_scale") == 1
    np.testing.assert_equal(own, end_of(whole / "train_epsilon=0.01,seed=0-log"))


@pytest.fixture
def start_node(monkeypatch):
    """Function that starts a node of a Ray cluster, with one core, and gives its process."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("RAY_health_check_period_ms", "1000")  # a dead node is noticed sooner
    monkeypatch.setenv("RAY_health_check_failure_threshold", "2")
    ray = str(Path(sys.executable).parent / "ray")
    nodes = []

    def start_(*arguments):
        command = [ray, "start", "--num-cpus=1", "--block", "--disable-usage-stats", *arguments]
        node = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        nodes.append(node)
        return node

    yield start_
    for node in nodes:
        if node.poll() is None:
            kill(node)


def kill(node):
    parent = psutil.Process(node.pid)
    for process in [parent, *parent.children(recursive=True)]:
        process.kill()
    node.communicate()


def training_worker(node):
    """Process of a node in which a run is trained; None without one."""
    for process in psutil.Process(node.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name() == "ray::train_one" or "train_one" in "".join(process.cmdline()):
                return process


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_an_exact_sweep_ends_as_if_nothing_had_been(whole, start_node, tmp_path, monkeypatch):
    """Stopped, then killed, with a damaged run; and on a cluster, a worker and a node die."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "whole-sweep"
    process = start(tmp_path, "--name", "whole", "--cores", "1", *EXACT)
    address = f"127.0.0.1:{free_port()}"
    first = start_node("--head", f"--port={address.split(':')[1]}", "--include-dashboard=false")
    wait_until(lambda: going_on(folder, dict.fromkeys(NAMES, 0)), process, 200)
    os.killpg(process.pid, signal.SIGINT)
    status, output, errors = finish(process)
    assert (status, errors) == (130, "")
    assert "1 at a time" in output
    assert output.endswith("to continue: python -m experiments.sweep --resume whole\n")

    stopped = steps(folder)
    read_until("Ray runtime started", first)
    process = start(tmp_path, "--resume", "whole", "--address", address)
    half_done = wait_until(lambda: going_on(folder, stopped), process, 200)
    # Not before: on one computer, nodes unpack the program's files into one folder.
    second = start_node(f"--address={address}")
    process.kill()
    process.communicate()
    killed = steps(folder)
    (folder / "results.csv").unlink(missing_ok=True)  # all is known from the checkpoints, too
    damaged, *finished = (name for name in NAMES if name != half_done)
    for name in finished:
        shutil.copytree(whole / f"{name}-log", folder / f"{name}-log", dirs_exist_ok=True)
    shutil.copytree(folder / f"{half_done}-log", folder / f"{damaged}-log", dirs_exist_ok=True)
    before = [content(folder / f"{name}-log") for name in finished]
    (folder / f"{damaged}-log" / CHECKPOINT).write_bytes(b"damaged")
    assert f"{CHECKPOINT} is damaged" in finish(start(tmp_path, "--resume", "whole"))[2]
    (folder / f"{damaged}-log" / CHECKPOINT).unlink()

    read_until("Ray runtime started", second)
    process = start(tmp_path, "--resume", "whole", "--address", address)
    wait_until(lambda: training_worker(second), process, 200)
    kill(second)
    at = steps(folder)
    interrupted = wait_until(lambda: going_on(folder, at), process, 200)
    wait_until(lambda: training_worker(first), process, 200).kill()
    status, output, errors = finish(process)
    assert status == 0, output + errors
    assert "2 at a time" in output and "2 started again" in output
    assert "its process or its computer has died" in errors
    assert_same(folder, whole)
    assert before == [content(folder / f"{name}-log") for name in finished]
    assert killed[half_done] + 1 in started_at(folder / f"{half_done}-log")
    assert started_at(folder / f"{interrupted}-log")[-1] > at[interrupted] + 1
    copied, own = ({*os.listdir(folder / f"{name}-log")} for name in (half_done, damaged))
    assert not any("tfevents" in name for name in copied & own)  # it began anew


@pytest.mark.slow
def test_a_compiled_sweep_ends_as_if_nothing_had_been(start_node, tmp_path, monkeypatch):
    """On a cluster, a node dies, and the program is killed."""
    monkeypatch.chdir(tmp_path)
    port = free_port()
    first = start_node("--head", f"--port={port}", "--include-dashboard=false")
    read_until("Ray runtime started", first)
    second = start_node(f"--address=127.0.0.1:{port}")
    words = "--seeds 10 --max-steps 12000 --eval-every 4000 --eval-steps 1000".split()
    whole = tmp_path / "whole-sweep"  # in this process
    whole.mkdir()
    record = Record(whole, sweep.parse_args(["--name", "x", *words]).plan)
    for run in record.runs:
        record.write([(run, engines.train_compiled(run, None, lambda state: None))])

    read_until("Ray runtime started", second)
    folder = tmp_path / "x-sweep"
    address = ["--address", f"127.0.0.1:{port}"]
    process = start(tmp_path, "--name", "x", *words, *address)
    wait_until(lambda: finished_in(folder) >= 3, process, 200)
    kill(second)
    left = finished_in(folder)
    wait_until(lambda: finished_in(folder) > left, process, 200)
    process.kill()
    process.communicate()
    assert 3 < finished_in(folder) < 10
    status, _, errors = finish(start(tmp_path, "--resume", "x", *address))
    assert (status, errors) == (0, "")
    pd.testing.assert_frame_equal(results_in(folder), results_in(whole))
    for network in whole.glob("*.h5"):
        ours, theirs = read_snapshot(folder / network.name), read_snapshot(network)
        np.testing.assert_equal(ours.weights, theirs.weights)


@pytest.mark.slow
def test_what_is_finished_is_not_trained_again_and_event_files_change_no_result(copy, capsys):
    before = content(copy)
    sweep_main("--resume", "whole-sweep/")  # as the shell completes it
    assert capsys.readouterr().out.startswith("Saved whole-sweep")
    finished = {path: before[path] for path in before if path.parent != copy}
    after = content(copy)
    assert finished == {path: after[path] for path in finished}
    first, second, *_ = (next((copy / f"{name}-log").glob("events*")) for name in NAMES)
    first.unlink()
    os.truncate(second, 100)
    (copy / "results.csv").unlink()
    train_again(copy)
    assert (copy / "results.csv").read_bytes() == before[copy / "results.csv"][0]


def with_eval_every_2000(state):
    state["run"]["settings"]["eval_every"] = 2000
    state["run"]["evaluations"] = state["run"]["evaluations"][1::2]


def with_another_seed(state):
    state["run"]["settings"]["seed"] = 7


@pytest.mark.slow
@pytest.mark.parametrize(
    "change, problem",
    [
        (with_eval_every_2000, "has evaluations at 2000, 4000 steps, not every 1000 and at 4000"),
        (with_another_seed, "was trained with a different seed"),
    ],
)
def test_a_run_that_is_not_what_the_plan_says_is_named_and_failed(change, problem, copy, capsys):
    rewrite(copy / f"{NAMES[0]}-log", change)
    (copy / "results.csv").unlink()
    train_again(copy)
    sweep.write_tables(copy, None)
    assert f"failed: train_epsilon=0.01, seed 0: {NAMES[0]}-log {problem}" in (
        capsys.readouterr().err
    )
    summary = pd.read_csv(copy / "summary.csv")
    assert list(summary.loc[summary["measure"] == "last evaluation", "failed"]) == [1, 0]


@pytest.mark.slow
def test_results_are_never_written_through_links(copy, tmp_path):
    names = ("summary.csv", "curves.png")
    for name in names:
        (tmp_path / name).write_text("precious")
        (copy / name).unlink()
        (copy / name).symlink_to(tmp_path / name)
    sweep_main("--resume", "whole")
    for name in names:
        assert (tmp_path / name).read_text() == "precious"
        assert (copy / name).stat().st_size > 100 and not (copy / name).is_symlink()


@pytest.mark.slow
def test_a_sweep_is_used_by_one_program_at_a_time(copy):
    locked = lock(copy)
    with pytest.raises(WrongInput, match="in use by another program"):
        sweep_main("--resume", "whole")
    locked.release()
    sweep_main("--resume", "whole")


@pytest.mark.slow
def test_a_sweep_to_go_on_with_imports_a_module_only_if_it_is_named_again(
    copy, capsys, monkeypatch
):
    monkeypatch.syspath_prepend(os.getcwd())
    Path("stranger.py").write_text(STRANGER)
    env = "stranger:CartPole-v1"
    for file in ("plan.json", "results.csv"):
        (copy / file).write_text((copy / file).read_text().replace("CartPole-v1", env))
    for arguments in ([], ["--env", "CartPole-v1"]):
        status = status_of("--resume", "whole", *arguments)
        errors = capsys.readouterr().err
        assert status == 2
        assert errors.count("\n") == 1 and env in errors
    assert not Path("stranger.imported").exists()
    sweep_main("--resume", "whole", "--env", env)
    assert Path("stranger.imported").exists()


@pytest.fixture
def record(tmp_path, monkeypatch):
    """A `Record` of two runs, with nothing trained yet."""
    monkeypatch.chdir(tmp_path)
    record = Record(Path("x-sweep"), sweep.parse_args(["--name", "x", "--seeds", "2"]).plan)
    record.folder.mkdir()
    (record.folder / ".lock").touch()
    record.plan = record.plan._replace(engine="compiled")
    record.begin()
    return record


def finished(run, folder):
    """The `State` of a run that has ended, with one file."""
    file = folder / f"{run.name}-200000.h5"
    file.write_text(run.name)
    evaluations = [Evaluation(step, -150.0, -30.0, 1.0, 60) for step in run.evaluated_steps()]
    return State(200000, evaluations, pack(file), is_over=True)


def test_what_has_finished_stays_though_a_file_cannot_be_written(record, tmp_path):
    first, second = record.runs
    record.write([(first, finished(first, tmp_path))])
    in_the_way = record.folder / f"{second.name}-200000.h5"
    (in_the_way / "precious").mkdir(parents=True)
    with pytest.raises(OSError, match=r"seed=1-200000\.h5 can't be written: Is a directory"):
        record.write([(second, finished(second, tmp_path))])
    assert finished_in(record.folder) == 1
    assert (record.folder / f"{first.name}-200000.h5").read_text() == first.name

    shutil.rmtree(in_the_way)
    resumed = Record(record.folder, sweep.parse_args(["--resume", "x"]).plan)
    resumed.read()
    assert resumed.left() == [second]
    resumed.write([(second, finished(second, tmp_path))])
    assert resumed.left() == [] and finished_in(record.folder) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"",
        lambda text: b"\xff\xfe",
        lambda text: b"\xef\xbb\xbf" + text,  # as some spreadsheets write it
        lambda text: text.replace(b",", b";"),
        lambda text: text.replace(b"failed", b"faild", 1),
        lambda text: text.replace(b"name", b"nom", 1),
        lambda text: text.replace(b",200000,", b",200001,"),
        lambda text: text.replace(b"seed=0", b"seed=7"),
        lambda text: text.replace(b",0.99,", b",0.9,"),
        lambda text: text[: len(text) // 2],
    ],
)
def test_results_of_something_else_are_refused_and_stay(change, record, tmp_path, capsys):
    record.write([(run, finished(run, tmp_path)) for run in record.runs])
    file = record.folder / "results.csv"
    file.write_bytes(change(file.read_bytes()))
    before = content(record.folder)
    assert status_of("--resume", "x") == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and "results.csv is not what this sweep has written" in errors
    assert content(record.folder) == before


def test_what_has_finished_stays_though_the_tables_fail(record, tmp_path, monkeypatch):
    record.write([(run, finished(run, tmp_path)) for run in record.runs])
    before = content(record.folder)

    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("experiments.common.statistics.summarize", fail)
    with pytest.raises(ZeroDivisionError):
        sweep_main("--resume", "x")
    assert {path: before[path] for path in content(record.folder) if path in before} == before


def test_how_to_continue_names_the_cluster(record):
    arguments = ["--name", "x", "--address", "host:1"]
    found = sweep.how_to_continue(sweep.parse_args([*arguments, "--seeds", "2"]), record)
    assert found == "; to continue: python -m experiments.sweep --resume x --address host:1"


def test_a_failed_run_hides_no_evaluation_without_an_episode(record, tmp_path, capsys):
    first, second = record.runs
    state = finished(first, tmp_path)
    endless = [state.evaluations[0]._replace(episodes=0), *state.evaluations[1:]]
    failed = State(10, failed="why", is_over=True)
    record.write([(first, state._replace(evaluations=endless)), (second, failed)])
    sweep.write_tables(record.folder, None)
    assert "In some evaluations, no episode ended" in capsys.readouterr().out


def test_progress_tells_each_reason_once_and_keeps_no_files(record, capsys):
    first, second = record.runs
    progress = Progress(record.runs, {second.name: State(9)})
    assert str(progress) == "0 of 2 done, 0 running, 0 failed"  # of both, one has begun before
    progress.show([(first, State(1000, files=b"many")), (second, State(10))])
    assert str(progress) == "0 of 2 done, 2 running, 0 failed"
    progress.show([(run, State(died="it died")) for run in record.runs])
    assert str(progress) == "0 of 2 done, 0 running, 0 failed, 2 started again"
    assert progress.count_steps() == 1010  # which are not lost: it goes on from a checkpoint
    progress.show([(run, State(failed="why", is_over=True)) for run in record.runs])
    assert str(progress) == "0 of 2 done, 0 running, 2 failed, 2 started again"
    assert [state.files for state in progress.states.values()] == [None, None]
    assert capsys.readouterr().err.splitlines() == [
        "starts again: seed=0: it died",
        "failed: seed=0: why",
    ]


def test_a_run_that_has_failed_has_another_try(record, tmp_path):
    first, second = record.runs
    failed = State(is_over=True, failed="the loss is nan")
    record.write([(first, finished(first, tmp_path)), (second, failed)])
    resumed = Record(record.folder, record.plan)
    resumed.read()
    assert resumed.left() == [second]
    assert not record.all_have_failed()
    record.write([(first, failed)])
    assert record.all_have_failed()


def test_a_directory_in_which_nothing_was_trained_stands_in_nobodys_way(record):
    assert sweep.parse_args(["--name", "x"]).plan.runs()
    assert not holds_something(record.folder)
    record.remove_if_empty()
    assert not record.folder.exists()


def test_names_show_only_what_varies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def named(options):
        runs = sweep.parse_args(["--name", "x", "--seeds", "2", *options.split()]).plan.runs()
        return [(run.configuration, run.name) for run in runs]

    assert named("") == named("--batch-size 32 --train-epsilon 0.2 0.2")
    assert named("") == [("x", "seed=0"), ("x", "seed=1")]
    assert named("--batch-size 32 --train-epsilon 0.1 0.2 --first-seed 5")[:3] == [
        ("train_epsilon=0.1", "train_epsilon=0.1,seed=5"),
        ("train_epsilon=0.2", "train_epsilon=0.2,seed=5"),
        ("train_epsilon=0.1", "train_epsilon=0.1,seed=6"),
    ]


def test_configurations_that_come_to_the_same_are_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "--name x --seeds 1 --q-validation-size 10000 20000 30000".split()
    runs = sweep.parse_args(words).plan.runs()
    assert [run.name for run in runs] == [
        "q_validation_size=10000,seed=0",
        "q_validation_size=20000,seed=0",
    ]
    runs = sweep.parse_args(
        "--name x --seeds 1 --q-validation-size 20000 30000".split()
    ).plan.runs()
    assert [(run.configuration, run.hyperparameters["q_validation_size"]) for run in runs] == [
        ("x", 20000)
    ]


@pytest.mark.parametrize(
    "arguments, problem",
    [
        ([], "--name NAME is missing"),
        (["--name", "a/b"], "not a valid file name"),
        (["--name", "x", "--seeds", "0"], "must be an integer between 1 and 1000000, not '0'"),
        (["--name", "x", "--train-epsilon", "0.1", "2"], "between 0.0 and 1.0, not '2'"),
        (["--name", "x", "--hidden-units", "0"], "--hidden-units"),
        (["--name", "x", "--env", "Nowhere-v0"], "Nowhere"),
        (["--name", "x", "--exact", "--compiled"], "not allowed with argument"),
        (["--name", "x", "--address", "a", "--cores", "2"], "--cores"),
        (["--name", "x", "--address", "127.0.0.1:1"], "is not the HOST:PORT"),
        (["--name", "x", "--address", "here"], "'here' is not the HOST:PORT"),
        (["--name", "x", "--max-steps", "1000"], "MAX_STEPS 1000 must be greater than TRAIN_START"),
        (["--name", "taken"], "taken-sweep exists"),
        (["--name", "a-file"], "a-file-sweep exists; choose another --name\n"),
        (["--name", "nowhere"], "nowhere-sweep exists; choose another --name\n"),
        (["--resume", "x"], "there is no sweep to resume"),
        (["--resume", "a/b"], "not a valid file name"),
        (["--resume", "x", "--train-epsilon", "0.1"], "leave out --train-epsilon"),
        (["--resume", "x", "--seeds", "10"], "leave out --seeds"),
        (["--resume", "x", "--exact"], "leave out --exact"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    arguments, problem, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("taken-sweep", "x-log").mkdir(parents=True)
    Path("a-file-sweep").touch()
    Path("nowhere-sweep").symlink_to("nowhere")
    before = {*os.listdir()}
    status = status_of(*arguments)
    errors = capsys.readouterr().err
    assert status == 2
    assert errors.count("\n") == 1 and problem in errors
    assert {*os.listdir()} == before


def values(**changes):
    """A plan in which some of the values of hyperparameters differ."""
    return lambda plan: json.dumps(plan | {"values": plan["values"] | changes})


def other(**changes):
    """A plan in which something else differs."""
    return lambda plan: json.dumps(plan | changes)


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: "",
        lambda plan: "null",
        lambda plan: "[]",
        lambda plan: "{}",
        lambda plan: "[" * 100000,
        lambda plan: '[{"setting":' * 100000,
        lambda plan: "\udcff",
        other(engine="steam"),
        other(engine=None),
        other(is_by_hand="yes"),
        other(surprise=1),
        other(name="../x"),
        other(name=["x"]),
        other(env=["CartPole-v1"]),
        other(seeds=0),
        other(seeds=10**9),
        other(seeds=True),
        other(seeds="2"),
        other(first_seed=-1),
        other(first_seed="0"),
        other(values=[1]),
        values(max_steps=["4000"]),
        values(max_steps=[4000.5]),
        values(max_steps=[0]),
        values(max_steps=[10**10]),
        values(max_steps=4000),
        values(batch_size=[True]),
        values(batch_size=[]),
        values(batch_size=[[64]]),
        values(train_epsilon=[float("nan")]),
        values(train_epsilon=[0.1, 2]),
    ],
)
def test_a_damaged_plan_is_one_line_and_changes_nothing(change, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    record = Record(Path("x-sweep"), sweep.parse_args(["--name", "x", *EXACT]).plan)
    record.folder.mkdir()
    record.begin()
    file = record.folder / "plan.json"
    file.write_text(change(json.loads(file.read_text())), errors="surrogateescape")
    before = content(tmp_path)
    status = status_of("--resume", "x")
    output, errors = capsys.readouterr()
    assert (status, output) == (2, "")
    assert errors.count("\n") == 1 and "plan.json is not the plan of a sweep" in errors
    assert content(tmp_path) == before


@pytest.mark.parametrize("change", [values(surprise=[1]), other(values={"batch_size": [64]})])
def test_a_plan_with_other_constants_says_so(change, record, capsys):
    file = record.folder / "plan.json"
    file.write_text(change(json.loads(file.read_text())))
    assert status_of("--resume", "x") == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and "was made with other constants in run.py: " in errors


def test_a_constant_named_as_a_column_of_the_results_is_refused():
    with pytest.raises(WrongInput, match="STEP can't be the name of a constant, for step is a col"):
        results.check_names([Setting("STEP", 1, "")])
