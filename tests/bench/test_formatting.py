"""Results as text."""

from sb3_trpo_ext.bench.formatting import bracketed, figure, grid, spread
from sb3_trpo_ext.bench.statistics import Estimate


def test_figures():
    assert [figure(value) for value in (12345.6, -12.34, 0.5, float("nan"))] == ["12 346", "−12.3", "0.50", "–"]


def test_no_interval_where_resampling_never_changes_anything():
    assert bracketed(Estimate(147.0, 147.0, 147.0)) == "147.0"
    assert bracketed(Estimate(147.0, 140.0, 150.0)) == "147.0 [140.0, 150.0]"


def test_spread_over_seeds():
    assert [spread(scores) for scores in ([], [5.0], [4.0, 6.0])] == ["–", "5.00", "5.00 ± 1.41"]


def test_words_are_on_the_left_and_figures_on_the_right():
    assert grid([["task", "all"], ["CartPole", "1"]]) == "| task | all |\n| --- | ---: |\n| CartPole | 1 |"
    assert grid([["a", "b", "c"]], words=2) == "| a | b | c |\n| --- | --- | ---: |"
