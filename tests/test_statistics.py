"""What the statistics promise, measured on the project's own runs.

A sample is drawn at random, with replacement, from all runs of a configuration. So what is true is
known, and how often an interval holds it, and how often a difference is reported where there is
none, can be counted. `python -m pytest -n 0 tests/test_statistics.py -s --draws 5000` counts longer
and prints what it has counted.
"""

import functools
import itertools

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from experiments.common import statistics
from experiments.common.statistics import (
    gain_interval,
    interquartile_mean,
    rank_test,
    runs_to_detect,
    share_interval,
    typical_interval,
)

ALONE = "learning_rate_decay=1.0,target_update_every=1000,scale_observations=False"
POPULATIONS = {  # names: results, and the configurations there
    "32 neurons": {
        "grid_article": "grid_article",
        "shown_article": "shown_article",
        "screen_article": "screen_article",
        "parts_32": ALONE,
    },
    "128 neurons": {
        "grid_best": "grid_best",
        "shown_best": "shown_best",
        "screen_best": "screen_best",
        "screen_more": "screen_more",
        "parts_128": ALONE,
    },
}
THRESHOLD = -110
SEEDS = (5, 10, 30)
COMPARISONS = (1, 4, 9)
LEAST = {5: 0.90, 10: 0.94, 30: 0.95}  # seeds: how often an interval holds, at least
LEAST_OF_GAINS = {5: 0.88, 10: 0.89, 30: 0.94}
MOST = 0.055  # how often a difference is told where there is none, at most


@functools.cache
def population(name, measure="last evaluation"):
    """What is measured of all runs of a configuration: floats of shape (runs,)."""
    samples = []
    for file, configuration in POPULATIONS[name].items():
        results = pd.read_csv(ROOT / "experiments" / "results" / f"{file}.csv")
        runs = results[results["setting"] == configuration].assign(failed=np.nan)
        samples.append(statistics.measure_runs(runs, measure)[configuration])
    return np.concatenate(samples)


@pytest.fixture
def draws(request):
    return request.config.getoption("draws")


def margin(share, draws):
    """How far chance may move a share that is counted in so many draws: two standard errors."""
    return 2 * np.sqrt(share * (1 - share) / draws)


def holds(interval, truth):
    low, high = interval
    return low <= truth <= high


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("measure", ["last evaluation", "second half"])
@pytest.mark.parametrize("name", POPULATIONS)
def test_an_interval_holds_the_true_value_about_95_times_in_100(name, measure, seeds, draws):
    runs = population(name, measure)
    iqm, share = interquartile_mean(runs), np.mean(runs >= THRESHOLD)
    draws *= 5  # which is quick
    samples = np.random.default_rng(seeds).choice(runs, (draws, seeds))
    typical = np.mean([holds(typical_interval(sample), iqm) for sample in samples])
    solved = np.count_nonzero(samples >= THRESHOLD, axis=1)
    shares = np.mean([holds(share_interval(count, seeds), share) for count in solved])
    print(f"{name}, {measure}, {seeds} seeds: IQM {typical:.3f}, share {shares:.3f}")
    assert typical > LEAST[seeds] - margin(LEAST[seeds], draws)
    if 0.05 < share < 0.95:  # beyond, the share that a sample has jumps too much
        assert shares > 0.90 - margin(0.90, draws)


@pytest.mark.slow
@pytest.mark.parametrize("comparisons", COMPARISONS)
@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("name", POPULATIONS)
def test_configurations_that_are_alike_seldom_seem_to_differ(name, seeds, comparisons, draws):
    runs = population(name)
    rng = np.random.default_rng([seeds, comparisons])
    alarms = 0
    for _ in range(draws):
        first, *others = rng.choice(runs, (1 + comparisons, seeds))
        alarms += any(rank_test(other, first, comparisons)[1] < 0.05 for other in others)
    print(f"{name}, {seeds} seeds, {comparisons} compared: a difference {alarms / draws:.3f}")
    assert alarms / draws < MOST + margin(MOST, draws)


