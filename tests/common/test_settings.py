"""The predicates that constructor arguments are checked with."""

import math

import numpy as np
import pytest
from stable_baselines3.common.utils import FloatSchedule

from sb3_trpo_ext.common.settings import Rule, check, number, one_of, schedule, schedule_of, whole

NOT_NUMBERS = [None, "1", [1], True, False, math.nan, math.inf, -math.inf, 1j]


@pytest.mark.parametrize("value", [1, 2, 10**9, np.int64(1)])
def test_whole_numbers(value):
    assert whole(1)(value)


@pytest.mark.parametrize("value", [0, -1, 1.0, 1.5, np.float64(2), *NOT_NUMBERS])
def test_not_whole_numbers(value):
    assert not whole(1)(value)


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.5), np.int64(1)])
def test_numbers_in_a_closed_range(value):
    assert number(0, 1)(value)


@pytest.mark.parametrize("value", [-1e-9, 1 + 1e-9, *NOT_NUMBERS])
def test_numbers_outside(value):
    assert not number(0, 1)(value)


def test_open_ends():
    assert not number(0, open_low=True)(0)
    assert number(0, open_low=True)(5e-324)
    assert not number(0, 1, open_high=True)(1)
    assert number(0, 1, open_high=True)(math.nextafter(1, 0))
    assert number(0)(1e300)
    assert not number(0)(math.inf)


def test_one_of():
    assert one_of("sum", "mean")("mean")
    assert not one_of("sum", "mean")("Mean")


@pytest.mark.parametrize("value", [0.1, "lin_0.1", "lin_1e-3", "lin_0.1_1e-3", "lin_0.1_0", abs, FloatSchedule(0.1)])
def test_schedules(value):
    assert schedule_of(number(0, open_low=True))(value)


@pytest.mark.parametrize(
    "value",
    [
        0,
        -0.1,
        "lin_0",
        "lin_-1",
        "lin_",
        "lin",
        "",
        "0.1",
        "lin_nan",
        "lin_0.1_-1",
        "lin_0_0.1",
        "lin_0.1_0.2_0.3",
        "cos_0.1",
        None,
        math.nan,
    ],
)
def test_not_schedules(value):
    assert not schedule_of(number(0, open_low=True))(value)


@pytest.mark.parametrize(
    "value, at",
    [
        (0.02, (0.02, 0.02, 0.02)),
        ("lin_0.02", (0.02, 0.01, 0.0)),
        ("lin_0_-0.01", (0.0, -0.005, -0.01)),
        (lambda p: p * p, (1.0, 0.25, 0.0)),
    ],
)
def test_schedule_over_the_progress_remaining(value, at):
    assert [schedule(value)(progress) for progress in (1.0, 0.5, 0.0)] == pytest.approx(at)


def test_check_names_argument_value_and_remedy():
    class Model:
        good, bad = 1, -0.1

    rules = tuple(Rule(name, number(0), "a number >= 0", "Take more.") for name in ("good", "bad"))
    check(Model(), rules[:1])
    with pytest.raises(ValueError, match=r"Model\(bad=\.\.\.\) must be a number >= 0, got -0\.1\. Take more\."):
        check(Model(), rules)
