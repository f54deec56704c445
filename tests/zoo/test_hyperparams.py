"""``hyperparams/*.yml``: what RL Zoo gives the constructors, for environments that the defaults are not enough for."""

import inspect
import json
from pathlib import Path

import pytest
import yaml

from sb3_trpo_ext.zoo.registration import ALGORITHMS

FOLDER = Path(__file__).parents[2] / "hyperparams"
FILES = {algo: yaml.safe_load((FOLDER / f"{algo}.yml").read_text()) for algo in ("trpo_ext", "trpo_lstm", "trpo_mask")}
OURS = FILES["trpo_ext"]
ENTRIES = [(algo, name) for algo, entries in FILES.items() for name in entries]
#: What RL Zoo takes out of an entry before it calls the constructor.
FOR_THE_ZOO = {"n_envs", "n_timesteps", "normalize", "env_wrapper", "frame_stack"}

BUILD = """
import argparse, json, sys
import gymnasium as gym
import rl_zoo3.import_envs
from rl_zoo3.exp_manager import ExperimentManager

algo, *names = sys.argv[1:]
built = {}
for name in names:
    try:
        action_space = gym.make(name).action_space
    except (gym.error.NameNotFound, gym.error.DependencyNotInstalled):
        continue
    manager = ExperimentManager(argparse.Namespace(), algo, name, "logs", eval_freq=-1, device="cpu")
    model, settings = manager.setup_experiment()
    dimensions = action_space.shape[0] if isinstance(action_space, gym.spaces.Box) else 1
    target_kl = None if model.target_kl is None else float(str(model.target_kl).removeprefix("lin_").split("_")[0])
    built[name] = {
        "dimensions": dimensions,
        "class": type(model).__module__,
        "steps": manager.n_timesteps,
        "envs": model.n_envs,
        "target_kl": target_kl,
        "settings": {key: repr(value) for key, value in vars(model).items() if key in SETTINGS},
    }
    model.env.close()
json.dump(built, open("built.json", "w"))
"""


@pytest.fixture(scope="module")
def build(installation, tmp_path_factory):
    """``build(algo, names…)``: what RL Zoo makes of entries whose environment can be made here."""

    def run(algo, *names):
        folder = tmp_path_factory.mktemp("built")
        settings = set(inspect.signature(ALGORITHMS[algo].algorithm.__init__).parameters) - {"env", "policy", "seed"}
        installation.run("-c", f"SETTINGS = {settings!r}\n{BUILD}", algo, *names, cwd=folder)
        return json.loads((folder / "built.json").read_text())

    return run


@pytest.mark.parametrize(("algo", "name"), ENTRIES)
def test_the_constructor_accepts_it(algo, name):
    arguments = {key: value for key, value in FILES[algo][name].items() if key not in FOR_THE_ZOO}
    inspect.signature(ALGORITHMS[algo].algorithm).bind(env=None, **arguments)
    texts = [key for key, value in arguments.items() if isinstance(value, str) and value[0].isdigit()]
    assert not texts, "1e-3 is text"


def test_rl_zoo_builds_a_model_from_every_entry(build):
    names = sorted(set(OURS) - {"default", "atari"})
    built = build("trpo_ext", *names)
    assert len(built) >= 0.8 * len(names)
    for name, found in built.items():
        assert found["class"].startswith("sb3_trpo_ext"), name
        assert found["steps"] == OURS[name]["n_timesteps"] and found["envs"] == OURS[name].get("n_envs", 1), name
        if (target_kl := found["target_kl"]) is not None:  # the KL of the whole action: d times that of a dimension
            per_dimension = target_kl / found["dimensions"]
            assert 0.01 <= per_dimension <= 0.1 and round(per_dimension, 3) == pytest.approx(per_dimension), name


def test_an_environment_without_an_entry_has_the_constructors_defaults(build):
    assert set(OURS["default"]) == {"n_timesteps", "policy"}
    found = build("trpo_ext", "CliffWalking-v1")["CliffWalking-v1"]
    model = ALGORITHMS["trpo_ext"].algorithm("MlpPolicy", "CliffWalking-v1", device="cpu")
    assert found["steps"] == 1e6 and found["envs"] == 1
    differ = {name for name, text in found["settings"].items() if repr(vars(model)[name]) != text}
    assert differ <= {"verbose", "tensorboard_log", "policy_kwargs"}, "the last is {} in the one and None in the other"


def test_files_are_ascii():
    """RL Zoo opens them in the encoding of the locale, whatever it is."""
    for file in FOLDER.glob("*.yml"):
        file.read_bytes().decode("ascii")
