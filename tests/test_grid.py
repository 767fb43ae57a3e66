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
from conftest import ROOT, exit_status, finish, main, read_until, start_experiment, wait_until
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import SessionLog

from experiments import grid, report
from support.checkpoints import CHECKPOINT, encode, read_checkpoint, write_checkpoint
from support.errors import WrongInput
from support.files import lock
from support.settings import Setting

SHORT = (
    "--env CartPole-v1 --max-steps 4000 --train-start 200 --q-validation-size 300 "
    "--eval-every 1000 --eval-steps 300 --checkpoint-every 300 --log-every 500"
)
SETTINGS = ["--train-epsilon", "0.01", "0.3", "--seeds", "2", *SHORT.split()]
NAMES = [f"train_epsilon={e},seed={s}" for s in (0, 1) for e in (0.01, 0.3)]
NAMED = "train_start=200"
STRANGER = "from pathlib import Path\nPath(__file__).with_suffix('.imported').touch()\n"


def start(folder, *arguments, replacements=None):
    """Starts a grid; see `start_experiment`."""
    return start_experiment("grid", folder, *arguments, replacements=replacements)


def steps(folder):
    """How far the runs of a grid are: a dict of names to steps."""
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
    state["run"]["evaluations"][:, 3] = 0
    del state["run"]["name"], state["run"]["settings"]["env"]
    return state


def results(folder):
    frame = pd.read_csv(folder / "results.csv").drop(columns="seconds")
    return frame.sort_values(["setting", "seed", "step"], ignore_index=True)


def assert_same(folder, whole):
    pd.testing.assert_frame_equal(results(folder), results(whole))
    for name in NAMES:
        np.testing.assert_equal(end_of(folder / f"{name}-log"), end_of(whole / f"{name}-log"))


def resume(*arguments):
    """Goes on with the grid here that has nothing left to do, in this process."""
    grid.main(["--resume", "whole", *arguments])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Directory of a complete grid, each run of which is one of `python run.py`."""
    folder = tmp_path_factory.mktemp("grid") / "whole-grid"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in NAMES:
            setting, seed = name.split(",")
            keras.backend.clear_session()
            main(f"--name {name} --{setting.replace('_', '-')} --{seed} {SHORT}")
        patch.chdir(folder.parent)
        runs = grid.parse_args(["--name", "new", *SETTINGS]).runs
        (folder / "grid.json").write_text(json.dumps(runs))
        resume()
    return folder


@pytest.fixture
def copy(whole, tmp_path, monkeypatch):
    """A copy of `whole`, beside which the test runs."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(whole, tmp_path / "whole-grid"))


@pytest.mark.slow
def test_a_mistake_stops_a_grid_and_once_it_is_mended_settings_that_fail_are_told(
    tmp_path, request
):
    """The grid varies a new constant, in an environment of one's own."""
    (tmp_path / "stranger.py").write_text(STRANGER)
    options = "--seeds 1 --reward-scale 1 1e38 --train-start 200 5000".split()
    env = ["--env", "stranger:CartPole-v1"]
    own = {
        "\nTRAIN_EPSILON": "\nREWARD_SCALE: float = 1\nTRAIN_EPSILON",
        "add(observation, action, reward,": "add(observation, action, REWARD_SCALE * reward,",
    }
    typo = {"max_next_q_values = tf.where(dones, 0.0": "max_next_q_values = tf.where(dnes, 0.0"}
    arguments = ["--name", "f", "--cores", "1", *SHORT.split(), *options, *env]
    process = start(tmp_path, *arguments, replacements=own | typo)
    whole = request.getfixturevalue("whole")  # meanwhile
    status, output, errors = finish(process)
    first = f"reward_scale=1.0,{NAMED},seed=0"
    assert status == 1
    assert output.startswith("4 runs with 16,000 steps to go; starting Ray\n1 at a time\nfailed: ")
    (line,) = output.splitlines()[2:]
    assert line.startswith(f"failed: {first}: NameError: name 'dnes' is not defined (run.py, line ")
    assert "max_next_q_values = tf.where(dnes, 0.0, max_next_q_values))" in line
    assert errors.count("\n") == 1 and "stopped by a mistake in the code" in errors
    assert errors.endswith(" python -m experiments.grid --resume f --env stranger:CartPole-v1\n")
    folder = tmp_path / "f-grid"
    assert {*os.listdir(folder)} <= {"grid.json", ".lock", f"{first}-log"}

    status, output, errors = finish(start(tmp_path, "--resume", "f", *env, replacements=own))
    assert (status, errors) == (0, "")
    assert output.startswith("4 runs with 16,000 steps to go; starting Ray\n2 at a time\n")
    assert "\n1 of 4 done, 0 running, 3 failed\n" in output
    problem = "MAX_STEPS 4000 must be greater than TRAIN_START 5000"
    at_once, at_the_end = output.split("Saved f-grid", 1)
    assert at_once.count(f",seed=0: {problem}") == 1  # though two runs fail for it
    assert "\nfailed: reward_scale=1e+38,train_start=200,seed=0: the loss is" in at_once
    assert f"failed: reward_scale=1.0,train_start=5000, seed 0: {problem}" in at_the_end
    assert "failed: reward_scale=1e+38,train_start=200, seed 0: the loss is" in at_the_end
    summary = pd.read_csv(folder / "summary.csv", index_col="setting")
    failed = summary.index[summary["failed"] == 1]
    assert {*summary.index} - {*failed} == {f"reward_scale=1.0,{NAMED}"}
    own = end_of(folder / f"{first}-log")
    assert own["run"]["settings"].pop("reward_scale") == 1
    np.testing.assert_equal(own, end_of(whole / "train_epsilon=0.01,seed=0-log"))


