import os
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

import run
from loggers import TensorBoardLogger, TrainingLog, next_event_file
from support.settings import read_settings


@pytest.fixture
def logger(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    yield logger
    logger.close()


def read(logdir):
    events = EventAccumulator(str(logdir), size_guidance={"scalars": 0, "tensors": 0})
    return events.Reload()


def scalars(logdir):
    events = read(logdir)
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


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
    logger.log_hyperparameters("x", settings, metrics=["loss"])
    metadata = read(tmp_path).SummaryMetadata("_hparams_/session_start_info")
    content = metadata.plugin_data.content
    recorded = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
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


@pytest.mark.parametrize("torn", [0, 1, 20])
def test_after_a_restart_what_came_later_is_what_the_new_file_says(torn, tmp_path):
    first = TensorBoardLogger(tmp_path)
    for step in (100, 200, 300):
        first.log(step, loss=1.0)
    first.close()
    (file,) = tmp_path.iterdir()
    os.truncate(file, file.stat().st_size - torn)
    second = TensorBoardLogger(tmp_path)
    second.log_restart(150)
    second.log(200, loss=2.0)
    second.close()
    assert scalars(tmp_path)["loss"] == [(100, 1.0), (200, 2.0)]


class Training:
    """What a log wants to know of a training."""

    name = "x"
    first_step = 1
    max_steps = 1000
    is_resumed = False

    def __init__(self, logdir, settings=None):
        self.logdir = logdir
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
        log.begin(Training(tmp_path))
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


def test_the_settings_that_a_reader_changes_first_are_the_first_columns(tmp_path):
    names = [setting.name for setting in read_settings(vars(run))]
    log = TrainingLog(1)
    log.begin(Training(tmp_path, settings=dict.fromkeys(names, 1)))
    log.close()
    content = read(tmp_path).SummaryMetadata("_hparams_/experiment").plugin_data.content
    columns = plugin_data_pb2.HParamsPluginData.FromString(content).experiment.hparam_infos
    shown = sorted(columns, key=lambda column: (not column.differs, column.name))[:5]  # as the page
    assert {column.name for column in shown} == {
        "train_epsilon",
        "learning_rate",
        "batch_size",
        "target_update_every",
        "discount_factor_gamma",
    }


def test_settings_that_change_nothing_about_learning_are_no_column(tmp_path):
    settings = {"batch_size": 64, "log_every": 1, "checkpoint_every": 2, "snapshot_every": 3}
    log = TrainingLog(1)
    log.begin(Training(tmp_path, settings=settings))
    log.close()
    content = read(tmp_path).SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    recorded = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert set(recorded) == {"batch_size"}
