import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from conftest import ROOT

from checkpoints import CheckpointError, read_checkpoint
from experiments import grid

SHORT = (
    "--env CartPole-v1 --max-steps 6000 --train-start 200 --q-validation-size 300 "
    "--eval-every 1500 --eval-steps 1000 --checkpoint-every 500 --log-every 500"
).split()
SETTINGS = ["--train-epsilon", "0.01", "0.3", "--seeds", "2"]
NAMES = [f"train_epsilon={e},seed={s}" for s in (0, 1) for e in (0.01, 0.3)]


def start(folder, *arguments):
    """Starts a grid as its user would, in a copy of the project, in a process group of its own."""
    for file in [*ROOT.glob("*.py"), *ROOT.glob("experiments/*.py")]:
        copy = folder / file.relative_to(ROOT)
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(file, copy)
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.grid", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process):
    """(exit status, standard output, standard error) of a grid."""
    output, errors = process.communicate(timeout=600)
    return process.returncode, output, errors


def wait_until(happened, folder, seconds=300):
    """Waits until `happened`, a function, returns True for the steps of the grid's trainings."""
    end = time.monotonic() + seconds
    while not happened([steps(logdir) for logdir in folder.glob("*-log")]):
        assert time.monotonic() < end, f"not yet in {seconds} s"
        time.sleep(0.2)


def steps(logdir):
    try:
        return read_checkpoint(logdir)[0]["step"]
    except CheckpointError:  # it is being unpacked at this moment
        return 0


def event_files(folder):
    """Per run, its event files: one for its beginning, and one for each time it went on."""
    return {name: sorted((folder / f"{name}-log").glob("events*")) for name in NAMES}


def outcome(folder):
    """What a grid must give again: the results apart from times, and each run's last state."""
    results = pd.read_csv(folder / "results.csv").drop(columns="seconds")
    results = results.sort_values(["setting", "seed", "step"], ignore_index=True)
    return results, {name: read_checkpoint(folder / f"{name}-log")[1] for name in NAMES}


def assert_same(folder, other):
    (results, states), (other_results, other_states) = outcome(folder), outcome(other)
    pd.testing.assert_frame_equal(results, other_results)
    for name in NAMES:
        np.testing.assert_equal(states[name], other_states[name])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Directory of a grid that nothing happened to."""
    folder = tmp_path_factory.mktemp("grid")
    status, output, errors = finish(start(folder, "--name", "whole", *SETTINGS, *SHORT))
    assert (status, errors) == (0, ""), output + errors
    assert output.startswith("4 trainings with 24,000 steps to go, ")
    assert "\n4 of 4 done, 0 running, 0 failed\n" in output
    return folder / "whole-grid"


@pytest.mark.slow
def test_a_training_of_a_grid_equals_that_of_run(uninterrupted, command):
    status, _, errors = command("--name", "single", "--seed", "1", "--train-epsilon", "0.3", *SHORT)
    assert status == 0, errors
    _, expected = read_checkpoint("single-log")
    _, arrays = read_checkpoint(uninterrupted / "train_epsilon=0.3,seed=1-log")
    np.testing.assert_equal(arrays, expected)


@pytest.mark.slow
def test_results_have_a_row_per_training_and_evaluation(uninterrupted):
    results = pd.read_csv(uninterrupted / "results.csv")
    keys = list(zip(results["setting"], results["seed"], results["step"], strict=True))
    assert len(set(keys)) == len(keys) == 4 * 4
    assert set(results["step"]) == {1500, 3000, 4500, 6000}
    assert set(results["setting"]) == {"train_epsilon=0.01", "train_epsilon=0.3"}
    assert (results["max_steps"] == 6000).all() and results["failed"].isna().all()
    assert results["return"].nunique() > 8  # CartPole's returns differ, so sameness means something
    assert (results.groupby(["setting", "seed"])["seconds"].diff().dropna() > 0).all()


@pytest.mark.slow
def test_a_training_whose_worker_dies_goes_on_from_its_checkpoint(uninterrupted, tmp_path):
    process = start(tmp_path, "--name", "whole", *SETTINGS, *SHORT)
    wait_until(lambda steps: sum(steps) >= 3000, tmp_path / "whole-grid")
    ours = psutil.Process(process.pid).children(recursive=True)
    worker = next(p for p in ours if "train_one" in p.name() or "ImplicitFunc" in p.name())
    worker.kill()
    status, output, _ = finish(process)
    assert status == 0 and "1 retried" in output
    assert_same(tmp_path / "whole-grid", uninterrupted)
    files = event_files(tmp_path / "whole-grid")
    assert sorted(len(own) for own in files.values()) == [1, 1, 1, 2]  # one went on, from not 0


@pytest.mark.slow
def test_a_grid_stopped_and_then_killed_ends_as_if_nothing_had_been(uninterrupted, tmp_path):
    process = start(tmp_path, "--name", "whole", *SETTINGS, *SHORT)
    folder = tmp_path / "whole-grid"
    wait_until(lambda steps: sum(steps) >= 3000, folder)
    os.killpg(process.pid, signal.SIGINT)
    status, output, errors = finish(process)
    assert (status, errors) == (130, "")
    assert output.endswith("To go on: python -m experiments.grid --resume whole\n")
    assert not (folder / "results.csv").exists()

    process = start(tmp_path, "--resume", "whole")
    wait_until(lambda steps: 6000 in steps and any(3000 <= n < 6000 for n in steps), folder)
    process.kill()
    process.communicate()
    before = event_files(folder)
    at = {name: steps(folder / f"{name}-log") for name in NAMES}
    finished = [name for name in NAMES if at[name] == 6000]
    half_done = max((name for name in NAMES if name not in finished), key=at.get)
    damaged = next(name for name in NAMES if name not in [*finished, half_done])
    shutil.copytree(folder / f"{half_done}-log", folder / f"{damaged}-log", dirs_exist_ok=True)
    (folder / f"{damaged}-log" / "checkpoint.npz").write_bytes(b"damaged")
    status, _, errors = finish(start(tmp_path, "--resume", "whole"))
    assert (status, errors.count("\n")) == (2, 1) and "checkpoint.npz is damaged" in errors
    (folder / f"{damaged}-log" / "checkpoint.npz").unlink()
    for _ in range(2):  # the second time, there is nothing left to do
        status, _, errors = finish(start(tmp_path, "--resume", "whole"))
        assert (status, errors) == (0, "")
        assert_same(folder, uninterrupted)
        after = event_files(folder)
        assert all(before[name] == after[name] for name in finished)
        assert before[half_done] == after[half_done][:-1]
        assert len(after[damaged]) == 1  # it began anew, and nothing is counted twice
    assert not (folder / "ray").exists()


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes of Ray with one core each: (address, function that kills the second)."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray = str(Path(sys.executable).parent / "ray")
    nodes = []

    def add(*arguments):
        command = [ray, "start", "--num-cpus=1", "--block", "--disable-usage-stats", *arguments]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        nodes.append(subprocess.Popen(command, **quiet))

    def kill(node):
        parent = psutil.Process(node.pid)
        for process in [parent, *parent.children(recursive=True)]:
            process.kill()
        node.wait()

    add("--head", f"--port={port}", "--include-dashboard=false")
    address = f"127.0.0.1:{port}"
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.2)
    add(f"--address={address}")
    wait = f"""