@pytest.mark.slow
def test_results_have_a_row_per_training_and_evaluation(whole):
    frame = pd.read_csv(whole / "results.csv")
    keys = list(zip(frame["setting"], frame["seed"], frame["step"], strict=True))
    assert len(set(keys)) == len(keys) == 4 * 4
    assert set(frame["step"]) == {1000, 2000, 3000, 4000}
    assert set(frame["setting"]) == {"train_epsilon=0.01", "train_epsilon=0.3"}
    assert (frame["max_steps"] == 4000).all() and frame["failed"].isna().all()
    assert frame["return"].nunique() > 8  # CartPole's returns differ, so sameness means something
    for (name, seconds), group in frame.groupby(["name", "seconds"]):
        evaluations = read_checkpoint(whole / f"{name}-log")["run"]["evaluations"]
        found = group[list(report.EVALUATION)].to_numpy()
        np.testing.assert_allclose(found, evaluations[evaluations[:, 3] == seconds])


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
    """Process of a node in which a run runs; None without one."""
    for process in psutil.Process(node.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name().endswith(".train"):
                return process


@pytest.mark.slow
def test_a_grid_ends_as_if_nothing_had_been(whole, start_node, tmp_path, monkeypatch):
    """Stopped, then killed, with a damaged run; and on a cluster, a worker and a node die."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "whole-grid"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = start(tmp_path, "--name", "whole", "--cores", "1", *SETTINGS)
    first = start_node("--head", f"--port={port}", "--include-dashboard=false")  # meanwhile
    wait_until(lambda: going_on(folder, dict.fromkeys(NAMES, 0)), process, 200)
    os.killpg(process.pid, signal.SIGINT)
    status, output, errors = finish(process)
    assert (status, errors) == (130, "")
    assert "\n1 at a time\n" in output
    assert output.endswith("To continue: python -m experiments.grid --resume whole\n")
    assert not (folder / "results.csv").exists()

    stopped = steps(folder)
    address = f"127.0.0.1:{port}"
    (tmp_path / "shared").mkdir()
    shared = ["--address", address, "--storage", str(tmp_path / "shared")]
    read_until("Ray runtime started", first)
    process = start(tmp_path, "--resume", "whole", *shared)
    second = start_node(f"--address={address}")  # meanwhile
    half_done = wait_until(lambda: going_on(folder, stopped), process, 200)
    process.kill()
    process.communicate()
    killed = steps(folder)
    damaged, *finished = (name for name in NAMES if name != half_done)
    for name in finished:
        shutil.copytree(whole / f"{name}-log", folder / f"{name}-log", dirs_exist_ok=True)
    shutil.copytree(folder / f"{half_done}-log", folder / f"{damaged}-log", dirs_exist_ok=True)
    before = [content(folder / f"{name}-log") for name in finished]
    (folder / f"{damaged}-log" / CHECKPOINT).write_bytes(b"damaged")
    with pytest.raises(WrongInput, match=f"{CHECKPOINT} is damaged"):
        resume()
    (folder / f"{damaged}-log" / CHECKPOINT).unlink()

    read_until("Ray runtime started", second)
    process = start(tmp_path, "--resume", "whole", *shared)
    wait_until(lambda: training_worker(second), process, 200)
    kill(second)
    at = steps(folder)
    interrupted = wait_until(lambda: going_on(folder, at), process, 200)
    wait_until(lambda: training_worker(first), process, 200).kill()
    status, output, errors = finish(process)
    assert status == 0, output + errors
    assert "\n2 at a time\n" in output and "2 retried" in output
    assert_same(folder, whole)
    assert before == [content(folder / f"{name}-log") for name in finished]
    assert killed[half_done] + 1 in started_at(folder / f"{half_done}-log")
    assert started_at(folder / f"{interrupted}-log")[-1] > at[interrupted] + 1
    copied, own = ({*os.listdir(folder / f"{name}-log")} for name in (half_done, damaged))
    assert not any("tfevents" in name for name in copied & own)  # it began anew
    assert not (folder / "ray").exists()


@pytest.mark.slow
def test_event_files_change_no_result_and_what_is_finished_is_not_trained_again(copy, capsys):
    before = content(copy)
    resume()
    finished = {path: before[path] for path in before if path.parent != copy}
    after = content(copy)
    assert finished == {path: after[path] for path in finished}
    assert capsys.readouterr().out.startswith("4 runs, all done\n")
    first, second, *_ = (next((copy / f"{name}-log").glob("events*")) for name in NAMES)
    first.unlink()
    os.truncate(second, 100)
    resume()
    assert (copy / "results.csv").read_bytes() == before[copy / "results.csv"][0]


def rewrite(logdir, change):
    """Writes the checkpoint again with a changed state."""
    state = read_checkpoint(logdir)
    del state["file"]
    change(state)
    write_checkpoint(logdir, {part: encode(values) for part, values in state.items()})


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
def test_a_run_that_is_not_what_the_grid_says_is_named_and_failed(change, problem, copy, capsys):
    logdir = copy / f"{NAMES[0]}-log"
    rewrite(logdir, change)
    resume()
    assert f"\nfailed: train_epsilon=0.01, seed 0: {NAMES[0]}-log {problem}\n" in (
        capsys.readouterr().out
    )
    assert list(pd.read_csv(copy / "summary.csv")["failed"]) == [1, 0]


@pytest.mark.slow
def test_results_are_never_written_through_links(copy, tmp_path):
    names = ("results.csv", "summary.csv", "curves.png")
    for name in names:
        (tmp_path / name).write_text("precious")
        (copy / name).unlink()
        (copy / name).symlink_to(tmp_path / name)
    resume()
    for name in names:
        assert (tmp_path / name).read_text() == "precious"
        assert (copy / name).stat().st_size > 100 and not (copy / name).is_symlink()


@pytest.mark.slow
def test_a_grid_is_used_by_one_program_at_a_time(copy):
    locked = lock(copy)
    with pytest.raises(WrongInput, match="in use by another program"):
        resume()
    locked.release()
    resume()


@pytest.mark.slow
def test_a_grid_to_go_on_with_imports_a_module_only_if_it_is_named_again(copy, capsys, monkeypatch):
    monkeypatch.syspath_prepend(os.getcwd())
    Path("stranger.py").write_text(STRANGER)
    env = "stranger:CartPole-v1"
    description = copy / "grid.json"
    description.write_text(description.read_text().replace("CartPole-v1", env))
    for logdir in copy.glob("*-log"):
        rewrite(logdir, lambda state: state["run"]["settings"].update(env=env))
    for arguments in ([], ["--env", "CartPole-v1"]):
        status = exit_status(grid.main, "--resume", "whole", *arguments)
        errors = capsys.readouterr().err
        assert status == 2
        assert errors.count("\n") == 1 and env in errors
    assert not Path("stranger.imported").exists()
    resume("--env", env)
    assert Path("stranger.imported").exists()


def test_names_show_only_what_varies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def named(options):
        runs = grid.parse_args(["--name", "x", "--seeds", "2", *options.split()]).runs
        return [(planned["setting"], planned["name"]) for planned in runs]

    assert named("") == named("--batch-size 32 --train-epsilon 0.2 0.2")
    assert named("") == [("x", "seed=0"), ("x", "seed=1")]
    assert named("--batch-size 32 --train-epsilon 0.1 0.2 --first-seed 5")[:3] == [
        ("train_epsilon=0.1", "train_epsilon=0.1,seed=5"),
        ("train_epsilon=0.2", "train_epsilon=0.2,seed=5"),
        ("train_epsilon=0.1", "train_epsilon=0.1,seed=6"),
    ]


@pytest.mark.parametrize("module", ["grid", "report", "screen", "speed"])
def test_a_module_started_as_a_script_says_how_to_start_it(module):
    command = [sys.executable, ROOT / "experiments" / f"{module}.py"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert result.stderr.endswith(f" python -m experiments.{module}\n")


@pytest.mark.parametrize(
    "arguments, problem",
    [
        ([], "--name NAME is missing"),
        (["--name", "a/b"], "not a valid file name"),
        (["--name", "x", "--seeds", "0"], "must be an integer between 1 and 1000000, not '0'"),
        (
            ["--name", "x", "--train-epsilon", "0.1", "2"],
            "between 0.0 and 1.0, not '2'",
        ),
        (["--name", "x", "--env", "Nowhere-v0"], "Nowhere"),
        (["--name", "x", "--address", "1.2.3.4:5"], "--address needs --storage"),
        (["--name", "x", "--address", "a", "--storage", "b", "--cores", "2"], "--cores"),
        (
            ["--name", "x", "--address", "127.0.0.1:1", "--storage", "b"],
            "is not the HOST:PORT",
        ),
        (["--name", "x", "--address", "here", "--storage", "b"], "'here' is not the HOST:PORT"),
        (
            ["--name", "x", "--storage", "b"],
            "--storage 'b' is not a directory that can be written to",
        ),
        (["--name", "taken"], "taken-grid exists"),
        (["--resume", "x"], "there is no grid to resume"),
        (["--resume", "a/b"], "not a valid file name"),
        (["--resume", "x", "--train-epsilon", "0.1"], "leave out --train-epsilon"),
        (["--resume", "x", "--seeds", "10"], "leave out --seeds"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    arguments, problem, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("taken-grid").mkdir()
    status = exit_status(grid.main, *arguments)
    errors = capsys.readouterr().err
    assert status == 2
    assert errors.count("\n") == 1 and problem in errors
    assert os.listdir() == ["taken-grid"]


def changed(key, value):
    """grid.json in which a value of the first run, or one of its hyperparameters, differs."""

    def change(runs):
        planned = runs[0]
        part = planned["hyperparameters"] if key in planned["hyperparameters"] else planned
        part[key] = value
        return json.dumps(runs)

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda runs: "",
        lambda runs: "null",
        lambda runs: "[]",
        lambda runs: "{}",
        lambda runs: '[{"name": "x"}]',
        lambda runs: '[{"name": "x", "setting": "x", "env": "x", "seed": 0, "argv": []}]',
        lambda runs: "[" * 100000,
        lambda runs: '[{"setting":' * 100000,
        lambda runs: "\udcff",
        lambda runs: json.dumps([*runs, runs[0]]),
        changed("max_steps", "4000"),
        changed("max_steps", 4000.5),
        changed("max_steps", 0),
        changed("max_steps", 10**10),
        changed("batch_size", True),
        changed("batch_size", [64]),
        changed("train_epsilon", float("nan")),
        changed("train_epsilon", 2),
        changed("surprise", 1),
        changed("hyperparameters", [1]),
        changed("hyperparameters", {}),
        changed("name", "../x"),
        changed("name", ["x"]),
        changed("name", "train_epsilon=0.3,seed=0"),
        changed("setting", "two\nlines"),
        changed("setting", "train_epsilon=0.3"),
        changed("seed", -1),
        changed("seed", "0"),
        changed("env", "MountainCar-v0"),
        changed("env", ["CartPole-v1"]),
    ],
)
def test_a_damaged_grid_is_one_line_and_changes_nothing(change, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runs = grid.parse_args(["--name", "x", *SETTINGS]).runs
    Path("x-grid").mkdir()
    description = Path("x-grid", "grid.json")
    description.write_text(change(runs), errors="surrogateescape")
    before = content(tmp_path)
    status = exit_status(grid.main, "--resume", "x")
    output, errors = capsys.readouterr()
    assert (status, output) == (2, "")
    assert errors.count("\n") == 1 and "grid.json is not a grid of this program" in errors
    assert content(tmp_path) == before


def test_a_constant_named_as_a_column_of_the_results_is_refused():
    with pytest.raises(WrongInput, match="STEP can't be the name of a constant, for step is a col"):
        report.check_names([Setting("STEP", 1, "")])
