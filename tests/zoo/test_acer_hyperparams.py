"""``hyperparams/acer.yml``."""

import inspect
import json
from pathlib import Path

import pytest
import yaml

import sb3_trpo_ext

OURS = yaml.safe_load((Path(__file__).parents[2] / "hyperparams" / "acer.yml").read_text())
#: What RL Zoo takes out of an entry before it calls the constructor.
FOR_THE_ZOO = {"n_envs", "n_timesteps", "normalize", "env_wrapper", "frame_stack"}

BUILD = """
import argparse, json, sys
import gymnasium as gym
from rl_zoo3.exp_manager import ExperimentManager

built = {}
for name in sys.argv[1:]:
    try:
        gym.make(name).close()
    except (gym.error.NameNotFound, gym.error.DependencyNotInstalled):
        continue
    manager = ExperimentManager(argparse.Namespace(), "acer", name, "logs", eval_freq=-1, device="cpu")
    model, settings = manager.setup_experiment()
    built[name] = {"class": type(model).__name__, "steps": manager.n_timesteps, "envs": model.n_envs}
    model.env.close()
json.dump(built, open("built.json", "w"))
"""


def test_has_an_entry_for_every_family_of_environments():
    assert {
        "default",
        "atari",
        "CartPole-v1",
        "Acrobot-v1",
        "Pendulum-v1",
        "LunarLander-v3",
        "BipedalWalker-v3",
    } <= set(OURS)
    assert {f"{name}-v5" for name in ("Ant", "HalfCheetah", "Hopper", "Walker2d", "Humanoid", "Swimmer")} <= set(OURS)
    assert {f"{name}BulletEnv-v0" for name in ("Ant", "HalfCheetah", "Hopper", "Walker2D")} <= set(OURS)


@pytest.mark.parametrize("name", sorted(OURS))
def test_the_constructor_accepts_it(name):
    arguments = {key: value for key, value in OURS[name].items() if key not in FOR_THE_ZOO}
    inspect.signature(sb3_trpo_ext.ACER).bind(env=None, **arguments)
    texts = [key for key, value in arguments.items() if isinstance(value, str) and value[0].isdigit()]
    assert not texts, "1e-3 is text"


def test_rl_zoo_builds_a_model_from_every_entry(installation, tmp_path):
    names = sorted(set(OURS) - {"default", "atari"})
    installation.run("-c", BUILD, *names, cwd=tmp_path)
    built = json.loads((tmp_path / "built.json").read_text())
    assert {"CartPole-v1", "Pendulum-v1"} <= set(built)
    for name, found in built.items():
        expected = {"class": "ACER", "steps": OURS[name]["n_timesteps"], "envs": OURS[name]["n_envs"]}
        assert found == expected
