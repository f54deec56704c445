"""Files that stay whole, that hold nothing of our own to unpickle, and errors that say what to do."""

import base64
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.envs import IdentityEnvMultiBinary
from torch import nn

from sb3_trpo_ext import ACER, TRPO
from sb3_trpo_ext.trust_region.policy_step import StepStatus

VECTOR, BOX = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,))
OURS = {"trpo": TRPO, "acer": ACER}
ALLOWED = {
    "stable_baselines3",
    "torch",
    "numpy",
    "gymnasium",
    "builtins",
    "collections",
    "copyreg",
    "_codecs",
    "typing",
}


class Recorder(pickle.Unpickler):
    """Notes what an unpickling imports."""

    def __init__(self, text):
        super().__init__(io.BytesIO(base64.b64decode(text)))
        self.imported = set()

    def find_class(self, module, name):
        self.imported.add((module, name))
        return super().find_class(module, name)


def classes_of_pickles(data):
    """All that the serialized entries of a model's data import."""
    found = set()
    for name, value in data.items():
        if isinstance(value, dict) and ":serialized:" in value:
            recorder = Recorder(value[":serialized:"])
            recorder.load()
            found |= {(name, *imported) for imported in recorder.imported}
    return found


@pytest.mark.parametrize("policy", ["MlpPolicy", "CnnPolicy", "MultiInputPolicy"])
@pytest.mark.parametrize("algorithm", OURS)
def test_a_files_data_is_json_and_classes_of_the_libraries(algorithm, policy, space_env, tmp_path):
    image = spaces.Box(0, 255, (36, 36, 1), np.uint8)
    space = {"MlpPolicy": VECTOR, "CnnPolicy": image, "MultiInputPolicy": spaces.Dict(a=VECTOR, b=image)}[policy]
    settings = {"policy_kwargs": {"net_arch": [8], "activation_fn": nn.ReLU}, "n_steps": 8, "device": "cpu"}
    model = OURS[algorithm](policy, space_env(space, BOX), learning_rate="lin_0.001", **settings)
    model.learn(16)
    model.save(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        data = json.loads(archive.read("data"))
    foreign = {one for one in classes_of_pickles(data) if one[1].split(".")[0] not in ALLOWED}
    assert classes_of_pickles(data) and foreign == set()
    loaded = OURS[algorithm].load(tmp_path / "model", env=model.get_env())
    assert type(loaded.policy) is type(model.policy) and model.policy_class is type(model.policy)
    loaded.learn(16)


class OwnPolicy(TRPO.policy_aliases["MlpPolicy"]):
    pass


def test_a_policy_class_of_the_users_is_still_saved(space_env, tmp_path):
    model = TRPO(OwnPolicy, space_env(VECTOR, BOX), n_steps=8, device="cpu")
    model.save(tmp_path / "model")
    assert type(TRPO.load(tmp_path / "model").policy) is OwnPolicy


def test_saving_that_fails_leaves_the_old_file(space_env, tiny, tmp_path, monkeypatch):
    model = tiny(space_env(VECTOR, BOX))
    model.save(tmp_path / "model")
    before = (tmp_path / "model.zip").read_bytes()
    model.learn(16)

    def full(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        model.save(tmp_path / "model")
    assert (tmp_path / "model.zip").read_bytes() == before
    assert os.listdir(tmp_path) == ["model.zip"] and model.policy_class is type(model.policy)


def test_a_save_that_is_killed_leaves_the_old_file(space_env, tiny, tmp_path):
    model = tiny(space_env(VECTOR, BOX))
    model.save(tmp_path / "model")
    before = (tmp_path / "model.zip").read_bytes()
    program = f"""
        import os, signal, torch
        from sb3_trpo_ext import TRPO
        model = TRPO.load({str(tmp_path / "model")!r})
        original = torch.save
        def save(*arguments, **settings):
            original(*arguments, **settings)
            os.kill(os.getpid(), signal.SIGKILL)
        torch.save = save
        model.save({str(tmp_path / "model")!r})
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(program)])
    assert ended.returncode == -signal.SIGKILL
    assert (tmp_path / "model.zip").read_bytes() == before
    TRPO.load(tmp_path / "model")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_short_says_so(part, space_env, tiny, tmp_path):
    tiny(space_env(VECTOR, BOX)).save(tmp_path / "model")
    whole = (tmp_path / "model.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(ValueError, match="damaged or cut short"):
        TRPO.load(tmp_path / "cut")
    with pytest.raises(ValueError, match="damaged or cut short"):
        tiny(space_env(VECTOR, BOX)).set_parameters(str(tmp_path / "cut"))


@pytest.mark.parametrize("state", [{}, {"state": {}}, None, 3])
def test_a_state_that_is_no_optimizers_is_named(state, space_env, tiny):
    model = tiny(space_env(VECTOR, BOX))
    with pytest.raises(ValueError, match=r"policy.optimizer must be an optimizer's state_dict\(\)"):
        model.set_parameters({"policy": model.policy.state_dict(), "policy.optimizer": state})


@pytest.mark.parametrize("settings", [{"foreach": True}, {"capturable": False}, {"amsgrad": True}])
def test_arguments_of_the_optimizer_are_not_contradicted(settings, space_env, tiny):
    kwargs = {"net_arch": [8], "optimizer_kwargs": settings}
    tiny(space_env(VECTOR, BOX), critic="adam", policy_kwargs=kwargs).learn(16)


ERRORS = {
    "use_sde": (spaces.Discrete(3), {"use_sde": True}, r"TRPO\(use_sde=True\) needs Box actions, got Discrete\(3\)"),
    "multi_binary": (spaces.MultiBinary([2, 3]), {}, "MultiBinary or MultiDiscrete actions of one dimension.*Flatten"),
    "multi_discrete": (spaces.MultiDiscrete([[2, 3], [4, 5]]), {}, "(?s)actions of one dimension.*Flatten"),
    "no_bounds": (
        spaces.Box(-np.inf, np.inf, (2,)),
        {},
        r"TRPO\(env=...\) must have Box actions between finite bounds",
    ),
    "log_std": (BOX, {"policy_kwargs": {"log_std_init": 1000.0}}, r"log_std_init=...\)\) must be between -40.0 and 40"),
    "log_std_nan": (BOX, {"policy_kwargs": {"log_std_init": float("nan")}}, "log_std_init.*got nan"),
    "kfac": (BOX, {"cg_preconditioner": "kfac", "cg_damping": 0}, r'"kfac"\) must have a cg_damping above 0, got 0'),
    "kfac_wide": (
        BOX,
        {"cg_preconditioner": "kfac", "policy_kwargs": {"net_arch": [4096]}},
        "at most 2048, got 4096.*Set it to None",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_name_argument_value_and_remedy(case, space_env, tiny):
    action_space, settings, message = ERRORS[case]
    with pytest.raises(ValueError, match=message):
        tiny(space_env(VECTOR, action_space), **settings)


def test_identity_of_bits_is_still_welcome(tiny):
    tiny(IdentityEnvMultiBinary(2)).learn(16)


def test_noise_that_only_a_bonus_feeds_stops_growing_and_says_why(space_env, tiny):
    constant = [(step, ("reward", 1.0)) for step in range(10_000)]
    env = space_env(VECTOR, BOX, length=1, bad=dict(constant))
    model = tiny(env, ent_coef=1.0, target_kl=2.0, gamma=0.0, n_steps=16)
    with torch.no_grad():
        model.policy.log_std.fill_(19.0)
    model.learn(16 * 40)
    assert model._n_skipped_updates == 0 and model._n_updates == 40
    assert float(model.policy.log_std.max()) <= np.log(1e9) * (1 + 1e-5)
    assert model.logger.name_to_value["train/update_status"] == StepStatus.NOISE_LIMIT.code
    assert "lower ent_coef" in StepStatus.NOISE_LIMIT.value


@pytest.mark.parametrize("fast", [True, False])
def test_observations_that_float32_does_not_hold_are_named_and_counted(fast, space_env, tiny, bits):
    space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    model = tiny(space_env(space, BOX, bad={20: ("observation", 1e300)}), fast=fast).learn(16)
    before = bits(model.policy.state_dict())
    with pytest.warns(UserWarning, match=r"NaN or infinity in its .*observations \(beyond float32\)"):
        model.learn(16, reset_num_timesteps=False)
    assert model._n_skipped_updates == 1 and bits(model.policy.state_dict()) == before
    model.learn(16, reset_num_timesteps=False)
    assert model._n_updates == 2


def test_a_file_is_loaded_with_the_id_of_an_environment(tmp_path, tiny):
    tiny("CartPole-v1").save(tmp_path / "model")
    loaded = TRPO.load(tmp_path / "model", env="CartPole-v1")
    assert loaded.learn(16).num_timesteps >= 16


@pytest.mark.parametrize(("name", "hint"), [("target_klx", "Did you mean target_kl?"), ("clip_range", "no argument")])
def test_a_name_that_is_none_is_no_setting_of_load(name, hint, tmp_path, tiny):
    tiny("CartPole-v1").save(tmp_path / "model")
    with pytest.raises(ValueError, match=rf"TRPO.load\({name}=...\).*{hint}"):
        TRPO.load(tmp_path / "model", **{name: 0.1})


@pytest.mark.parametrize("kind", OURS.values(), ids=OURS)
def test_a_misspelt_policy_is_answered_with_the_names_that_there_are(kind):
    with pytest.raises(ValueError, match=r'policy=.*"MlpPolicy", "CnnPolicy", "MultiInputPolicy".*MlpPolcy'):
        kind("MlpPolcy", "CartPole-v1")


class Writes(BaseCallback):
    """Writes to a setting when the first rollout has ended."""

    def __init__(self, name, value):
        super().__init__()
        self.name, self.value = name, value

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        setattr(self.model, self.name, self.value)


@pytest.mark.parametrize(("name", "value"), [("target_kl", "nonsense"), ("target_kl", -1), ("gamma", 1.5)])
def test_settings_that_are_written_later_are_checked_too(name, value, space_env, tiny):
    model = tiny(space_env(VECTOR, BOX))
    with pytest.raises(ValueError, match=rf"TRPO\({name}=...\) must be"):
        model.learn(16, callback=Writes(name, value))
    with pytest.raises(ValueError, match=rf"TRPO\({name}=...\) must be"):
        model.learn(16)


def test_a_discount_that_is_written_later_is_the_one_that_counts(space_env, tiny):
    def targets(**settings):
        model = tiny(space_env(VECTOR, BOX), **settings)
        model.gamma, model.gae_lambda = 0.5, 0.9
        model.learn(16)
        return model.rollout_buffer.advantages

    later = targets()
    np.testing.assert_array_equal(later, targets(gamma=0.5, gae_lambda=0.9))


def test_another_rollout_length_needs_another_buffer(space_env, tiny):
    model = tiny(space_env(VECTOR, BOX))
    model.n_steps *= 2
    with pytest.raises(ValueError, match=r"n_steps was set to .* load\(path, env=env, n_steps="):
        model.learn(16)
