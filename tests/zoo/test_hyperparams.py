"""
``hyperparams/trpo_ext.yml``: settings of our own where they were tuned, elsewhere RL Zoo's for sb3-contrib's TRPO with
the KL converted to a sum over dimensions.
"""

import importlib.util
import inspect
import json
from pathlib import Path

import pytest
import sb3_contrib
import yaml

import sb3_trpo_ext

CHECKOUT = Path(__file__).parents[2]
OURS = yaml.safe_load((CHECKOUT / "hyperparams" / "trpo_ext.yml").read_text())
THEIRS = yaml.safe_load((Path(importlib.util.find_spec("rl_zoo3").origin).parent / "hyperparams/trpo.yml").read_text())
THEIR_DEFAULTS = inspect.signature(sb3_contrib.TRPO).parameters
#: What RL Zoo takes out of an entry before it calls the constructor.
FOR_THE_ZOO = {"n_envs", "n_timesteps", "normalize", "env_wrapper", "frame_stack"}
#: Settings of our own; docs/tuning.md says for which of them there was a search.
TUNED = {
    "Acrobot-v1",
    "BipedalWalker-v3",
    "CartPole-v1",
    "InvertedDoublePendulum-v5",
    "InvertedPendulum-v5",
    "LunarLander-v3",
    "LunarLanderContinuous-v3",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "Pendulum-v1",
    "Reacher-v5",
    *(
        f"{name}-{v}"
        for name in ("Ant", "HalfCheetah", "Hopper", "Humanoid", "Swimmer", "Walker2d")
        for v in ("v4", "v5")
    ),
}
#: What RL Zoo's TRPO has not, in any version.
ADDED = {"atari", "Reacher-v5", "InvertedDoublePendulum-v5", "InvertedPendulum-v5"}
SCALED = ("target_kl", "cg_damping")


def origin(name: str) -> str:
    """The entry of RL Zoo's file that one of ours comes from."""
    return name if name in THEIRS else name.replace("-v5", "-v4")


def factor(name: str, setting: str) -> float:
    """By how much we multiplied one of RL Zoo's settings."""
    theirs = THEIRS[origin(name)].get(setting, THEIR_DEFAULTS[setting].default)
    return OURS[name].get(setting, THEIR_DEFAULTS[setting].default) / theirs


CONVERTED = sorted(set(OURS) - ADDED - TUNED)

BUILD = """
import argparse, json, sys
import gymnasium as gym
from rl_zoo3.exp_manager import ExperimentManager

built = {}
for name in sys.argv[1:]:
    try:
        action_space = gym.make(name).action_space
    except (gym.error.NameNotFound, gym.error.DependencyNotInstalled):
        continue
    manager = ExperimentManager(argparse.Namespace(), "trpo_ext", name, "logs", eval_freq=-1, device="cpu")
    model, settings = manager.setup_experiment()
    dimensions = action_space.shape[0] if isinstance(action_space, gym.spaces.Box) else 1
    built[name] = {"dimensions": dimensions, "class": type(model).__module__, "steps": manager.n_timesteps}
    model.env.close()
json.dump(built, open("built.json", "w"))
"""


@pytest.fixture(scope="module")
def built(installation, tmp_path_factory):
    """Every entry whose environment can be made here, through RL Zoo to a model."""
    folder = tmp_path_factory.mktemp("built")
    installation.run("-c", BUILD, *sorted(set(OURS) - {"default", "atari"}), cwd=folder)
    return json.loads((folder / "built.json").read_text())


def test_has_every_environment_of_the_zoo():
    assert set(THEIRS) <= set(OURS)
    assert {f"{name}-v5" for name in ("Ant", "HalfCheetah", "Hopper", "Walker2d", "Humanoid", "Swimmer")} <= set(OURS)


@pytest.mark.parametrize("name", sorted(OURS))
def test_the_constructor_accepts_it(name):
    arguments = {key: value for key, value in OURS[name].items() if key not in FOR_THE_ZOO}
    inspect.signature(sb3_trpo_ext.TRPO).bind(env=None, **arguments)
    assert not [key for key, value in arguments.items() if isinstance(value, str) and value[0].isdigit()], (
        "1e-3 is text"
    )


@pytest.mark.parametrize("name", CONVERTED)
def test_nothing_but_kl_and_damping_differs_from_the_zoo(name):
    # What sb3-contrib has without saying so.
    unsaid = {} if name == "default" else {"critic": "adam", "policy_kwargs": "dict(log_std_init=0)"}
    theirs = unsaid | THEIRS[origin(name)]
    ours = {key: value for key, value in OURS[name].items() if key not in SCALED}
    assert ours == {key: value for key, value in theirs.items() if key not in SCALED}


@pytest.mark.parametrize("name", CONVERTED)
def test_kl_and_damping_are_scaled_alike_by_a_whole_number(name):
    assert factor(name, "target_kl") == pytest.approx(factor(name, "cg_damping"))
    assert factor(name, "target_kl") == pytest.approx(round(factor(name, "target_kl")))


def test_kl_and_damping_are_scaled_by_the_action_dimension(built):
    """In every environment that is installed here."""
    assert {"CartPole-v1", "Pendulum-v1"} <= built.keys()
    for name, found in built.items():
        assert found["class"].startswith("sb3_trpo_ext"), name
        assert found["steps"] == OURS[name]["n_timesteps"], name
        # What is left out is the constructor's: for one dimension the same as sb3-contrib's, for more not.
        assert found["dimensions"] == 1 or {"target_kl", "cg_damping"} <= set(OURS[name]), name
        if name in TUNED:
            start = float(str(OURS[name]["target_kl"]).removeprefix("lin_").split("_")[0])
            per_dimension = start / found["dimensions"]
            assert 0.01 <= per_dimension <= 0.1 and round(per_dimension, 3) == pytest.approx(per_dimension), name
        else:
            assert factor(name, "target_kl") == pytest.approx(found["dimensions"]), name


def test_files_are_ascii():
    """RL Zoo opens them in the encoding of the locale, whatever it is."""
    for file in (CHECKOUT / "hyperparams").glob("*.yml"):
        file.read_bytes().decode("ascii")
