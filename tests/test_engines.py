"""What a run comes to, whichever engine trains it; and the processes in which that happens."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import ray
from conftest import ROOT
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams.api_pb2 import Status
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from experiments.common import cluster, engines
from experiments.common.packing import pack, unpack
from experiments.common.plan import Run
from experiments.common.state import State
from support import runs
from support.checkpoints import read_checkpoint
from support.errors import WrongInput
from support.options import read_constants
from support.snapshots import read_snapshot

SHORT = {
    "max_steps": 900,
    "train_start": 100,
    "q_validation_size": 150,
    "eval_every": 300,
    "eval_steps": 600,
    "checkpoint_every": 300,
}


def make_run(seed=0, **values):
    defaults = {setting.name: setting.default for setting in read_constants(engines.LESSON)}
    return Run("x", f"seed={seed}", "CartPole-v1", seed, defaults | SHORT | values)


@pytest.fixture(autouse=True)
def in_empty_directory(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield
    assert os.listdir() == []  # what an engine makes, it sends, and leaves nothing


@pytest.fixture
def change(tmp_path, monkeypatch):
    """Lets the engines train a run.py in which a text is replaced."""

    def change_(old, new):
        source = (ROOT / "run.py").read_text()
        assert source.count(old) == 1
        (tmp_path / "run.py").write_text(source.replace(old, new))
        monkeypatch.setattr(engines, "LESSON", tmp_path / "run.py")

    engines.make_loop.cache_clear()
    yield change_
    engines.make_loop.cache_clear()


TRAIN = [engines.train_exact, engines.train_compiled]


@pytest.mark.parametrize("train", TRAIN)
def test_a_run_tells_how_far_it_is_and_ends_with_all_that_it_has(train, tmp_path):
    told = []
    run = make_run()
    state = train(run, None, told.append)
    assert told[0] == State(0)
    assert state.is_over and state.step == 900 and state.failed is None
    assert [evaluation.step for evaluation in state.evaluations] == [300, 600, 900]
    unpack(state.files, tmp_path)
    network = "seed=0-log/seed=0-900.h5" if train is engines.train_exact else "seed=0-900.h5"
    settings = read_snapshot(tmp_path / network).settings
    assert (settings["env"], settings["seed"], settings["max_steps"]) == ("CartPole-v1", 0, 900)


def test_an_exact_run_goes_on_from_what_it_has_told_and_hparams_show_its_success(tmp_path):
    told = []
    whole = engines.train_exact(make_run(), None, told.append)
    half_done = told[1]
    assert 300 <= half_done.step < 900
    again = engines.train_exact(make_run(), half_done.files, told.append)
    for name, state in (("whole", whole), ("again", again)):
        (tmp_path / name).mkdir()
        unpack(state.files, tmp_path / name)
    states = [read_checkpoint(tmp_path / name / "seed=0-log") for name in ("whole", "again")]
    for part in ("model", "optimizer", "target_model", "replay_buffer", "env"):
        np.testing.assert_equal(states[0][part], states[1][part])
    for name in ("whole", "again"):
        files = sorted((tmp_path / name / "seed=0-log").glob("*tfevents*"))
        data = [
            HParamsPluginData.FromString(value.metadata.plugin_data.content)
            for event in EventFileLoader(str(files[-1])).Load()
            for value in event.summary.value
            if value.metadata.plugin_data.plugin_name == "hparams"
        ]
        assert data[-1].session_end_info.status == Status.STATUS_SUCCESS


@pytest.mark.parametrize("train", TRAIN)
def test_a_mistake_is_told_with_its_line(train, change):
    change("    return loss\n", "    return lost\n")
    state = train(make_run(), None, lambda state: None)
    assert state.is_over and state.is_mistake and state.evaluations == ()
    assert state.failed.startswith("NameError: name 'lost' is not defined (run.py, line ")
    assert state.failed.endswith(": return lost)")


@pytest.mark.parametrize("train", TRAIN)
def test_a_file_that_the_readers_code_misses_is_a_mistake_in_it(train, change):
    change("    n_actions = int(", "    open('nowhere.txt')\n    n_actions = int(")
    state = train(make_run(), None, lambda state: None)
    assert state.is_mistake
    assert state.failed.startswith("FileNotFoundError: [Errno 2] No such file or directory")


@pytest.mark.parametrize("train", TRAIN)
def test_code_that_ends_the_program_is_a_mistake(train, change):
    change("    n_actions = int(", "    raise SystemExit('enough')\n    n_actions = int(")
    state = train(make_run(), None, lambda state: None)
    assert state.is_mistake and state.failed.startswith("SystemExit: enough (run.py, line ")


def test_a_run_that_its_computer_stops_is_no_mistake(change):
    stop = "import signal; signal.raise_signal(signal.SIGTERM)"
    change("        log.step(step", f"        {stop}\n        log.step(step")
    with pytest.raises(SystemExit):
        engines.train_exact(make_run(), None, lambda state: None)


@pytest.mark.parametrize("train", TRAIN)
def test_the_readers_code_finds_files_beside_it(train, change):
    change("    n_actions = int(", "    open('requirements.txt').close()\n    n_actions = int(")
    assert train(make_run(), None, lambda state: None).failed is None


@pytest.mark.parametrize("train", TRAIN)
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError()])
def test_a_full_disk_and_a_lack_of_memory_are_no_mistake(train, error, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr("support.files.os.replace", fail)
    with pytest.raises(type(error)):
        train(make_run(), None, lambda state: None)


@pytest.mark.parametrize("train", TRAIN)
def test_a_run_that_diverges_has_failed(train):
    state = train(make_run(learning_rate=1e6), None, lambda state: None)
    assert state.failed.startswith("the loss is") and not state.is_mistake and state.is_over


def test_a_run_that_ends_early_has_failed(change):
    save = "        if step % SNAPSHOT_EVERY == 0:\n"
    change(save, f"        if step == 600:\n            break\n{save}")
    state = engines.train_exact(make_run(), None, lambda state: None)
    found = "seed=0-log has evaluations at 300, 600 steps, not every 300 and at 900"
    assert state.failed == f"{found}; only whole runs are compared, so none may end early"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tf.print(loss)", "can't have the operation StringFormat"),
        ("if loss > 1: loss += 1", "a symbolic `tf.Tensor` as a Python `bool`"),
        ("targets[0, 1, 2]", "Index out of range using input dim 1"),
    ],
)
def test_a_mistake_in_fit_batch_is_told_with_its_line(line, message, change, tmp_path):
    change("    return loss\n", f"    {line}\n    return loss\n")
    state = engines.train_compiled(make_run(), None, lambda state: None)
    assert state.is_mistake
    number = (tmp_path / "run.py").read_text().splitlines().index(f"    {line}") + 1
    assert message in state.failed and f"run.py, line {number}" in state.failed
    assert len(state.failed) < 450


def test_what_xla_would_not_notice_is_a_mistake(change):
    change("    return loss\n", "    tf.debugging.assert_less(loss, -1.0)\n    return loss\n")
    state = engines.train_compiled(make_run(), None, lambda state: None)
    assert state.is_mistake
    assert state.failed.startswith("InvalidArgumentError: assertion failed: [Condition")
    assert state.failed.endswith("run with --eager to see it.")


def test_what_fit_batch_returns_has_to_be_a_number(change):
    change("    return loss\n", "    return loss, 1\n")
    state = engines.train_compiled(make_run(), None, lambda state: None)
    assert state.is_mistake and "has to return the loss, a number, not (np.f" in state.failed


def test_seconds_are_those_of_training_alone(monkeypatch):
    """By a clock that advances in evaluations, in reports and in the log alone."""
    now = [0.0]
    monkeypatch.setattr(runs.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr("loggers.TrainingLog.step", lambda *_: now.__setitem__(0, now[0] + 1))

    def tell(state):
        now[0] += 1000

    def evaluation_takes_long(*args, **values):
        now[0] += 1000

    monkeypatch.setattr("loggers.warn_of_long_episodes", evaluation_takes_long)
    state = engines.train_exact(make_run(), None, tell)
    assert [evaluation.seconds for evaluation in state.evaluations] == [300, 600, 900]


def test_what_was_packed_is_unpacked_the_checkpoint_last(tmp_path, monkeypatch):
    logdir = tmp_path / "x-log"
    logdir.mkdir()
    for name in ("a.h5", "checkpoint.npz", "z.h5", "events.out.tfevents.1"):
        (logdir / name).write_text(f"new {name}")
    packed = pack(logdir)
    written = []
    monkeypatch.setattr(
        "experiments.common.packing.write_file", lambda path, _: written.append(path.name)
    )
    unpack(packed, tmp_path / "..")
    (tmp_path / "to" / "x-log").mkdir(parents=True)
    (tmp_path / "to" / "x-log" / "events.out.tfevents.1").write_text("new")
    unpack(packed, tmp_path / "to")
    assert written[-1] == "checkpoint.npz"
    events = tmp_path / "to" / "x-log" / "events.out.tfevents.1"
    assert events.read_text() == "new events.out.tfevents.1"


@pytest.fixture(scope="module")
def two_cores():
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers don't have this file
    with cluster.connect(cores=2):
        yield


def dies(engine, run, begun, mailbox):
    ray.get(mailbox.put.remote(run.name, State(7, files=begun)))
    os._exit(1)


def fails(engine, run, begun, mailbox):
    raise OSError(28, "No space left on device")


def lacks_memory(engine, run, begun, mailbox):
    raise MemoryError("no")


def squares(engine, run, begun, mailbox):
    ray.get(mailbox.put.remote(run.name, State(run.seed)))
    return State(run.seed**2, is_over=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (dies, "its process or its computer has died"),
        (fails, "[Errno 28] No space left on device"),
        (lacks_memory, "no"),
    ],
)
def test_after_five_deaths_a_run_has_failed(task, reason, two_cores, monkeypatch):
    monkeypatch.setattr(cluster, "train_one", task)
    begun = []
    batches = cluster.train([make_run()], "exact", lambda run: begun.append(run.name) or b"x")
    states = [state for news in batches for _, state in news if state.step == 0]
    assert states == [
        *[State(died=reason)] * 4,
        State(failed=f"{reason}, 5 times (--resume tries again)", is_over=True),
    ]
    assert begun == ["seed=0"] * 5


def test_a_run_that_is_killed_for_lack_of_memory_is_told_as_that():
    error = ray.exceptions.OutOfMemoryError("Task was killed due to the node running low on memory")
    assert cluster.why_died(error) == (
        "its process was killed for lack of memory; fewer --cores take less"
    )


@pytest.mark.slow
def test_each_run_is_told_of_once_it_has_ended(two_cores, monkeypatch):
    monkeypatch.setattr(cluster, "train_one", squares)
    runs = [make_run(seed) for seed in range(40)]
    news = [pair for batch in cluster.train(runs, "exact", lambda run: None) for pair in batch]
    assert {run.seed: state.step for run, state in news if state.is_over} == {
        seed: seed**2 for seed in range(40)
    }


def test_memory_and_cores_bound_how_many_runs_there_are_at_a_time(monkeypatch):
    def node(cores, gigabytes, alive=True):
        return {"Alive": alive, "Resources": {"CPU": cores, "memory": gigabytes * 2**30}}

    nodes = [node(64, 3.5), node(2, 100), node(8, 100, alive=False)]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert cluster.count_places(1) == 3 + 2
    assert cluster.count_places(30) == 2 + 2
    nodes[:] = [node(4, 0.5)]
    assert cluster.count_places(1) == 1  # one always is


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a process has no affinity here")
def test_on_a_cluster_ray_uses_what_it_may_and_no_signal_harms_it(tmp_path):
    """One core, no home, a long TMPDIR; twice, with a signal to all processes while it starts."""
    code = (
        "import os, signal, sys; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from experiments.common import cluster\n"
        "init = cluster.ray.init\n"
        "def init_and_stop(**options):\n"
        "    init(**options)\n"
        "    os.killpg(0, number)\n"
        "cluster.ray.init = init_and_stop\n"
        "for number in (signal.SIGTERM, signal.SIGHUP):\n"
        "    with cluster.connect() as signals:\n"
        "        found = cluster.count_places(1), cluster.call([], os.path.basename, 'a/b')\n"
        "        print(*found, *map(int, signals), file=sys.__stdout__, flush=True)\n"
    )
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": os.devnull, "TMPDIR": str(folder)}
    env.pop("RAY_AUTH_TOKEN", None)
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=env,
        start_new_session=True,
    )
    assert (ended.stdout, ended.stderr) == ("\nStopping\n1 b 15\n\nStopping\n1 b 1\n", "")
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_signals_end_nothing_while_ray_runs_and_are_told(two_cores):
    assert ray.is_initialized()
    signals = []
    before = signal.getsignal(signal.SIGTERM)
    with cluster.collecting(signals):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            cluster.call(signals, wait_for_ever)
    assert signals == [signal.SIGINT, signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before


def wait_for_ever():
    signal.pause()


def test_a_wrong_address_is_told():
    with pytest.raises(WrongInput, match="is not the HOST:PORT of a `ray start --head`"):
        cluster.check_address("127.0.0.1:1")
