"""The line search over made-up objectives."""

import math

import pytest

from sb3_trpo_ext.kernels.line_search import LineSearchResult, Trial, backtrack, full_step

START, DELTA = 1.0, 0.01
GOOD = Trial(1.1, 0.005)
BAD = {
    "objective lower": Trial(0.9, 0.005),
    "objective equal": Trial(START, 0.005),
    "too far": Trial(1.1, math.nextafter(DELTA, 1)),
    "objective nan": Trial(math.nan, 0.005),
    "objective inf": Trial(math.inf, 0.005),
    "kl nan": Trial(1.1, math.nan),
    "kl inf": Trial(1.1, math.inf),
    "kl minus inf": Trial(1.1, -math.inf),
    "both nan": Trial(math.nan, math.nan),
}
each_bad = pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())


class Fake:
    """Answers with the given trials in turn and remembers the fractions it was asked for."""

    def __init__(self, *trials):
        self.trials, self.asked = iter(trials), []

    def __call__(self, fraction):
        self.asked.append(fraction)
        return next(self.trials)


@pytest.mark.parametrize("factor", [0.5, 0.8])
@pytest.mark.parametrize("k", [1, 2, 5])
@each_bad
def test_the_kth_trial_is_taken_when_those_before_are_bad(bad, k, factor):
    evaluate = Fake(*[bad] * (k - 1), GOOD, GOOD)
    result = backtrack(evaluate, START, DELTA, factor, line_search_max_iter=5)
    assert result == LineSearchResult(True, factor ** (k - 1), GOOD, k)
    assert evaluate.asked == pytest.approx([factor**i for i in range(k)]), "and not one trial more"
    assert result.fraction == evaluate.asked[-1], "the last trial is the accepted one"


@each_bad
def test_never(bad):
    evaluate = Fake(*[bad] * 4)
    result = backtrack(evaluate, START, DELTA, 0.5, line_search_max_iter=4)
    assert (result.accepted, result.fraction, result.trial, result.trials) == (False, 0.0, bad, 4)
    assert evaluate.asked == [1.0, 0.5, 0.25, 0.125]


def test_on_the_border_of_the_region_is_inside():
    assert backtrack(Fake(Trial(1.1, DELTA)), START, DELTA, 0.5, 1).accepted


def test_any_rise_will_do():
    assert backtrack(Fake(Trial(math.nextafter(START, 2), 0.0)), START, DELTA, 0.5, 1).accepted


def test_no_trials_allowed():
    evaluate = Fake()
    assert backtrack(evaluate, START, DELTA, 0.5, 0) == LineSearchResult(False, 0.0, None, 0)
    assert evaluate.asked == []


def test_start_that_is_not_finite_is_never_improved_on():
    assert not backtrack(Fake(GOOD), math.nan, DELTA, 0.5, 1).accepted


def test_stops_where_a_quadratic_enters_the_region():
    """KL = 4δ · fraction² and a rising objective: the largest power of ½ with 4 · fraction² ≤ 1."""
    result = backtrack(lambda f: Trial(START + f, 4 * DELTA * f * f), START, DELTA, 0.5, 10)
    assert (result.fraction, result.trials) == (0.5, 2)


@pytest.mark.parametrize("name", ["objective lower", "objective equal", "too far"])
def test_full_step_asks_for_nothing_but_finite_numbers(name):
    evaluate = Fake(BAD[name])
    assert full_step(evaluate) == LineSearchResult(True, 1.0, BAD[name], 1)
    assert evaluate.asked == [1.0]


@pytest.mark.parametrize("name", [name for name in BAD if "nan" in name or "inf" in name])
def test_full_step_refuses_numbers_that_are_not_finite(name):
    result = full_step(Fake(BAD[name]))
    assert (result.accepted, result.fraction, result.trials) == (False, 0.0, 1)
