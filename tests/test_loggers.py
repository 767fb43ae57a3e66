import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from loggers import TensorBoardLogger, TrainingLog


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
    logger.log_hyperparameters(settings, metrics=["loss"])
    metadata = read(tmp_path).SummaryMetadata("_hparams_/session_start_info")
    content = metadata.plugin_data.content
    recorded = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert recorded["learning_rate"].number_value == 0.001
    assert recorded["seed"].number_value == 7
    assert recorded["env"].string_value == "MountainCar-v0"


def test_a_log_line_at_the_end_of_an_episode_when_enough_steps_have_passed(
    logger, tmp_path, capsys
):
    log = TrainingLog(log_every=250)
    log.open(logger, max_steps=1000)
    for step in range(1, 601):
        log.step(-1.0)
        if step % 100 == 0:
            log.end_episode(step, loss=1 / step)
    log.close()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" in ")[0] for line in lines] == [
        "episode 3 steps 100/300 loss 0.0033333 return -100.0",
        "episode 6 steps 100/600 loss 0.0016667 return -100.0",
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


def test_no_loss_is_logged_before_there_is_one(logger, tmp_path, capsys):
    log = TrainingLog(log_every=1)
    log.open(logger, max_steps=10)
    log.step(1.0)
    log.end_episode(1, loss=None)
    assert "loss none yet return 1.0" in capsys.readouterr().out
    assert "loss" not in scalars(tmp_path)


def test_the_time_of_an_evaluation_is_not_the_episodes(logger, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    log = TrainingLog(log_every=1)
    log.open(logger, max_steps=10)
    now[0] += 2.0
    log.step(0.0)
    with log.evaluating():
        now[0] += 100.0
    log.end_episode(1, loss=0.0)
    assert scalars(tmp_path)["episode_seconds"] == [(1, 2.0)]
    assert scalars(tmp_path)["steps_per_second"] == [(1, 0.5)]
