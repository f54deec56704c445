"""Data that is not finite corrupts nothing, is counted and logged; a file of another algorithm is named."""

import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_trpo_ext import ACER
from tests.acer.cases import BOX, DISCRETE, VECTOR, logged


@pytest.mark.parametrize("action", [DISCRETE, BOX])
@pytest.mark.parametrize("kind", ["observation", "reward"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("step", [1, 9])
@pytest.mark.parametrize("normalize", [False, True])
def test_bad_data_skips_one_update_and_is_not_stored(action, kind, value, step, normalize, space_env, tiny, bits):
    env = DummyVecEnv([lambda: space_env(VECTOR, action, bad={step: (kind, value)})])
    model = tiny(VecNormalize(env) if normalize else env, buffer_size=10**4)
    rollout = (step - 1) // 6  # the one that goes wrong
    before = bits(model.get_parameters())
    if rollout:
        model.learn(6 * rollout)
        before = bits(model.get_parameters())
    with pytest.warns(UserWarning, match=rf"NaN or infinity in its .*{kind}"):
        model.learn(6, reset_num_timesteps=not rollout)
    assert bits(model.get_parameters()) == before
    assert logged(model)["skipped_updates"] == 1
    model.learn(60, reset_num_timesteps=False)
    assert bits(model.get_parameters()) != before
    assert all(bool(torch.isfinite(p).all()) for p in [*model.policy.parameters(), *model.average_policy.parameters()])
    for slot in range(model.replay_buffer.n_stored):
        assert model.replay_buffer.get(np.array([slot])).not_finite() == []
    assert logged(model)["n_replays"] > 0 and logged(model)["skipped_updates"] <= 2


@pytest.mark.parametrize("action", [DISCRETE, BOX])
def test_a_gradient_that_overflows_is_not_applied(action, space_env, tiny, bits):
    model = tiny(space_env(VECTOR, action, scale=1e30), replay_ratio=0)
    before = bits(model.get_parameters())
    with pytest.warns(UserWarning, match="Gradient skipped: it is not finite"):
        model.learn(12)
    assert bits(model.get_parameters()) == before and logged(model)["skipped_updates"] > 0


def test_loading_another_algorithms_file_is_said(space_env, tiny, tmp_path):
    from sb3_trpo_ext import TRPO

    TRPO("MlpPolicy", space_env(VECTOR, DISCRETE), n_steps=16).save(tmp_path / "trpo")
    with pytest.raises(ValueError, match=r"saved by another algorithm than ACER"):
        ACER.load(tmp_path / "trpo")
