"""What is saved comes back: models, replay buffers, policies; and what may be changed when loading."""

import json
import zipfile

import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import (
    VecNormalize,
)

from sb3_trpo_ext import ACER
from tests.acer.cases import ACTIONS, VECTOR, environments, logged


@pytest.mark.parametrize("action", ACTIONS)
def test_resumed_training_is_uninterrupted_training(action, space_env, tiny, bits, tmp_path):
    """With the replay buffer and the average policy saved beside the model; the environment starts an episode anew."""

    def continued(model):
        model.set_env(environments(space_env, ACTIONS[action]))
        model.get_env().seed(3)
        model.set_random_seed(3)
        model.env.action_space.seed(3)
        return bits(model.learn(72, reset_num_timesteps=False).get_parameters())

    model = tiny(environments(space_env, ACTIONS[action]), buffer_size=10**4).learn(72)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "replay_buffer.pkl")
    loaded = ACER.load(tmp_path / "model", environments(space_env, ACTIONS[action]), device="cpu")
    assert len(loaded.replay_buffer) == 0
    loaded.load_replay_buffer(tmp_path / "replay_buffer.pkl", truncate_last_traj=True)
    assert continued(loaded) == continued(model)


def test_resumed_training_with_normalisation(space_env, tiny, bits, tmp_path):
    """Time limits' observations come back from the disk as they were, bit for bit."""

    def continued(model):
        model.set_random_seed(3)
        model._last_obs = None
        return bits(model.learn(72, reset_num_timesteps=False).get_parameters())

    env = VecNormalize(environments(space_env, ACTIONS["box"]))
    model = tiny(env, buffer_size=10**4).learn(72)
    stored = [model.replay_buffer.get(np.full(2, slot)) for slot in range(model.replay_buffer.n_stored)]
    assert any(sequences.timeouts for sequences in stored)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    env.save(tmp_path / "env")
    resumed = VecNormalize.load(str(tmp_path / "env"), environments(space_env, ACTIONS["box"]))
    loaded = ACER.load(tmp_path / "model", resumed, device="cpu")
    loaded.load_replay_buffer(tmp_path / "buffer")
    resumed.returns = env.returns.copy()
    assert continued(loaded) == continued(model)


def test_a_standard_deviation_that_is_no_longer_learned_is_the_averages_too(space_env, tiny, tmp_path):
    env = space_env(VECTOR, ACTIONS["box"])
    model = tiny(env, learn_std=True, learning_rate=0.01).learn(60)
    assert not torch.equal(model.policy.log_std, model.average_policy.log_std)
    model.save(tmp_path / "model")
    loaded = ACER.load(tmp_path / "model", env=env, device="cpu", learn_std=False)
    assert torch.equal(loaded.policy.log_std, model.policy.log_std)
    assert torch.equal(loaded.average_policy.log_std, loaded.policy.log_std)


def test_the_average_policy_is_saved_and_lags_behind(space_env, tiny, tmp_path, bits):
    model = tiny(space_env(VECTOR, ACTIONS["discrete"]), learning_rate=0.01).learn(60)
    model.save(tmp_path / "model")
    parameters = ACER.load(tmp_path / "model", device="cpu").get_parameters()
    assert bits(parameters["average_policy"]) == bits(model.get_parameters()["average_policy"])
    assert bits(parameters["average_policy"]) != bits(parameters["policy"])
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        assert not {"replay_buffer", "_learner", "average_policy"} & set(json.loads(archive.read("data")))


def test_settings_can_be_replaced_when_loading(space_env, tiny, tmp_path):
    env = space_env(VECTOR, ACTIONS["discrete"])
    model = tiny(env).learn(12)
    before = logged(model)["n_replays"]
    model.save(tmp_path / "model")
    model = ACER.load(tmp_path / "model", env=env, trust_region=False, importance_clip=2.0, replay_ratio=0)
    model.learn(12, reset_num_timesteps=False)
    figures = logged(model)
    assert figures["n_replays"] == before and "projected_share" not in figures and model.importance_clip == 2.0


def test_files_of_versions_without_units_keep_their_meaning(space_env, tiny, tmp_path, bits):
    """They say nothing of units; their critic, δ and the entropy's weight are in units of the rewards."""
    env = space_env(VECTOR, ACTIONS["discrete"])
    old = tiny(env, normalize_returns=False, trust_region_metric="euclidean", use_rms_prop=True).learn(12)
    old.save(tmp_path / "new.zip")
    settings = ("normalize_returns", "trust_region_metric")
    with zipfile.ZipFile(tmp_path / "new.zip") as new, zipfile.ZipFile(tmp_path / "old.zip", "w") as older:
        for name in new.namelist():
            content = new.read(name)
            if name == "data":
                data = json.loads(content)
                for later in (*settings, "_return_squares", "_n_returns", "_advantage_square"):
                    del data[later]
                content = json.dumps(data).encode()
            older.writestr(name, content)
    model = ACER.load(tmp_path / "old.zip", env=env, device="cpu")
    assert (model.normalize_returns, model.trust_region_metric, model.use_rms_prop) == (False, "euclidean", True)
    assert model.return_scale == model.advantage_scale == 1.0
    assert bits(model.get_parameters()) == bits(old.get_parameters())
    model.learn(12, reset_num_timesteps=False)
    assert ACER.load(tmp_path / "old.zip", normalize_returns=True).normalize_returns
