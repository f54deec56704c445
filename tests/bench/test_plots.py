"""The learning benchmark as pictures."""

import dataclasses

import numpy as np
import pytest

from sb3_trpo_ext.bench.plots import (
    MOST_LINES,
    colours,
    improvement,
    learning_curves,
    on_grid,
    profile,
    return_against_time,
)
from sb3_trpo_ext.bench.statistics import Estimate
from sb3_trpo_ext.bench.store import read_all


def test_as_many_labels_as_a_picture_has_are_told_apart():
    labels = ["trpo_ext", "trpo", *(f"variant-{i}" for i in range(MOST_LINES - 2))]
    assert len({colours(labels)[label] for label in labels}) == MOST_LINES
    # The same label looks the same in a picture without the baseline.
    assert colours(["trpo_ext", "variant-0"])["variant-0"] == colours(labels)["variant-0"]


def test_curves_are_read_at_the_same_steps(tmp_path, stored):
    stored(tmp_path, "trpo", "CartPole-v1", 1000, [10.0, 20.0])
    first, second = read_all([tmp_path])
    later = dataclasses.replace(second, steps=(750, 1000), returns=(20.0, 20.0))
    steps, returns, minutes = on_grid([first, later])
    # Until step 750 there is nothing to average yet.
    assert steps[0] == 760 and steps[-1] == 1000
    np.testing.assert_allclose(returns[:, -1], [10.0, 20.0])
    np.testing.assert_allclose(minutes[:, -1], [1.0, 1.0])


@pytest.mark.parametrize("draw", [learning_curves, return_against_time])
@pytest.mark.parametrize("labels", [2, 9], ids=["legend in the panel", "legend apart"])
def test_curves_are_drawn(tmp_path, stored, draw, labels):
    for i in range(labels):
        stored(tmp_path, f"label {i}", "CartPole-v1", 1000, [10.0, 20.0])
    results = read_all([tmp_path])
    curves = {"a task": {one.run.label: [one] for one in results}, "another": {"label 0": results[:1]}}
    draw(curves, "label 0", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_profile_and_improvement_are_drawn(tmp_path):
    profile({"trpo": [[0.1, 0.2]], "ppo": [[-0.1, 1.2]]}, tmp_path / "profile.png")
    improvement({("ppo", "a task"): Estimate(0.5, 0.4, 0.6)}, "trpo", tmp_path / "improvement.png")
    for name in ("profile.png", "improvement.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
