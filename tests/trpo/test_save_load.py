"""What is saved comes back bit for bit, and trains on as if nothing had happened."""

import base64
import io
import json
import pickletools
import zipfile
from functools import partial
from pathlib import Path

import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.trpo.policies import CnnPolicy, MultiInputPolicy
from tests.trpo.cases import BOX, KINDS, VECTOR, predictions


def train_on(model, steps, seed):
    """From the same random numbers and freshly reset environments, which SB3 does not save."""
    model.set_random_seed(seed)
    model.set_env(model.get_env(), force_reset=True)
    return model.learn(steps, reset_num_timesteps=False)


SETTINGS = {
    "default": {},
    "all": {
        "critic": "adam",
        "learning_rate": "lin_0.01",
        "target_kl": "lin_0.02",
        "kl_reduction": "mean",
        "trust_region": "euclidean",
        "curvature_sampling_factor": 2,
        "sub_sampling_factor": 2,
        "cg_tolerance": 1e-3,
        "cg_damping": 0.2,
        "adaptive_damping": True,
        "cg_max_steps": 7,
        "ent_coef": 0.01,
        "gamma": 0.9,
        "gae_lambda": 0.8,
        "line_search_shrinking_factor": 0.5,
        "line_search_max_iter": 3,
        "normalize_advantage": False,
    },
}


@pytest.mark.parametrize("settings", SETTINGS)
def test_loaded_model_predicts_and_trains_on_like_the_one_that_was_saved(kind, settings, build, bits, tmp_path):
    model = build(kind, **SETTINGS[settings]).learn(64)
    model.save(tmp_path / "model")
    loaded = TRPO.load(tmp_path / "model", env=model.get_env(), device="cpu")
    for name, value in SETTINGS[settings].items():
        assert getattr(loaded, name) == value
    assert bits(loaded.get_parameters()) == bits(model.get_parameters())
    observations = model.get_env().reset()
    assert bits(predictions(loaded, observations)) == bits(predictions(model, observations))
    train_on(model, 64, seed=9)
    train_on(loaded, 64, seed=9)
    assert bits(loaded.get_parameters()) == bits(model.get_parameters())
    for counter in ("num_timesteps", "_n_updates", "_n_line_search_failures", "_n_skipped_updates", "_episode_num"):
        assert getattr(loaded, counter) == getattr(model, counter)


def test_counters_of_trouble_are_kept(build, tmp_path):
    model = build(KINDS["mlp"])
    model._n_line_search_failures, model._n_skipped_updates = 3, 2
    model.save(tmp_path / "model")
    loaded = TRPO.load(tmp_path / "model", env=model.get_env()).learn(32, reset_num_timesteps=False)
    logged = dict(loaded.logger.name_to_value)
    assert (logged["train/line_search_failures"], logged["train/skipped_updates"]) == (3, 2)


