"""One training run: what is read while it trains, and its settings."""

import json
import os
from types import SimpleNamespace

import pytest

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.bench.run import Curve, constructor_settings, no_settings


@pytest.fixture
def curve(tmp_path, runs):
    """Of a run of ten steps, none of which has been taken yet."""
    (run,) = runs(0)
    curve = Curve(run, tmp_path / "run.progress")
    curve.model = SimpleNamespace(ep_info_buffer=[], num_timesteps=0)
    return curve


def step(curve, steps, *returns):
    curve.num_timesteps = curve.model.num_timesteps = steps
    curve.model.ep_info_buffer = [{"r": one} for one in returns]


def test_a_point_is_the_mean_return_of_the_last_episodes(curve, contents):
    step(curve, 5)
    curve.read()
    assert curve.points == [] and contents(curve.progress) == {"steps": 5, "return": None}
    step(curve, 10, 1.0, 2.0)
    curve.read()
    assert [point[:2] for point in curve.points] == [(10, 1.5)]
    assert contents(curve.progress) == {"steps": 10, "return": 1.5}


def test_a_step_has_one_point_which_counts_all_of_its_episodes(curve):
    step(curve, 10, 1.0)
    curve.read()
    step(curve, 10, 1.0, 3.0)
    curve.finish()
    assert [point[:2] for point in curve.points] == [(10, 2.0)]


def test_training_that_ended_early(curve):
    step(curve, 9, 1.0)
    with pytest.raises(RuntimeError, match="Training ended at step 9 of 10"):
        curve.finish()


def test_training_without_an_episode(curve):
    step(curve, 10)
    with pytest.raises(RuntimeError, match="No episode ended within 10 steps: give more --timesteps"):
        curve.finish()


def test_a_run_ends_with_the_process_that_started_it(curve, monkeypatch):
    monkeypatch.setattr(os, "getppid", lambda: -1)
    with pytest.raises(SystemExit, match="has ended"):
        curve.read()


def test_all_arguments_of_the_constructor_are_told(tmp_path):
    settings = constructor_settings(TRPO("MlpPolicy", "CartPole-v1", device="cpu", gamma=0.5))
    assert settings["gamma"] == 0.5 and settings["n_steps"] == 2048
    assert not {"self", "env", "policy"} & settings.keys()
    assert json.loads(json.dumps(settings)) == settings


def test_a_file_that_leaves_all_settings_to_the_constructor(tmp_path, runs, contents):
    path = no_settings(runs(0)[0], tmp_path)
    assert contents(path) == {"CartPole-v1": {"n_timesteps": 10, "policy": "MlpPolicy"}}