@pytest.mark.slow
@pytest.mark.parametrize("comparisons", COMPARISONS)
@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("name", POPULATIONS)
def test_the_intervals_of_several_gains_hold_together(name, seeds, comparisons, draws):
    first_runs = population(name)
    others = [population(other) for other in POPULATIONS]  # one is like the first, one isn't
    rng = np.random.default_rng([seeds, comparisons])
    held = 0
    for _ in range(draws):
        first = rng.choice(first_runs, seeds)
        is_held = []
        for runs in itertools.islice(itertools.cycle(others), 1, 1 + comparisons):
            truth = interquartile_mean(runs) - interquartile_mean(first_runs)
            interval = gain_interval(rng.choice(runs, seeds), first, comparisons)
            is_held.append(holds(interval, truth))
        held += all(is_held)
    print(f"gains over {name}, {seeds} seeds, {comparisons}: all hold {held / draws:.3f}")
    assert held / draws > LEAST_OF_GAINS[seeds] - margin(LEAST_OF_GAINS[seeds], draws)


@pytest.mark.parametrize("file", ["cartpole", "cartpole_plain", "cartpole_shown"])
def test_thirty_runs_of_cartpole_have_intervals_that_hold(file, draws):
    results = pd.read_csv(ROOT / "experiments" / "results" / f"{file}.csv").assign(failed=np.nan)
    runs = statistics.measure_runs(results, "last evaluation")[file]
    samples = np.random.default_rng(0).choice(runs, (5 * draws, 30))
    intervals = np.array([typical_interval(sample) for sample in samples])
    known = intervals[~np.isnan(intervals[:, 0])]  # the others are all at 500, and so is the truth
    held = np.mean([holds(interval, interquartile_mean(runs)) for interval in known])
    assert held > 0.94 - margin(0.94, 5 * draws)


def test_the_interquartile_mean_is_that_of_the_middle_half():
    runs = np.array([-200, -199, -120, -118, -116, -114, -90, 0.0])
    assert interquartile_mean(runs) == -117
    ten = np.array([-200, -190, -6, -5, -4, -3, -2, -1, 100, 200.0])
    assert interquartile_mean(ten) == -3.5  # of the middle six


def test_an_interval_needs_five_runs_that_are_not_alike():
    runs = np.array([-130, -120, -110, -105, -100.0])
    assert not np.isnan(typical_interval(runs)).any()
    assert not np.isnan(gain_interval(runs, runs + 5, 1)).any()
    assert np.isnan(typical_interval(runs[1:])).all()
    assert np.isnan(gain_interval(runs, runs[1:], 1)).all()
    assert np.isnan(rank_test(runs, runs[1:], 1)[1])
    alike = np.array([-200, -200, -200, -200, -150.0])  # those that count are
    assert np.isnan(typical_interval(alike)).all()
    assert np.isnan(gain_interval(alike, alike + 100, 1)).all()
    low, high = gain_interval(runs, alike, 1)
    assert low < 90 < high


@pytest.mark.filterwarnings("error")
def test_a_configuration_that_learns_nothing_can_be_compared():
    nothing, runs = np.full(10, -200.0), np.linspace(-140, -100, 10)
    assert rank_test(runs, nothing, 1)[0] == 1 and rank_test(runs, nothing, 1)[1] < 0.001
    assert rank_test(nothing, nothing, 1) == (0.5, 1)
    low, high = gain_interval(runs, nothing, 1)
    assert 60 < low < 80 < high < 100


def test_of_several_comparisons_each_has_to_show_more():
    rng = np.random.default_rng(0)
    first, other = rng.normal(-130, 10, 10), rng.normal(-115, 10, 10)
    (better, p), (same, corrected) = rank_test(other, first, 1), rank_test(other, first, 4)
    assert same == better > 0.5 and corrected == 4 * p < 1
    (low, high), (lower, higher) = gain_interval(other, first, 1), gain_interval(other, first, 4)
    assert lower < low < high < higher


@pytest.mark.parametrize("difference, comparisons", [(20, 1), (20, 9), (40, 1)])
def test_as_many_runs_as_it_says_find_a_difference_four_times_in_five(difference, comparisons):
    runs = population("32 neurons")
    seeds = runs_to_detect(runs, difference, comparisons)
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(500):
        sample, first = rng.choice(runs, (2, seeds))
        found += rank_test(sample + difference, first, comparisons)[1] < 0.05
    assert 0.75 < found / 500 < 0.95


def test_a_difference_that_is_too_small_is_not_detected():
    assert runs_to_detect(population("32 neurons"), 0.1, 1) is None
