"""What is saved comes back bit for bit, trains on as if nothing had happened, and opens models of sb3-contrib."""

import base64
import io
import json
import pickletools
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.trpo.policies import CnnPolicy, MultiInputPolicy

BOX = spaces.Box(-1, 1, (2,))
VECTOR = spaces.Box(-1, 1, (3,))
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
KINDS = {
    "mlp": ("MlpPolicy", VECTOR, BOX),
    "mlp_discrete": ("MlpPolicy", VECTOR, spaces.Discrete(3)),
    "mlp_multi_binary": ("MlpPolicy", VECTOR, spaces.MultiBinary(3)),
    "cnn": ("CnnPolicy", IMAGE, BOX),
    "dict": ("MultiInputPolicy", spaces.Dict(vector=VECTOR, picture=IMAGE), BOX),
}
SMALL = {
    "MlpPolicy": {"net_arch": [8]},
    "CnnPolicy": {"net_arch": [8], "features_extractor_kwargs": {"features_dim": 8}},
    "MultiInputPolicy": {"net_arch": [8], "features_extractor_kwargs": {"cnn_output_dim": 8}},
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture
def build(space_env, tiny):
    """A model of a kind, and with it a way to make its environment."""

    def make(kind, **settings):
        policy, observation_space, action_space = kind
        return tiny(DummyVecEnv([partial(space_env, observation_space, action_space)] * 2), policy, **settings)

    return make


@pytest.fixture
def build_contrib(space_env):
    def make(kind, **settings):
        policy, observation_space, action_space = kind
        environment = DummyVecEnv([partial(space_env, observation_space, action_space)] * 2)
        defaults = {"n_steps": 16, "batch_size": 16, "seed": 0, "device": "cpu", "policy_kwargs": SMALL[policy]}
        return sb3_contrib.TRPO(policy, environment, **(defaults | settings))

    return make


def train_on(model, steps, seed):
    """From the same random numbers and freshly reset environments, which SB3 does not save."""
    model.set_random_seed(seed)
    model.set_env(model.get_env(), force_reset=True)
    return model.learn(steps, reset_num_timesteps=False)


def predictions(model, observations):
    return model.predict(observations, deterministic=True)[0]


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


@pytest.mark.parametrize(
    ("settings"),
    [{}, {"use_sde": True}, {"critic": "adam", "learning_rate": "lin_0.01", "target_kl": FloatSchedule(0.01)}],
    ids=["default", "gsde", "schedules"],
)
def test_saved_data_is_json_or_importable(settings, kind, build, tmp_path):
    """No code is stored: what is pickled refers to classes by their import paths, so a safe loader could allow them."""
    if settings.get("use_sde") and not isinstance(kind[2], spaces.Box):
        pytest.skip("gSDE is for continuous actions")
    model = build(kind, **settings).learn(32)
    model.save(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        data = json.loads(archive.read("data"))
        assert {"policy.pth", "policy.optimizer.pth", "pytorch_variables.pth"} <= set(archive.namelist())
    assert {"actor", "critic_network", "rollout_buffer", "policy", "env", "_normalization"}.isdisjoint(data)
    for name, value in data.items():
        if not (isinstance(value, dict) and ":serialized:" in value):
            continue
        text = [
            argument
            for _, argument, _ in pickletools.genops(base64.b64decode(value[":serialized:"]))
            if isinstance(argument, str)
        ]
        assert not [word for word in text if "cloudpickle" in word or word in ("<lambda>", "CodeType", "__main__")], (
            name
        )


def rewrite(source, target, change):
    """A copy of a zip whose members went through ``change(name, content)``; None leaves one out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)


DAMAGED = {
    "truncated": lambda good: good[: len(good) // 2],
    "last_byte_missing": lambda good: good[:-1],
    "not_a_zip": lambda good: b"this is a text",
    "nothing": lambda good: b"",
    "flipped_late": lambda good: good[:-6000] + bytes(255 - byte for byte in good[-6000:-5900]) + good[-5900:],
    "flipped": lambda good: good[:100] + bytes(255 - byte for byte in good[100:200]) + good[200:],
}


@pytest.mark.parametrize("as_buffer", [False, True], ids=["path", "buffer"])
@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_file_is_refused(damage, as_buffer, build, tmp_path):
    build(KINDS["mlp"]).save(tmp_path / "good")
    content = DAMAGED[damage]((tmp_path / "good.zip").read_bytes())
    path = tmp_path / "bad.zip"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is not a saved model, or is damaged .*Expected a zip file written by TRPO"):
        TRPO.load(io.BytesIO(content) if as_buffer else path)


MEMBERS = {
    "empty": lambda name, content: None,
    "no_data": lambda name, content: None if name == "data" else content,
    "data_is_no_json": lambda name, content: b"{" if name == "data" else content,
    "data_is_a_number": lambda name, content: b"3" if name == "data" else content,
    "no_policy": lambda name, content: None if name == "policy.pth" else content,
    "no_optimizer": lambda name, content: None if name == "policy.optimizer.pth" else content,
}


@pytest.mark.parametrize("member", MEMBERS)
def test_zip_with_the_wrong_members_is_refused(member, build, tmp_path):
    build(KINDS["mlp"]).save(tmp_path / "good")
    rewrite(tmp_path / "good.zip", tmp_path / "bad.zip", MEMBERS[member])
    with pytest.raises(ValueError, match=r"bad.zip is not a saved model, or is damaged"):
        TRPO.load(tmp_path / "bad.zip")


def test_model_of_another_algorithm_is_refused(space_env, tmp_path):
    stable_baselines3.PPO("MlpPolicy", space_env(VECTOR, BOX), n_steps=16, batch_size=16).save(tmp_path / "ppo")
    with pytest.raises(ValueError, match=r"ppo was saved by another algorithm than TRPO. Load it with the class"):
        TRPO.load(tmp_path / "ppo")


@pytest.mark.parametrize("trained", [False, True], ids=["fresh", "trained"])
def test_model_of_sb3_contrib_is_opened_and_trained_on(kind, trained, build_contrib, bits, tmp_path):
    theirs = build_contrib(kind, target_kl=0.02, cg_damping=0.07, gamma=0.95, learning_rate=3e-3)
    if trained:
        theirs.learn(64)
    theirs.save(tmp_path / "model")
    ours = TRPO.load(tmp_path / "model", env=theirs.get_env(), device="cpu")
    assert (ours.kl_reduction, ours.critic) == ("mean", "adam") and isinstance(ours, TRPO)
    for name in ("target_kl", "cg_damping", "gamma", "learning_rate", "n_steps", "num_timesteps", "_n_updates"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert bits(ours.policy.state_dict()) == bits(theirs.policy.state_dict())

    observations = theirs.get_env().reset()
    for deterministic in (True, False):
        actions = []
        for model in (theirs, ours):
            model.set_random_seed(4)
            actions.append(model.predict(observations, deterministic=deterministic)[0])
        assert bits(actions[0]) == bits(actions[1])

    names = {id(parameter): name for name, parameter in ours.policy.named_parameters()}
    of_theirs = dict(theirs.policy.named_parameters())
    assert len(ours.policy.optimizer.state) == (len(ours.actor.critic_parameters()) if trained else 0)
    for parameter, moments in ours.policy.optimizer.state.items():
        assert bits(moments) == bits(theirs.policy.optimizer.state[of_theirs[names[id(parameter)]]])

    before = bits(ours.policy.state_dict())
    ours.learn(64, reset_num_timesteps=False)
    logged = dict(ours.logger.name_to_value)
    assert ours.num_timesteps == 64 * (1 + trained) and bits(ours.policy.state_dict()) != before
    assert logged["train/update_status"] == "accepted" and logged["train/kl_divergence_loss"] <= 0.02

    ours.save(tmp_path / "again")
    again = TRPO.load(tmp_path / "again")
    assert (again.kl_reduction, again.critic) == ("mean", "adam")
    assert bits(again.get_parameters()) == bits(ours.get_parameters())


def test_model_of_sb3_contrib_may_be_given_another_kl(build_contrib, tmp_path):
    build_contrib(KINDS["mlp"]).save(tmp_path / "model")
    loaded = TRPO.load(tmp_path / "model", kl_reduction="sum", target_kl=0.02)
    assert (loaded.kl_reduction, loaded.target_kl) == ("sum", 0.02)


def test_parameters_of_sb3_contrib_can_be_set(build, build_contrib, bits, tmp_path):
    theirs = build_contrib(KINDS["mlp"]).learn(32)
    theirs.save(tmp_path / "model")
    for source in (str(tmp_path / "model"), theirs.get_parameters()):
        ours = build(KINDS["mlp"])
        ours.set_parameters(source, device="cpu")
        assert bits(ours.policy.state_dict()) == bits(theirs.policy.state_dict())
        assert len(ours.policy.optimizer.state) == len(ours.actor.critic_parameters())


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
