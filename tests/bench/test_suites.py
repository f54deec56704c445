"""The tasks of the learning benchmark, and their scales."""

from sb3_trpo_ext.bench.suites import MUJOCO, MUJOCO_V5, SCALE, SUITES, normalised, short


def test_suites():
    assert {task.environment for suite in SUITES.values() for task in suite} == SCALE.keys()
    assert all(random < good for random, good in SCALE.values())
    assert len(MUJOCO) == 6 and set(SUITES["mujoco"]) <= set(SUITES["all"])
    assert len(MUJOCO_V5) == 8 and not set(MUJOCO_V5) & set(SUITES["all"])


def test_random_actions_are_0_and_a_good_return_is_1():
    assert [normalised("CartPole-v1", score) for score in (24.5, 500.0)] == [0.0, 1.0]


def test_short_numbers_of_steps():
    assert [short(steps) for steps in (999, 1_500, 200_000, 1_000_000)] == ["999", "1.5k", "200k", "1M"]
