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


def sum_by_hand(transitions, number, n_steps, gamma):
    """What is learned from a transition, looking `n_steps` ahead; None if it's too new."""
    total = 0.0
    for step, transition in enumerate(transitions[number : number + n_steps]):
        total += gamma**step * transition[2]
        if transition[4] or step == n_steps - 1:
            return (*transitions[number][:2], total, *transition[3:])


@given(
    size=st.integers(5, 20),
    ends=st.lists(st.booleans(), min_size=5, max_size=60),
    n_steps=st.integers(1, 5),
)
def test_rewards_are_summed_over_steps_up_to_the_end_of_an_episode(size, ends, n_steps):
    """Also across the buffer's seam, and those without as many successors aren't drawn."""
    buffer, transitions = ReplayBuffer(size, SPACE, 0, n_steps, gamma=0.5), []
    for number, done in enumerate(ends):
        observation = np.array([number, -number], np.float32)
        next_observation = np.array([number + 1, -number - 1], np.float32)
        transitions.append((observation, number % 3, float(number), next_observation, done))
        buffer.add(*transitions[-1])
    newest = transitions[-size:]
    followed = range(len(newest) - n_steps + 1)
    by_hand = [sum_by_hand(newest, number, n_steps, 0.5) for number in followed]
    assert rows(buffer.sample(60 * size)) == rows(zip(*by_hand, strict=True))


def test_rewards_of_several_steps_count_less_the_later_they_come():
    """A whole episode of Mountain Car, from its last five steps on: -1 for each, then no more."""
    env = gym.make("MountainCar-v0")
    buffer = ReplayBuffer(1000, env.observation_space, 0, n_steps=5, gamma=0.99)
    observation, _ = env.reset(seed=0)
    done = False
    while not done:
        next_observation, reward, terminated, truncated, _ = env.step(1)
        done = terminated or truncated
        buffer.add(observation, 1, reward, next_observation, done)
        observation = next_observation
    for _ in range(4):  # steps of the next episode, so that the last one is followed, too
        buffer.add(observation, 1, -1.0, observation, False)
    _, _, rewards, next_observations, dones = buffer.sample(2000)
    sums = [-1 - 0.99 - 0.9801 - 0.970299 - 0.96059601, -3.940399, -2.9701, -1.99, -1.0]
    assert np.unique(rewards) == pytest.approx(sums)
    assert dones.sum() == pytest.approx(2000 * 5 / 200, rel=0.5)
    assert (next_observations[dones] == next_observation).all()


def test_an_episode_that_is_cut_off_unnoticed_is_refused_where_rewards_are_summed():
    buffer = ReplayBuffer(10, SPACE, 0, n_steps=2)
    buffer.add(np.zeros(2), 0, -1.0, np.ones(2), False)
    buffer.add(np.ones(2), 0, -1.0, np.zeros(2), True)
    buffer.add(np.ones(2), 0, -1.0, np.zeros(2), False)
    with pytest.raises(ValueError, match="last transition of each episode must be stored as done"):
        buffer.add(np.ones(2), 0, -1.0, np.zeros(2), False)
    plain = ReplayBuffer(10, SPACE, 0)
    for _ in range(2):
        plain.add(np.zeros(2), 0, -1.0, np.ones(2), False)


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
    with pytest.raises(ValueError, match="1 transitions or more, not 0"):
        ReplayBuffer(0, SPACE)
    with pytest.raises(ValueError, match="of 0 transitions"):
        ReplayBuffer(1, SPACE).sample(1)
    with pytest.raises(ValueError, match="3 transitions or more, not 2"):
        ReplayBuffer(2, SPACE, n_steps=3)
    with pytest.raises(ValueError, match="at least 1 step ahead, not 0"):
        ReplayBuffer(2, SPACE, n_steps=0)
    buffer = ReplayBuffer(9, SPACE, n_steps=3)
    add_numbered(buffer, 1)
    with pytest.raises(ValueError, match=r"of 1 transitions.* none can be followed for 3 steps"):
        buffer.sample(1)


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
