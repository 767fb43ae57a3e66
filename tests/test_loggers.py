import contextlib
import json
import os
import shutil
import time
import urllib.error
import urllib.request

import pytest
from conftest import ROOT, scalars
from tensorboard import program
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG

from loggers import TensorBoardLogger, TrainingLog, next_event_file


@pytest.fixture
def logger(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    yield logger
    logger.close()


def hparams(logdir):
    """The hyperparameters that a run has recorded, by name."""
    metadata = EventAccumulator(str(logdir)).Reload().SummaryMetadata(SESSION_START_INFO_TAG)
    content = plugin_data_pb2.HParamsPluginData.FromString(metadata.plugin_data.content)
    return content.session_start_info.hparams


def test_scalars_are_readable_as_soon_as_they_are_logged(logger, tmp_path):
    logger.log(2000, loss=0.5, episode_return=-200.0)
    logger.log(4000, loss=0.25)
    assert scalars(tmp_path) == {
        "loss": [(2000, 0.5), (4000, 0.25)],
        "episode_return": [(2000, -200.0)],
    }
    assert len(list(tmp_path.iterdir())) == 1


def test_hyperparameters_are_recorded_for_the_hparams_page(logger, tmp_path):
    settings = {"learning_rate": 0.001, "seed": 7, "env": "MountainCar-v0"}
    logger.log_hyperparameters("x", settings)
    recorded = hparams(tmp_path)
    assert recorded["learning_rate"].number_value == 0.001
    assert recorded["seed"].number_value == 7
    assert recorded["env"].string_value == "MountainCar-v0"


@pytest.mark.parametrize("back", [0, 3600])
def test_each_event_file_comes_behind_the_earlier_ones_and_changes_none(
    back, tmp_path, monkeypatch
):
    now = time.time()
    contents = {}
    for number in range(4):
        monkeypatch.setattr(time, "time", lambda earlier=back * number: now - earlier)
        logger = TensorBoardLogger(tmp_path)
        logger.log(number, loss=number)
        logger.close()
        *earlier, newest = sorted(tmp_path.iterdir())
        assert {path: path.read_bytes() for path in earlier} == contents
        contents[newest] = newest.read_bytes()
    assert scalars(tmp_path)["loss"] == [(number, number) for number in range(4)]


def test_what_else_lies_in_the_directory_decides_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.5)
    for name in ("events.out.tfevents.v2", "x-9999999999.h5", "events.9999999999.x"):
        (tmp_path / name).touch()
    assert next_event_file(tmp_path).startswith("events.out.tfevents.1700000000.")
    (tmp_path / "events.out.tfevents.1750000000.host.123").touch()
    assert next_event_file(tmp_path).startswith("events.out.tfevents.1750000001.")


def restart_twice(logdir, torn=0):
    """Writes the curve of a run killed after steps 300 and 400; returns what should be shown.

    `torn` bytes are missing at the end of what it wrote before each kill.
    """
    for number, steps in enumerate([(100, 200, 300), (200, 300, 400), (300, 400, 500)]):
        logger = TensorBoardLogger(logdir)
        if number:
            logger.log_restart(steps[0] - 50)
        for step in steps:
            logger.log(step, loss=number)
        logger.close()
        if number < 2:
            os.truncate(logger.file.name, os.path.getsize(logger.file.name) - torn)
    return [(100, 0), (200, 1), (300, 2), (400, 2), (500, 2)]


@pytest.mark.parametrize("torn", [0, 1, 20])
def test_after_a_restart_what_came_later_is_what_the_new_file_says(torn, tmp_path):
    right = restart_twice(tmp_path, torn)
    assert scalars(tmp_path)["loss"] == right


@pytest.mark.slow
@pytest.mark.parametrize("load_fast", ["auto", "false"])
def test_a_server_shows_each_step_of_a_run_restarted_twice_once(load_fast, tmp_path):
    """With TensorBoard's data server, and as on machines for which there is none."""
    right = restart_twice(tmp_path)
    url = start_tensorboard(tmp_path, f"--load_fast={load_fast}")

    def points():
        with contextlib.suppress(urllib.error.HTTPError):  # there is no such curve yet
            answer = urllib.request.urlopen(f"{url}/scalars/scalars?run=.&tag=loss")
            return [(step, value) for _, step, value in json.load(answer)]

    end = time.monotonic() + 60
    while (shown := points() or [(0, 0)])[-1] != right[-1]:  # it is still reading
        assert time.monotonic() < end
    assert shown == right


class Run:
    """What a log wants to know of a training."""

    step = 0
    max_steps = 1000
    is_resumed = False

    def __init__(self, logdir, settings=None, name="x"):
        self.logdir = logdir
        self.name = name
        self.settings = settings or {"batch_size": 64}


def info(episode_return, episode_steps, seconds):
    """What Gymnasium's RecordEpisodeStatistics tells at the end of an episode."""
    return {"episode": {"r": episode_return, "l": episode_steps, "t": seconds}}


