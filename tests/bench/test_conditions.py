"""Under which conditions results were made: what is noticed, and what is not known."""

import json

import pytest

from sb3_trpo_ext.bench.__main__ import main
from sb3_trpo_ext.bench.comparison import Comparison
from sb3_trpo_ext.bench.conditions import conditions
from sb3_trpo_ext.bench.store import read_all


@pytest.mark.parametrize(
    ("arguments", "zoo", "noticed"),
    [
        ({"target_kl": 0.5}, {"target_kl": 0.5}, True),
        ({"target_kl": 0.1}, {"normalize": True}, True),
        ({"target_kl": 0.1}, {"target_kl": 0.1}, False),  # written down in one, the default in the other
        ({"target_kl": 0.1, "of a later version": 1}, {}, False),
        ({"target_kl": 0.1, "of a later version": 1}, {"of a later version": 1}, True),
        ({"target_kl": 0.1}, {"n_timesteps": 1e6}, False),  # the run's own number of steps is what counts
    ],
)
def test_seeds_of_different_settings_are_noticed(arguments, zoo, noticed, tmp_path, stored, contents):
    runs = stored(tmp_path, "trpo_ext", "CartPole-v1", 20_000, [1.0, 2.0])
    settings = ({"target_kl": 0.1, "seed": 0}, {}), ({**arguments, "seed": 1}, zoo)
    for run, (all_settings, zoo_settings) in zip(runs, settings, strict=True):
        path = run.path(tmp_path)
        path.write_text(json.dumps({**contents(path), "all_settings": all_settings, "zoo_settings": zoo_settings}))
    text = "trpo_ext: not all seeds were trained with the same settings: CartPole-v1 20k"
    assert (text in conditions(Comparison.of(read_all([tmp_path])))) == noticed


def test_unknown_circumstances(tmp_path, stored, contents):
    (run,) = stored(tmp_path, "trpo_ext", "CartPole-v1", 1000, [1.0])
    document = contents(run.path(tmp_path)) | {"commit": None, "versions": None, "machine": None}
    run.path(tmp_path).write_text(json.dumps(document))
    main(["report", "--results", str(tmp_path), "--out", str(tmp_path)])
    assert "- Commits: unknown." in (tmp_path / "learning.md").read_text()


@pytest.mark.parametrize("other", ["Snail 1", "Hare 9"])
def test_times_of_different_machines_are_noticed(other, tmp_path, stored, contents):
    runs = stored(tmp_path, "trpo_ext", "CartPole-v1", 20_000, [1.0, 2.0])
    for run, name in zip(runs, ("Hare 9", other), strict=True):
        path = run.path(tmp_path)
        path.write_text(json.dumps({**contents(path), "machine": {"cpu": name, "cores": 2}}))
    text = conditions(Comparison.of(read_all([tmp_path])))
    columns = "Hare 9, 2 cores: trpo_ext (CartPole-v1 20k). Snail 1, 2 cores: trpo_ext (CartPole-v1 20k)."
    assert (f"**Times are of different machines.** {columns}" in text) == (other == "Snail 1")
