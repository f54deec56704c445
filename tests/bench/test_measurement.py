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


def test_where_the_time_of_a_step_goes():
    parts = {"end to end": Timing((9.0,), (4.0,))}
    own = {"rollout": (3.0, 2.0, 2.5), "policy update": (1.0,), "critic": (0.5,), "end to end": (4.1, 9.0, 4.0)}
    measurement = Measurement("HalfCheetah", 1, 1000, parts, (15,), (1.0, 1.2, 0.9), {}, own_parts=own)
    goes = measurement.where_it_goes()
    assert goes == pytest.approx(
        {
            "environment": 1000.0,
            "rest of collecting": 1500.0,
            "policy update": 1000.0,
            "critic": 500.0,
            "what is between": 100.0,
        }
    )
    assert sum(goes.values()) == pytest.approx(4100.0)
    assert Measurement("synthetic", 1, 1000, parts, (15,), (), {}).where_it_goes() == {}


def test_a_synthetic_environment_has_no_time_of_its_own():
    document = Measurement("synthetic", 2, 100, {"CG": Timing((9.0, 8.0), (3.0, 4.0))}, (15, 14), (), {}).document()
    assert (document["environment_microseconds_per_step"], document["over_environment"]) == (None, {})
    assert (document["turns"], document["cg_steps"]) == (2, [15, 14])