@pytest.fixture
def log(tmp_path):
    """Begins a log with so many steps between lines."""
    opened = []

    def begin(log_every):
        log = TrainingLog(log_every)
        log.begin(Run(tmp_path))
        opened.append(log)
        return log

    yield begin
    for log in opened:
        log.close()


def test_a_log_line_at_the_end_of_an_episode_when_enough_steps_have_passed(log, tmp_path, capsys):
    log = log(log_every=250)
    for step in range(1, 601):
        log.step(step, 1 / step, info(-100.0, 100, 2.0) if step % 100 == 0 else {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" GB")[0].rsplit(" ", 1)[0] for line in lines] == [
        "episode 3 steps 100/300 loss 0.0033333 return -100.0 in 2.00s 50.0 steps/s",
        "episode 6 steps 100/600 loss 0.0016667 return -100.0 in 2.00s 50.0 steps/s",
    ]
    assert set(scalars(tmp_path)) == {
        "episode_return",
        "episode_steps",
        "episode_seconds",
        "steps_per_second",
        "memory_used",
        "loss",
    }
    assert scalars(tmp_path)["episode_return"] == [(300, -100.0), (600, -100.0)]


def test_no_loss_is_logged_before_there_is_one(log, tmp_path, capsys):
    log(log_every=1).step(1, None, info(1.0, 1, 1.0))
    assert "loss none yet return 1.0" in capsys.readouterr().out
    assert "loss" not in scalars(tmp_path)


def test_all_points_of_all_curves_pass_through_log(log, tmp_path, monkeypatch):
    """So that a line there can pass them on to another program, as docs/using.md says."""
    passed, write = {}, TensorBoardLogger.log

    def log_and_note(logger, step, **values):
        for name, value in values.items():
            passed.setdefault(name, []).append((step, pytest.approx(value)))
        write(logger, step, **values)

    monkeypatch.setattr(TensorBoardLogger, "log", log_and_note)
    log = log(log_every=100)
    for step in (100, 200):
        log.step(step, 0.5, info(-100.0, 100, 2.0))
        log.evaluation(step, -100.0, 1, -50.0)
    assert scalars(tmp_path) == passed
    assert len(passed) == 8


def test_the_time_of_an_evaluation_is_not_the_episodes(log, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    log = log(log_every=1)
    with log.paused():
        now[0] += 100.0
    log.step(1, 0.0, info(0.0, 1, 102.0))
    log.step(2, 0.0, info(0.0, 1, 4.0))
    assert scalars(tmp_path)["episode_seconds"] == [(1, 2.0), (2, 4.0)]
    assert scalars(tmp_path)["steps_per_second"] == [(1, 0.5), (2, 0.25)]


def start_tensorboard(logdir, *options):
    """Starts a server; returns the address at which its plugins answer."""
    tensorboard = program.TensorBoard()
    tensorboard.configure(argv=["", f"--logdir={logdir}", "--port=0", *options])
    return f"{tensorboard.launch()}data/plugin"


def hparams_page(logdir, runs):
    """What a new TensorBoard shows: columns of the HParams page, and the states of its runs."""
    url = f"{start_tensorboard(logdir)}/hparams"

    def ask(what, **question):
        question = json.dumps({"experimentName": "", **question}).encode()
        request = urllib.request.Request(
            f"{url}/{what}", question, {"Content-Type": "application/json"}
        )
        return json.load(urllib.request.urlopen(request))

    statuses = [f"STATUS_{name}" for name in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")]
    question = {"allowedStatuses": statuses, "startIndex": 0, "sliceSize": 100}
    end = time.monotonic() + 60
    groups = []
    while len(groups) < runs:  # it is still reading
        assert time.monotonic() < end
        groups = ask("session_groups", colParams=[], **question).get("sessionGroups", [])
    states = {group["name"]: group["sessions"][0].get("status") for group in groups}
    return {column["name"] for column in ask("experiment")["hparamInfos"]}, states


@pytest.mark.slow
def test_the_hparams_page_has_a_column_for_what_any_run_has_at_every_start(tmp_path):
    """Also where a run is of a program with a constant more, and beside the example."""
    shutil.copytree(ROOT / "example-log", tmp_path / "example-log")
    for name, settings in (("a", {"batch_size": 64}), ("b", {"batch_size": 32, "double": True})):
        (tmp_path / name).mkdir()
        log = TrainingLog(1)
        log.begin(Run(tmp_path / name, settings=settings, name=name))
        last_step = 1000 if name == "a" else 900
        log.step(last_step, 0.5, info(-200.0, 200, 1.0))
        log.close()
    for _ in range(3):
        columns, states = hparams_page(tmp_path, runs=3)
        assert {"batch_size", "double", "discount_factor_gamma"} <= columns
        assert states["example"] == states["a"] == "STATUS_SUCCESS" != states["b"]


def test_settings_that_change_nothing_about_learning_are_no_column(tmp_path):
    settings = {"batch_size": 64, "log_every": 1, "checkpoint_every": 2, "snapshot_every": 3}
    log = TrainingLog(1)
    log.begin(Run(tmp_path, settings=settings))
    log.close()
    assert set(hparams(tmp_path)) == {"batch_size"}
