"""Statistics of few seeds against numbers computed by hand, and against rliable where it is installed."""

import itertools

import numpy as np
import pytest

from sb3_trpo_ext.bench.statistics import (
    difference,
    interquartile_mean,
    interval,
    iqm,
    mean_and_std,
    mean_of_interquartile_means,
    performance_profile,
    probability_of_improvement,
    resample,
    wins,
)


def test_mean_and_std():
    assert mean_and_std([1.0, 2.0, 6.0]) == (3.0, pytest.approx(np.sqrt(7.0)))
    assert np.isnan(mean_and_std([1.0])[1])


@pytest.mark.parametrize(
    "scores, expected",
    [
        ([5.0], 5.0),
        ([1.0, 2.0, 9.0], 4.0),  # a quarter of three is no whole run
        ([100.0, 1.0, 3.0, -50.0], 2.0),
        ([0.0, 1.0, 2.0, 3.0, 100.0], 2.0),
        ([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 100.0], 5.5),
    ],
)
def test_interquartile_mean(scores, expected):
    assert iqm(np.array(scores)) == pytest.approx(expected)
    assert interquartile_mean([scores]).value == pytest.approx(expected)


def test_interquartile_mean_is_over_the_runs_of_all_tasks():
    assert interquartile_mean([[0.0, 1.0], [2.0, 100.0]]).value == pytest.approx(1.5)


def test_mean_of_interquartile_means_counts_every_task():
    low, high = [0.0, 1.0, 2.0, 7.0], [10.0, 11.0, 13.0, 90.0]
    estimate = mean_of_interquartile_means([low, high])
    assert estimate.value == pytest.approx((1.5 + 12.0) / 2)
    assert 0.0 <= estimate.low < estimate.value < estimate.high <= (7.0 + 90.0) / 2
    # Of all runs together the lowest are left out, whatever they are.
    worse = [-100.0, -100.0, 2.0, 7.0]
    assert interquartile_mean([low, high]).value == interquartile_mean([worse, high]).value
    assert mean_of_interquartile_means([worse, high]).value < estimate.value


def test_interval_is_that_of_every_possible_draw():
    # Of three runs 27 samples can be drawn: the exact distribution of their mean.
    scores = [0.0, 3.0, 9.0]
    exact = [np.mean(draw) for draw in itertools.product(scores, repeat=3)]
    estimate = interquartile_mean([scores])
    # 1 of 27 draws is all 0, which is more than 2.5 %: the interval goes from end to end.
    assert (estimate.low, estimate.high) == (0.0, 9.0) == (min(exact), max(exact))
    drawn = iqm(np.concatenate(resample([scores]), axis=-1))
    for value in set(exact):
        assert np.mean(np.isclose(drawn, value)) == pytest.approx(np.mean(np.isclose(exact, value)), abs=0.02)


def test_percentiles():
    assert interval(np.arange(1001.0)) == pytest.approx((25.0, 975.0))


def test_draws_stay_within_their_task():
    first, second = resample([[1.0, 2.0], [10.0, 20.0, 30.0]], resamples=500)
    assert first.shape == (500, 2) and second.shape == (500, 3)
    assert set(first.flat) == {1.0, 2.0} and set(second.flat) == {10.0, 20.0, 30.0}


def test_same_runs_same_interval():
    scores = [[1.0, 2.0, 4.0, 7.0, 11.0]]
    assert interquartile_mean(scores) == interquartile_mean(scores)


def test_wins_count_pairs_and_half_of_ties():
    # 3 beats 1 and 2; 2 beats 1 and ties with 2: 3.5 of 4.
    assert wins(np.array([3.0, 2.0]), np.array([1.0, 2.0])) == pytest.approx(3.5 / 4)


def test_probability_of_improvement_is_the_mean_over_tasks():
    estimate = probability_of_improvement([[3.0, 2.0], [0.0]], [[1.0, 2.0], [5.0, 6.0]])
    assert estimate.value == pytest.approx((3.5 / 4 + 0.0) / 2)
    assert estimate.low <= estimate.value <= estimate.high


def test_difference_is_that_of_the_means_over_tasks():
    estimate = difference([[3.0, 2.0], [0.0]], [[1.0, 2.0], [5.0, 6.0]])
    assert estimate.value == pytest.approx((2.5 - 1.5 + 0.0 - 5.5) / 2)
    # Every draw of the four pairs of scores lies between these.
    assert (2 - 2 - 6) / 2 <= estimate.low < estimate.value < estimate.high <= (3 - 1 - 5) / 2
    assert difference([[5.0, 5.0]], [[1.0, 1.0]]) == (4.0, 4.0, 4.0)


def test_certain_and_even():
    estimate = probability_of_improvement([[1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0]])
    assert estimate.value == 0.5 and estimate.low < 0.5 < estimate.high


@pytest.mark.parametrize(("n", "m"), [(1, 1), (5, 2), (5, 5), (20, 30)])
def test_few_runs_that_are_all_above_all_others_are_no_certainty(n, m):
    """With p at the end of the interval, as many independent pairs would all be won in one case of 40."""
    above, below = [10.0 + i for i in range(n)], [0.0 + i / m for i in range(m)]
    best = probability_of_improvement([above], [below])
    assert best.value == best.high == 1 and best.low ** min(n, m) == pytest.approx(0.025, rel=0.1)
    worst = probability_of_improvement([below], [above])
    assert worst.value == worst.low == 0 and worst.high == pytest.approx(1 - best.low, abs=0.02)
    assert probability_of_improvement([above], [above]).value == 0.5


def test_over_tasks_such_a_task_is_no_certainty_either():
    above, below = [5.0, 6.0, 7.0], [1.0, 2.0, 3.0]
    alone = probability_of_improvement([above], [below])
    four = probability_of_improvement([above] * 4, [below] * 4)
    assert four.value == four.high == 1 and alone.low < four.low < 0.75  # the mean of four of U^(1/3) is 0.75
    mixed = probability_of_improvement([above, [1.0, 4.0, 9.0]], [below, [2.0, 3.0, 8.0]])
    assert mixed.low < mixed.value < mixed.high < 1


def test_different_tasks_are_not_compared():
    with pytest.raises(ValueError, match="same tasks"):
        probability_of_improvement([[1.0]], [[1.0], [2.0]])


def test_performance_profile():
    share, low, high = performance_profile([[0.0, 1.0], [0.5, 0.5, 2.0]], [-1.0, 0.7, 3.0])
    assert share == pytest.approx([1.0, (1 / 2 + 1 / 3) / 2, 0.0])
    assert all(low <= share) and all(share <= high)


def test_agrees_with_rliable():
    metrics = pytest.importorskip("rliable.metrics")
    ours, theirs = np.random.default_rng(0).normal(size=(2, 4, 5))  # tasks, seeds
    ours[0, :2] = theirs[0, :2]  # ties
    assert interquartile_mean(ours).value == pytest.approx(metrics.aggregate_iqm(ours.T))
    expected = metrics.probability_of_improvement(ours.T, theirs.T)
    assert probability_of_improvement(ours, theirs).value == pytest.approx(expected)
