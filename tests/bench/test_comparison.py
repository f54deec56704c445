"""Results that are compared: their order, and what is averaged."""

import pytest

from sb3_trpo_ext.bench.comparison import Comparison, improvements
from sb3_trpo_ext.bench.store import read_all


def test_only_shared_tasks_are_averaged(results):
    comparison = Comparison.of(read_all([results]))
    assert [str(task) for task in comparison.tasks] == ["CartPole-v1 20k", "Pendulum-v1 40k"]
    assert [str(task) for task in comparison.shared()] == ["CartPole-v1 20k"]
    assert comparison.scores("wide") == [[pytest.approx((400 - 24.5) / (500 - 24.5))]]


def test_ours_comes_first_and_variants_last(tmp_path, stored):
    for label in ("a variant", "ppo", "trpo", "trpo_ext", "trpo-wide", "trpo_ext-plain"):
        for task in ("Unknown-v0", "Pendulum-v1", "CartPole-v1"):
            stored(tmp_path, label, task, 100_000, [1.0])
    comparison = Comparison.of(read_all([tmp_path]))
    assert comparison.labels == ("trpo_ext", "trpo_ext-plain", "trpo", "trpo-wide", "ppo", "a variant")
    assert [task.environment for task in comparison.tasks] == ["CartPole-v1", "Pendulum-v1", "Unknown-v0"]


def test_improvement_over_the_baseline_where_both_have_runs(results):
    comparison = Comparison.of(read_all([results]))
    (task,) = comparison.shared()
    estimates = improvements(comparison)
    assert list(estimates) == [("trpo_ext", task), ("trpo_ext", None), ("wide", task), ("wide", None)]
    assert estimates["trpo_ext", None].value == pytest.approx(7 / 8)
