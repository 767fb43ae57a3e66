import os
import sys
import tracemalloc
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay_buffer import ReplayBuffer
from support.errors import WrongInput

SPACE = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
BYTES = 2 * 8 + 8 + 4 + 1  # of a transition: two observations, action, reward, done


def add_numbered(buffer, number):
    """Adds a transition each field of which tells its number; returns it."""
    observation = np.array([number, -number], np.float32)
    transition = observation, number % 3, float(number), observation + 1, number % 2 == 0
    buffer.add(*transition)
    return transition


def rows(batch):
    """The transitions of a batch as comparable tuples."""
    return {(*o.tolist(), a, r, *n.tolist(), d) for o, a, r, n, d in zip(*batch, strict=True)}


@given(size=st.integers(1, 20), count=st.integers(1, 60))
def test_keeps_exactly_the_newest_transitions(size, count):
    buffer, everything = ReplayBuffer(size, SPACE, seed=0), []
    for number in range(count):
        everything.append(add_numbered(buffer, number))
        assert len(buffer) == min(number + 1, size)
    newest = rows(zip(*everything[-size:], strict=True))
    assert rows(buffer.sample(40 * size)) == newest


@given(batch_size=st.integers(0, 50), count=st.integers(1, 30))
def test_a_batch_has_the_asked_number_of_whole_transitions(batch_size, count):
    buffer = ReplayBuffer(10, SPACE, seed=1)
    added = [add_numbered(buffer, number) for number in range(count)]
    batch = buffer.sample(batch_size)
    assert [len(array) for array in batch] == [batch_size] * 5
    assert rows(batch) <= rows(zip(*added, strict=True))


def test_samples_uniformly_and_with_replacement():
    buffer = ReplayBuffer(10, SPACE, seed=2)
    for number in range(15):
        add_numbered(buffer, number)
    _, _, rewards, _, _ = buffer.sample(100_000)
    numbers, counts = np.unique(rewards, return_counts=True)
    assert numbers.tolist() == list(range(5, 15))
    # Each count is binomial with a standard deviation of 95.
    assert np.abs(counts - 10_000).max() < 5 * 95


def test_a_batch_does_not_change_when_the_buffer_does():
    buffer = ReplayBuffer(1, SPACE, seed=0)
    add_numbered(buffer, 1)
    batch = buffer.sample(1)
    add_numbered(buffer, 2)
    assert rows(batch) == {(1.0, -1.0, 1, 1.0, 2.0, 0.0, False)}


def test_the_same_seed_draws_the_same_batches_whatever_else_is_drawn():
    def batches(seed):
        buffer = ReplayBuffer(100, SPACE, seed)
        for number in range(100):
            add_numbered(buffer, number)
        for _ in range(3):
            np.random.random()
            yield buffer.sample(8)[2].tolist()

    assert list(batches(5)) == list(batches(5))
    assert list(batches(5)) != list(batches(6))


@pytest.mark.parametrize(
    "dtype, stored",
    [
        (np.float32, np.float32),
        (np.float64, np.float64),
        (np.uint8, np.float32),
        (np.int16, np.float32),
        (np.int64, np.float64),
    ],
)
def test_observations_have_the_shape_of_the_environments_and_lose_no_fractions(dtype, stored):
    buffer = ReplayBuffer(4, gym.spaces.Box(0, 100, (3,), dtype), seed=0)
    buffer.add(np.array([1, 2, 3], dtype), 1, -1.0, np.array([4, 5, 6], dtype), True)
    observations, actions, rewards, next_observations, dones = buffer.sample(2)
    assert observations.dtype == next_observations.dtype == stored
    assert observations.tolist() == [[1, 2, 3]] * 2
    assert next_observations.tolist() == [[4, 5, 6]] * 2
    assert (actions.dtype, rewards.dtype, dones.dtype) == (np.int64, np.float32, bool)


def test_adding_and_sampling_touch_as_little_of_a_large_buffer_as_of_a_small_one():
    def lines(size):
        """How many lines of Python run, and how many bytes are allocated at most."""
        buffer = ReplayBuffer(size, SPACE, seed=0)
        buffer.added = size  # full
        count = 0

        def trace(frame, event, argument):
            nonlocal count
            count += event == "line"
            return trace

        tracemalloc.start()
        sys.settrace(trace)
        for number in range(5):
            add_numbered(buffer, number)
            buffer.sample(64)
        sys.settrace(None)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return count, peak

    (small, small_peak), (large, large_peak) = lines(1_000), lines(1_000_000)
    assert small == large
    assert large_peak < small_peak + 10_000  # a shifted or copied array would take megabytes


def test_refuses_a_size_of_nothing_and_a_sample_of_nothing():
    with pytest.raises(ValueError, match="at least 1 transition, not 0"):
        ReplayBuffer(0, SPACE)
    with pytest.raises(ValueError, match="empty"):
        ReplayBuffer(1, SPACE).sample(1)


def test_a_buffer_takes_no_memory_before_it_fills():
    process = psutil.Process()
    before = process.memory_info().rss
    buffer = ReplayBuffer(30_000_000, SPACE)
    arrays = [array for array in vars(buffer).values() if isinstance(array, np.ndarray)]
    size = sum(array.nbytes for array in arrays)
    assert size == 30_000_000 * BYTES
    assert process.memory_info().rss - before < size / 10  # other parts of Python take some, too


@pytest.fixture
def free(monkeypatch):
    """Sets how many bytes of memory are free."""

    def set_free(count):
        monkeypatch.setattr("support.errors.find_memory", lambda: SimpleNamespace(free=count))

    return set_free


def test_a_buffer_that_does_not_fit_twice_into_the_free_memory_is_refused(free):
    free(2 * 1000 * BYTES)  # a checkpoint holds a copy
    ReplayBuffer(1000, SPACE)
    with pytest.raises(WrongInput, match=r"^REPLAY_BUFFER_SIZE 1001 would need 0\.0 GB of memory"):
        ReplayBuffer(1001, SPACE)
    free(10**9)
    told = "would need 54.0 GB of memory, and 0.9 GB are free; lower it"
    with pytest.raises(WrongInput, match=f"^REPLAY_BUFFER_SIZE 1000000000 {told}$"):
        ReplayBuffer(10**9, SPACE)


def test_a_run_whose_buffer_does_not_fit_is_refused_before_anything_is_created(free, command):
    free(10**9)
    status, _, errors = command("--name", "x", "--replay-buffer-size", 10**9)
    assert (status, errors.count("\n")) == (2, 1)
    assert errors.startswith("run.py: REPLAY_BUFFER_SIZE 1000000000 would need 54.0 GB of memory")
    assert os.listdir() == []


def test_a_state_of_another_buffer_is_refused():
    buffer, other = ReplayBuffer(4, SPACE), ReplayBuffer(4, gym.spaces.Box(0, 1, (3,), np.float32))
    add_numbered(buffer, 1)
    with pytest.raises(ValueError, match="don't fit"):
        other.set_state(buffer.get_state())


def test_a_state_brings_back_what_is_sampled():
    buffer, again = ReplayBuffer(4, SPACE, seed=1), ReplayBuffer(4, SPACE, seed=2)
    for number in range(6):
        add_numbered(buffer, number)
    buffer.sample(3)
    again.set_state(buffer.get_state())
    for _ in range(3):
        add_numbered(again, 9)
        add_numbered(buffer, 9)
        for array, expected in zip(again.sample(5), buffer.sample(5), strict=True):
            assert np.array_equal(array, expected)