import ray, time
while True:
    try:
        ray.init({address!r}, log_to_driver=False, logging_level="CRITICAL")
        break
    except ConnectionError:
        time.sleep(1)
while ray.cluster_resources().get("CPU", 0) < 2:
    time.sleep(0.2)
"""
    subprocess.run([sys.executable, "-c", wait], timeout=300, check=True, capture_output=True)
    yield address, lambda: kill(nodes.pop())
    for node in nodes:
        kill(node)


@pytest.mark.slow
def test_a_grid_ends_complete_when_a_node_of_the_cluster_dies(uninterrupted, cluster, tmp_path):
    address, kill_second_node = cluster
    (tmp_path / "shared").mkdir()
    shared = ["--address", address, "--storage", str(tmp_path / "shared")]
    process = start(tmp_path, "--name", "whole", *shared, *SETTINGS, *SHORT)
    wait_until(lambda steps: sum(steps) >= 9000, tmp_path / "whole-grid")
    kill_second_node()
    status, output, errors = finish(process)
    assert status == 0, output + errors
    assert "2 at a time" in output and "1 retried" in output
    assert_same(tmp_path / "whole-grid", uninterrupted)


@pytest.mark.slow
def test_settings_that_fail_are_reported_and_the_rest_is_trained(tmp_path):
    options = "--name f --seeds 1 --batch-size 64 5000 --learning-rate 0.001 1e6".split()
    status, output, errors = finish(start(tmp_path, *options, *SHORT))
    assert (status, errors) == (0, "")
    assert "BATCH_SIZE 5000 has to be at most TRAIN_START 200" in output
    assert "the loss is" in output
    summary = pd.read_csv(tmp_path / "f-grid" / "summary.csv", index_col="setting")
    assert summary["failed"].to_dict() == {
        "learning_rate=0.001,batch_size=64": 0,
        "learning_rate=0.001,batch_size=5000": 1,
        "learning_rate=1000000.0,batch_size=64": 1,
        "learning_rate=1000000.0,batch_size=5000": 1,
    }


@pytest.mark.parametrize(
    "arguments, problem",
    [
        ([], "--name NAME is missing"),
        (["--name", "a/b"], "no plain file name"),
        (["--name", "x", "--seeds", "0"], "'0' is no whole number from 1"),
        (["--name", "x", "--train-epsilon", "0.1", "2"], "'2' is no number from 0.0 to 1.0"),
        (["--name", "x", "--env", "Nowhere-v0"], "Nowhere"),
        (["--name", "x", "--address", "1.2.3.4:5"], "--address needs --storage"),
        (["--name", "x", "--address", "a", "--storage", "b", "--cores", "2"], "--cores"),
        (["--name", "x", "--address", "127.0.0.1:1", "--storage", "b"], "'127.0.0.1:1' is no HOST"),
        (["--name", "x", "--address", "here", "--storage", "b"], "'here' is no HOST:PORT"),
        (["--name", "x", "--storage", "b"], "--storage 'b' is no directory to write to"),
        (["--name", "taken"], "taken-grid exists"),
        (["--resume", "x"], "there is no grid to go on with"),
        (["--resume", "x", "--train-epsilon", "0.1"], "leave out --train-epsilon"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    arguments, problem, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("taken-grid").mkdir()
    with pytest.raises(SystemExit) as exit_:
        grid.main(arguments)
    errors = capsys.readouterr().err
    assert exit_.value.code == 2
    assert errors.count("\n") == 1 and problem in errors
    assert os.listdir() == ["taken-grid"]
