"""A damaged file is loaded as it was or refused in a line, and never does harm."""

import json
import pickle
import random
import resource
import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import main

from support import snapshots
from support.checkpoints import CHECKPOINT, open_run, read_checkpoint, write_checkpoint
from support.errors import WrongInput
from support.files import lock
from support.snapshots import read_snapshot

RUN = (
    "--name x --seed 3 --train-start 100 --batch-size 16 --q-validation-size 200 "
    "--max-steps 400 --eval-every 400 --eval-steps 450"
)


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        main(RUN)
    return folder / "x-log"


def damages(intact, others, count):
    """Yields `count` damaged versions of a file's content, the same ones every time."""
    choices = random.Random(0)
    size = len(intact)
    yield from (b"", *others, intact[: size // 2], intact[:-1], intact + b"\0", intact * 2)
    for number in range(count - len(others) - 5):
        # Headers and directories, where a change does most, are at the ends.
        place = choices.choice(
            [choices.randrange(size), choices.randrange(2048), size - 1 - choices.randrange(4096)]
        )
        length = choices.choice([1, 1, 8, 64, 4096])
        damaged = bytearray(intact)
        kind = number % 4
        if kind == 0:
            del damaged[place:]
        elif kind == 1:
            damaged[place] ^= 1 << choices.randrange(8)
        elif kind == 2:
            damaged[place : place + length] = bytes(len(damaged[place : place + length]))
        else:
            damaged[place : place + length] = choices.randbytes(
                len(damaged[place : place + length])
            )
        yield bytes(damaged)


def read_all(filename, intact, others, count, read, error):
    """Reads damaged versions of a file; returns how many loaded as they were, and were refused."""
    original, loaded, refused = read(), 0, 0
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # kilobytes
    for damaged in damages(intact, others, count):
        filename.write_bytes(damaged)
        start = time.monotonic()
        try:
            found = read()
        except error as reason:
            refused += 1
            assert len(str(reason).splitlines()) == 1
        else:
            loaded += 1
            assert found == original
        assert time.monotonic() - start < 2 * snapshots.MAX_SECONDS
        assert [path.name for path in filename.parent.iterdir()] == [filename.name]
    filename.write_bytes(intact)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss <= max(memory, 2**20)  # 1 GB
    return loaded, refused


def test_damaged_checkpoints_are_refused_or_load_as_they_were(run_directory, tmp_path):
    intact = (run_directory / CHECKPOINT).read_bytes()
    others = [path.read_bytes() for path in run_directory.iterdir() if path.name != CHECKPOINT]

    def read():
        return repr(read_checkpoint(str(tmp_path)))

    filename = tmp_path / CHECKPOINT
    filename.write_bytes(intact)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loaded, refused = read_all(filename, intact, others, 1000, read, WrongInput)
    assert loaded + refused == 1000
    assert refused > 500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20
    print(f"{refused} damaged checkpoints refused, {loaded} loaded as they were")


@pytest.mark.slow
def test_damaged_snapshots_are_refused_or_load_as_they_were(run_directory, tmp_path, request):
    count = request.config.getoption("damages")
    intact = (run_directory / "x-400.h5").read_bytes()
    others = [path.read_bytes() for path in run_directory.iterdir() if path.suffix != ".h5"]
    filename = tmp_path / "x.h5"
    filename.write_bytes(intact)

    settings = read_snapshot(str(filename)).settings

    def read():
        found = read_snapshot(str(filename))
        assert found.settings in (settings, {})  # which is what older files tell
        return [weight.tobytes() for weight in found.weights]

    loaded, refused = read_all(filename, intact, others, count, read, WrongInput)
    assert loaded + refused == count
    assert refused > count / 4
    print(f"{refused} damaged snapshots refused, {loaded} loaded as they were")


def test_a_changed_weight_is_noticed(run_directory, tmp_path):
    content = bytearray((run_directory / "x-400.h5").read_bytes())
    weights = read_snapshot(str(run_directory / "x-400.h5")).weights
    place = content.index(weights[2].tobytes())
    content[place + 100] ^= 1
    (tmp_path / "x.h5").write_bytes(content)
    with pytest.raises(WrongInput, match="checksum"):
        read_snapshot(str(tmp_path / "x.h5"))


@pytest.mark.slow
def test_a_damaged_checkpoint_ends_in_one_line(command, tmp_path):
    assert command(*RUN.split())[0] == 0
    checkpoint = Path("x-log") / CHECKPOINT
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    status, _, errors = command("--resume", "x-log", "--max-steps", 500)
    assert (status, errors.count("\n")) == (2, 1)
    assert errors.startswith("run.py: x-log")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_damaged_run_is_not_kept_locked(run_directory, tmp_path):
    (tmp_path / CHECKPOINT).write_bytes((run_directory / CHECKPOINT).read_bytes()[:-1])
    with pytest.raises(WrongInput) as refusal:
        open_run(str(tmp_path))
    lock(tmp_path).release()
    assert "is damaged" in str(refusal.value)


@pytest.mark.parametrize("part, name", [("run", "settings"), ("model", "0"), ("own", "part")])
def test_a_pickled_object_in_a_checkpoint_is_refused_and_never_unpickled(
    part, name, run_directory, tmp_path, command, monkeypatch
):
    state = read_checkpoint(str(run_directory))
    del state["file"]
    state.setdefault(part, {})[name] = np.array([[1, 2], None], object)  # which NumPy pickles
    (tmp_path / "x-log").mkdir()
    write_checkpoint("x-log", {part: forge(values) for part, values in state.items()})

    def refuse(*arguments, **options):
        pytest.fail("something is unpickled")

    for function in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, function, refuse)
    status, _, errors = command("--resume", "x-log", "--max-steps", 500)
    assert (status, errors.count("\n")) == (2, 1)
    assert "x-log/checkpoint.npz is not a checkpoint of this program: " in errors
    assert "allow_pickle=False" in errors


MISSING = object()


def forge(values):
    """What `encode` returns for the state of a part, without its checks."""
    return {
        name: (
            np.asarray(value)
            if isinstance(value, (np.ndarray, np.generic))
            else np.array(json.dumps(value))
        )
        for name, value in values.items()
    }


def something_else(state):
    """Yields well-formed states that hold something else in one place."""
    others = [None, True, -1, 1.5, 10**30, "word", [], [1], {}, {"a": 1}, float("nan")]
    others += [np.zeros(0), np.full(3, np.nan), np.array(["a", "b"]), np.arange(6).reshape(2, 3)]
    places = [(part, name, None) for part in state for name in state[part]]
    places += [("run", "settings", name) for name in state["run"]["settings"]]
    places += [("env", "generator", name) for name in state["env"]["generator"]]
    places += [("replay_buffer", "random", name) for name in state["replay_buffer"]["random"]]
    for part, name, inner in places:
        array = state[part][name]
        values = [*others]
        if isinstance(array, np.ndarray):
            values += [array[:-1] if array.ndim else array + 7, array * np.nan, array + 2**40]
            values += [array.astype(array.dtype.newbyteorder()), array[np.newaxis]]
        for value in [*values, MISSING]:
            changed = {part: dict(values) for part, values in state.items()}
            if inner is None and value is MISSING:
                del changed[part][name]
            elif inner is None:
                changed[part][name] = value
            elif not isinstance(value, np.ndarray):
                changed[part][name] = {**changed[part][name], inner: value}
                if value is MISSING:
                    del changed[part][name][inner]
            yield f"{part}/{name}/{inner} = {value!r}", changed


@pytest.mark.slow
def test_a_checkpoint_that_holds_something_else_is_refused_or_resumed(
    run_directory, tmp_path, command, request
):
    count = request.config.getoption("damages")
    state = read_checkpoint(str(run_directory))
    del state["file"]
    changes = list(something_else(state))
    random.Random(0).shuffle(changes)
    found = Counter()
    forged = [("settings", np.array([(64,)], [("batch_size", int)])), ("seconds", np.ones(1))]
    forged += [("validation_observations", np.full((200, 2), b"x")), ("name", "\ud800")]
    forged += [("validation_observations", None)]
    for name, value in [("env", 1), ("env", None), ("learning_rate", float("nan"))]:
        forged.append(("settings", {**state["run"]["settings"], name: value}))
    for name, value in forged:
        changes.insert(0, (name, {**state, "run": {**state["run"], name: value}}))
    for what, changed in changes[:count]:
        shutil.copytree(run_directory, tmp_path / "x-log", dirs_exist_ok=True)
        write_checkpoint("x-log", {part: forge(values) for part, values in changed.items()})
        before = (tmp_path / "x-log" / CHECKPOINT).read_bytes()
        status, _, errors = command("--resume", "x-log", "--max-steps", 410)
        found[status] += 1
        assert errors.count("\n") == (status != 0), what
        diverged = "the loss is" in errors or "weights are not finite" in errors
        assert status in (0, 2) or diverged, (what, errors)
        assert status == 0 or (tmp_path / "x-log" / CHECKPOINT).read_bytes() == before
        shutil.rmtree("x-log")
    assert found[2] > count / 2
    print(f"{found[2]} other checkpoints refused, {found[0]} resumed, {found[1]} diverged")
