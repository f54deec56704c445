"""Taking turns: what is measured, what is left out and why."""

import time

import gymnasium as gym
import pytest
import torch
from gymnasium import spaces

from sb3_trpo_ext.bench import turns
from sb3_trpo_ext.bench.cases import Case, RandomEnv, UpdateCase
from sb3_trpo_ext.bench.measurement import Timing
from sb3_trpo_ext.bench.turns import Setting, measure, timings, turns_in_time
from tests.cases import each_device


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
    settings = [Setting(tiny(), threads=count) for count in (1, 2)]
    measurements, skipped = measure(settings, repeats=2, show=shown.append)
    assert torch.get_num_threads() == before
    assert [one.label for one in measurements] == ["tiny/1env/4/16/1thread", "tiny/1env/4/16/2thread"]
    assert (shown, skipped) == (measurements, {})
    assert all(len(timing.ours) == 2 for timing in measurements[0].parts.values())


@pytest.mark.parametrize("error", [gym.error.DependencyNotInstalled("no"), ModuleNotFoundError("no")])
def test_a_missing_package_skips_the_case_and_names_the_extra(error):
    def fail():
        raise error

    settings = [Setting(tiny("lander", fail, extra="box2d")), Setting(tiny())]
    measurements, skipped = measure(settings, 1, lambda measurement: None)
    assert skipped == {"lander/1env/4/16": "it needs the box2d extra: pip install '.[box2d]' in a checkout"}
    assert len(measurements) == 1


def test_no_case_begins_when_the_time_is_over():
    measurements, skipped = measure([Setting(tiny())], 1, print, last_start=time.perf_counter() - 1)
    assert measurements == []
    assert "--quick" in skipped["tiny/1env/4/16"]


def test_turns_end_with_the_time_but_one_that_counts():
    assert list(turns_in_time(3, float("inf"))) == [0, 1, 2, 3]
    assert list(turns_in_time(3, time.perf_counter() - 1)) == [0, 1]


@each_device
def test_whole_updates_are_measured_with_the_same_work_and_with_defaults(device):
    measurements, _ = measure([Setting(UpdateCase(64, (4,), critic=True), device)], 2, lambda measurement: None)
    place = "1thread" if device == "cpu" else device
    same, defaults = measurements
    assert [one.label for one in measurements] == [f"whole-update/4/64/{place}", f"whole-update/4/64/defaults/{place}"]
    assert same.settings["critic"] == "adam" and "critic" not in defaults.settings
    for one in measurements:
        assert (one.document()["device"], one.turns, len(one.cg_steps)) == (device, 2, 2)
        assert {"policy update", "critic", "update"} <= one.parts.keys()


def test_a_case_for_which_the_memory_is_too_small_does_not_end_the_others(monkeypatch):
    compare = turns.compare_updates

    def too_large(setting, *arguments):
        if setting.case.samples > 32:
            raise torch.OutOfMemoryError
        return compare(setting, *arguments)

    monkeypatch.setattr(turns, "compare_updates", too_large)
    settings = [
        Setting(UpdateCase(samples, (4,)), device) for samples, device in ((64, "cuda"), (64, "cpu"), (32, "cpu"))
    ]
    measurements, skipped = measure(settings, 1, lambda measurement: None)
    assert skipped == {"update/4/64/cuda": turns.NO_MEMORY, "update/4/64": turns.NO_MEMORY}
    assert measurements[0].samples == 32
