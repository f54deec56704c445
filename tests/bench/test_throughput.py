"""Steps per second of ACER and A2C: what is counted, what is printed, and what is said when an option is wrong."""

import json
import sys

import gymnasium as gym
import pytest
import torch
from stable_baselines3 import A2C

from sb3_trpo_ext import ACER
from sb3_trpo_ext.bench.__main__ import main
from sb3_trpo_ext.bench.throughput import COMPARISONS, Clocked, measure


def test_prints_provenance_and_a_row_for_each(capsys):
    threads = torch.get_num_threads()
    main(["throughput", "--envs", "CartPole-v1", "--steps", "100", "--repeats", "2"])
    assert torch.get_num_threads() == threads
    origin, table = capsys.readouterr().out.split("\n\n")
    assert json.loads(origin)["command"].endswith("throughput --envs CartPole-v1 --steps 100 --repeats 2")
    title, _, *rows = table.strip().splitlines()
    assert title == "CartPole-v1, median (lowest – highest) of 2 turns"
    assert [row.strip().startswith(name) for row, name in zip(rows, COMPARISONS["acer"].contenders, strict=True)] == [
        True
    ] * len(rows)


def test_the_first_turn_does_not_count():
    for one in measure(COMPARISONS["acer"], "CartPole-v1", 40, 2).values():
        assert one.model.num_timesteps >= 3 * 40
        assert len(one.steps_per_second) == len(one.seconds_per_gradient_step) == 2
        assert min(*one.steps_per_second, *one.seconds_per_gradient_step) > 0


def test_replays_are_gradient_steps_too():
    settings = {"seed": 0, "device": "cpu", "n_steps": 20}
    a2c, acer = (
        Clocked(A2C("MlpPolicy", "CartPole-v1", **settings)),
        Clocked(ACER("MlpPolicy", "CartPole-v1", **settings)),
    )
    for one in (a2c, acer):
        one.learn(40)
    assert a2c._gradient_steps() == acer._gradient_steps() == 2
    acer.model._n_replays = 3
    assert acer._gradient_steps() == 5


def test_all_learn_from_observations_as_they_are():
    for algorithm, settings, policy, _ in COMPARISONS["acer"].contenders.values():
        assert getattr(algorithm(policy, "CartPole-v1", **settings).policy, "normalizer", None) is None


def test_an_environment_that_is_not_there_is_named():
    with pytest.raises(SystemExit, match=r"--envs CartPoel-v1: .*CartPoel"):
        main(["throughput", "--envs", "CartPoel-v1"])


@pytest.mark.parametrize("what", ["recurrent", "masks"])
def test_other_comparisons(what, monkeypatch, capsys):
    comparison = COMPARISONS[what]
    small = {
        name: one._replace(settings={**one.settings, "n_steps": 16}) for name, one in comparison.contenders.items()
    }
    hidden = comparison.make if what == "masks" else gym.make  # RL Zoo would change gymnasium for all other tests
    monkeypatch.setitem(COMPARISONS, what, comparison._replace(contenders=small, make=hidden))
    main(["throughput", "--of", what, "--steps", "64", "--repeats", "1"])
    title, head, *rows = capsys.readouterr().out.split("\n\n")[1].strip().splitlines()
    assert comparison.environment in title and "updates per step" in head
    assert [row.strip().startswith(name) for row, name in zip(rows, small, strict=True)] == [True] * 3


def test_environments_are_compared_under_the_same_training(monkeypatch, capsys):
    comparison = COMPARISONS["environments"]
    assert comparison.n_envs == 16 and list(comparison.contenders) == [
        "DummyVecEnv",
        "as_vec_env",
        "EnvPool, 2 threads",
    ]
    assert len({str(one.settings) for one in comparison.contenders.values()}) == 1
    small = {name: one._replace(settings={"n_steps": 2}) for name, one in list(comparison.contenders.items())[:2]}
    measured = measure(comparison._replace(contenders=small), "CartPole-v1", 64, 1)
    assert [type(one.model.env).__name__ for one in measured.values()] == ["DummyVecEnv", "InProcessVecEnv"]
    assert all(one.model.n_envs == 16 for one in measured.values())


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    small = COMPARISONS["environments"]._replace(n_envs=1)
    monkeypatch.setitem(COMPARISONS, "environments", small)
    with pytest.raises(SystemExit, match=r"--of environments: .*Install it: pip install envpool"):
        main(["throughput", "--of", "environments", "--envs", "CartPole-v1"])