@pytest.mark.parametrize(
    ("settings", "key", "value"),
    [
        ({"target_kl": 0.5}, "train/target_kl", 0.5),
        ({"target_kl": ConstantSchedule(0.3)}, "train/target_kl", 0.3),
        ({"critic": "adam", "learning_rate": 0.25}, "train/learning_rate", 0.25),
        ({"cg_max_steps": 1}, "train/cg_steps", 1),
        ({"cg_tolerance": 0.9}, "train/cg_steps", 1),
        ({"line_search_max_iter": 1}, "train/line_search_trials", 1),
        ({"trust_region": "euclidean", "target_kl": 0.02, "line_search_max_iter": 0}, "train/step_norm", 0.2),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else None,
)
def test_settings_given_to_load_take_effect(settings, key, value, build, tmp_path):
    model = build(KINDS["mlp"]).learn(32)
    model.save(tmp_path / "model")
    loaded = TRPO.load(tmp_path / "model", env=model.get_env(), **settings).learn(32)
    assert dict(loaded.logger.name_to_value)[key] == pytest.approx(value, rel=1e-5)


def test_load_with_another_number_of_environments_and_without_any(build, space_env, tmp_path):
    model = build(KINDS["mlp"]).learn(32)
    model.save(tmp_path / "model")
    wider = TRPO.load(tmp_path / "model", env=DummyVecEnv([partial(space_env, VECTOR, BOX)] * 3)).learn(48)
    assert (wider.n_envs, wider.num_timesteps) == (3, 48)
    alone = TRPO.load(tmp_path / "model")
    assert alone.get_env() is None and predictions(alone, VECTOR.sample()).shape == (2,)
    alone.set_env(model.get_env())
    assert alone.learn(32).num_timesteps == 32
    with pytest.raises(ValueError, match="spaces do not match"):
        TRPO.load(tmp_path / "model", env=space_env(VECTOR, spaces.Discrete(2)))
    with pytest.raises(ValueError, match="policy kwargs"):
        TRPO.load(tmp_path / "model", policy_kwargs={"net_arch": [9]})


def test_path_text_open_file_and_buffer(build, bits, tmp_path):
    model = build(KINDS["mlp"])
    buffer = io.BytesIO()
    model.save(tmp_path / "folder" / "by_path")
    model.save(str(tmp_path / "by_text.zip"))
    model.save(buffer)
    buffer.seek(0)
    with open(tmp_path / "by_text.zip", "rb") as file:
        sources = [tmp_path / "folder" / "by_path", str(tmp_path / "by_text"), tmp_path / "by_text.zip", file, buffer]
        for source in sources:
            assert bits(TRPO.load(source).get_parameters()) == bits(model.get_parameters())
    with pytest.raises(FileNotFoundError):
        TRPO.load(tmp_path / "missing")


STORED = {
    "default": {},
    "gsde": {"use_sde": True},
    "schedules": {"critic": "adam", "learning_rate": "lin_0.01", "target_kl": FloatSchedule(0.01)},
}
CONTINUOUS = [name for name, (_, _, action) in KINDS.items() if isinstance(action, spaces.Box)]


@pytest.mark.parametrize(
    ("name", "settings"),
    [(name, settings) for settings in STORED for name in (CONTINUOUS if settings == "gsde" else KINDS)],
)
def test_saved_data_is_json_or_importable(name, settings, build, tmp_path):
    """No code is stored: what is pickled refers to classes by their import paths, so a safe loader could allow them."""
    model = build(KINDS[name], **STORED[settings]).learn(32)
    model.save(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        data = json.loads(archive.read("data"))
        assert {"policy.pth", "policy.optimizer.pth", "pytorch_variables.pth"} <= set(archive.namelist())
    derived = {"actor", "value_function", "_earlier", "_good_statistics"}
    assert ({"rollout_buffer", "policy", "env"} | derived).isdisjoint(data) and derived <= vars(model).keys()
    for attribute, value in data.items():
        if not (isinstance(value, dict) and ":serialized:" in value):
            continue
        text = [
            argument
            for _, argument, _ in pickletools.genops(base64.b64decode(value[":serialized:"]))
            if isinstance(argument, str)
        ]
        assert not [word for word in text if "cloudpickle" in word or word in ("<lambda>", "CodeType", "__main__")], (
            attribute
        )


def test_parameters_can_be_exchanged_between_models(build, kind, bits):
    model, other = build(kind, seed=1).learn(32), build(kind, seed=2)
    assert bits(other.get_parameters()) != bits(model.get_parameters())
    other.set_parameters(model.get_parameters())
    assert bits(other.get_parameters()) == bits(model.get_parameters())
    other.set_parameters({"policy": model.policy.state_dict()}, exact_match=False)
    with pytest.raises(ValueError, match="do not match"):
        other.set_parameters({"policy": model.policy.state_dict()})


@pytest.mark.parametrize("shared", [None, True, False])
@pytest.mark.parametrize(("policy", "name"), [(CnnPolicy, "cnn"), (MultiInputPolicy, "dict")])
def test_policy_alone_keeps_its_kind_of_extractor(policy, name, shared, build, bits, tmp_path):
    settings = {} if shared is None else {"policy_kwargs": {"share_features_extractor": shared}}
    model = build(KINDS[name], **settings).learn(32)
    model.policy.save(tmp_path / "policy")
    loaded = policy.load(tmp_path / "policy", device="cpu")
    assert type(loaded) is policy and loaded.share_features_extractor == bool(shared)
    assert bits(loaded.state_dict()) == bits(model.policy.state_dict())
    observations = model.get_env().reset()
    assert bits(predictions(loaded, observations)) == bits(predictions(model, observations))


def test_normalization_is_saved_beside_the_model(space_env, tiny, bits, tmp_path):
    environment = VecNormalize(DummyVecEnv([partial(space_env, VECTOR, BOX)]))
    model = tiny(environment).learn(64)
    model.save(tmp_path / "model")
    environment.save(str(tmp_path / "normalization.pkl"))
    copy = VecNormalize.load(str(tmp_path / "normalization.pkl"), DummyVecEnv([partial(space_env, VECTOR, BOX)]))
    loaded = TRPO.load(tmp_path / "model", env=copy)
    assert loaded.get_vec_normalize_env() is copy
    train_on(model, 64, seed=9)
    train_on(loaded, 64, seed=9)
    assert bits(loaded.get_parameters()) == bits(model.get_parameters())
    assert bits(vars(copy.obs_rms)) == bits(vars(environment.obs_rms))


def test_save_in_the_middle_of_a_rollout(space_env, tiny, bits, tmp_path):
    def save(variables, _):
        model = variables["self"]
        if model.num_timesteps == 20:
            model.save(tmp_path / "model")
            saved.append(bits(model.get_parameters()))
        return True

    saved = []
    tiny(space_env(VECTOR, BOX)).learn(32, save)
    assert bits(TRPO.load(tmp_path / "model").get_parameters()) == saved[0]


def test_optimizer_of_another_kind_is_kept(build, bits, tmp_path):
    settings = {"policy_kwargs": {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {"momentum": 0.9}}}
    model = build(KINDS["mlp"], **settings).learn(32)
    model.save(Path(tmp_path) / "model")
    loaded = TRPO.load(Path(tmp_path) / "model")
    assert isinstance(loaded.policy.optimizer, torch.optim.SGD)
    assert bits(loaded.get_parameters()) == bits(model.get_parameters())
