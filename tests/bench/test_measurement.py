"""Ratios of both sides' times, and what is written of them."""

import pytest

from sb3_trpo_ext.bench.measurement import Measurement, Timing


def test_ratios_are_taken_turn_by_turn():
    # The machine was ten times slower in the last turn: no reason to change the verdict.
    summary = Timing(contrib=(3.0, 8.0, 30.0), ours=(1.0, 2.0, 10.0)).summary()
    assert summary == {
        "ratio": 3.0,
        "lowest": 3.0,
        "highest": 4.0,
        "contrib_seconds": 8.0,
        "ours_seconds": 2.0,
    }


def test_time_over_the_environments_own():
    parts = {"rollout": Timing((9.0,), (3.0,)), "end to end": Timing((9.0,), (4.0,))}
    measurement = Measurement("HalfCheetah", 1, 100, parts, (15,), (2.0,), {}, "cpu", {"ours": (3.0,), "PPO": (12.0,)})
    expected = {"ours": 1.5, "PPO": 6.0, "same work, rollout": 1.5, "same work, end to end": 2.0}
    document = measurement.document()
    assert measurement.over_environment() == document["over_environment"] == expected
    assert document["environment_microseconds_per_step"] == pytest.approx(20_000)
    assert document["without_settings_microseconds_per_step"] == {"ours": 30_000, "PPO": 120_000}
    assert document["contrib_over_without_settings"] == {"ours": 3.0, "PPO": 0.75}


def test_a_synthetic_environment_has_no_time_of_its_own():
    document = Measurement("synthetic", 2, 100, {"CG": Timing((9.0, 8.0), (3.0, 4.0))}, (15, 14), (), {}).document()
    assert (document["environment_microseconds_per_step"], document["over_environment"]) == (None, {})
    assert (document["turns"], document["cg_steps"]) == (2, [15, 14])
