"""Taking turns: what is measured, what is left out and why."""

import time

import gymnasium as gym
import pytest
import torch
from gymnasium import spaces

from sb3_trpo_ext.bench.cases import Case, RandomEnv
from sb3_trpo_ext.bench.measurement import Timing
from sb3_trpo_ext.bench.turns import measure, timings


def tiny(name="tiny", make=None, **fields):
    return Case(
        name,
        make or (lambda: RandomEnv(spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(2))),
        net_arch=(4,),
        samples=16,
        **fields,
    )


def test_turns_become_parts():
    result = timings([{"CG": 1.0, "critic": 2.0}, {"CG": 3.0, "critic": 4.0}], [{"CG": 0.5, "critic": 1.0}] * 2)
    assert result == {"CG": Timing((1.0, 3.0), (0.5, 0.5)), "critic": Timing((2.0, 4.0), (1.0, 1.0))}


def test_measures_a_tiny_case_and_puts_the_threads_back():
    shown = []
    before = torch.get_num_threads()
    measurements, skipped = measure([tiny()], [1, 2], repeats=2, show=shown.append)
    assert torch.get_num_threads() == before
    assert [one.label for one in measurements] == ["tiny/1env/4/16/1thread", "tiny/1env/4/16/2thread"]
    assert (shown, skipped) == (measurements, {})
    assert all(len(timing.ours) == 2 for timing in measurements[0].parts.values())


@pytest.mark.parametrize("error", [gym.error.DependencyNotInstalled("no"), ModuleNotFoundError("no")])
def test_a_missing_package_skips_the_case_and_names_the_extra(error):
    def fail():
        raise error

    measurements, skipped = measure([tiny("lander", fail, extra="box2d"), tiny()], [1], 1, lambda measurement: None)
    assert skipped == {"lander/1env/4/16": "it needs the box2d extra: pip install '.[box2d]' in a checkout"}
    assert len(measurements) == 1


def test_no_case_begins_when_the_time_is_over():
    measurements, skipped = measure([tiny()], [1], 1, lambda measurement: None, last_start=time.perf_counter() - 1)
    assert measurements == []
    assert "--quick" in skipped["tiny/1env/4/16"]
