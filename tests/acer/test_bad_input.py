"""Data that is not finite corrupts nothing, is counted and logged; a file of another algorithm is named."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_trpo_ext import ACER
from sb3_trpo_ext.acer.buffer import Sequences
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


class Wide(gym.Env):
    """Observations in float64, one of which has no place in float32; nothing else is bad."""

    def __init__(self, action_space, as_dict, wide_at, length):
        vector = spaces.Box(-np.inf, np.inf, (3,), np.float64)
        self.observation_space = spaces.Dict(vector=vector) if as_dict else vector
        self.action_space, self.as_dict, self.wide_at, self.length = action_space, as_dict, wide_at, length
        self.seen = self.now = 0

    def observe(self):
        wide = self.seen == self.wide_at
        vector = np.array([1e300, -1e300, 0.0]) if wide else np.random.default_rng(self.seen).normal(size=3)
        self.seen += 1
        return {"vector": vector} if self.as_dict else vector

    def reset(self, *, seed=None, options=None):
        self.now = 0
        return self.observe(), {}

    def step(self, action):
        assert np.isfinite(action).all()
        self.now += 1
        return self.observe(), 1.0, False, self.now >= self.length, {}


@pytest.mark.parametrize("action", [DISCRETE, BOX])
@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize("normalize, wide_at", [(False, 0), (False, 3), (False, 5), (True, 0), (True, 3)])
def test_observations_beyond_float32_are_named_and_skip_an_update(action, as_dict, normalize, wide_at, tiny, bits):
    """Finite as float64, infinite to the policy. Observation 5 is the last one of an episode."""
    env = DummyVecEnv([lambda: Wide(action, as_dict, wide_at, length=5)])
    model = tiny(VecNormalize(env) if normalize else env, "MultiInputPolicy" if as_dict else "MlpPolicy")
    before = bits(model.get_parameters())
    name = r"observations\['vector'\]" if as_dict else "observations"
    with pytest.warns(UserWarning, match=rf"holds NaN or infinity in its {name} \(beyond float32\)\. The"):
        model.learn(6)
    assert bits(model.get_parameters()) == before and logged(model)["skipped_updates"] == 1
    assert len(model.replay_buffer) == 0
    model.learn(24, reset_num_timesteps=False)
    assert bits(model.get_parameters()) != before and logged(model)["skipped_updates"] == 1


def test_what_follows_from_bad_observations_is_not_named_besides_them():
    wide, step = np.full((3, 1, 2), 1e300), np.full((2, 1), np.nan)
    sequences = Sequences(wide, step, np.ones((2, 1)), np.full((2, 1, 2), np.nan), np.zeros((2, 1), bool))
    assert sequences.not_finite() == ["observations (beyond float32)"]
    sequences.rewards[0] = np.nan
    sequences.observations[0] = np.nan
    assert sequences.not_finite() == ["observations", "rewards"]
    sequences.observations[:] = -3e38
    assert sequences.not_finite() == ["rewards", "actions", "statistics"]


@pytest.mark.parametrize("action", [DISCRETE, BOX])
def test_a_gradient_that_overflows_is_not_applied(action, space_env, tiny, bits):
    raw = {"normalize_observations": False}
    model = tiny(space_env(VECTOR, action, scale=1e30), replay_ratio=0, policy_kwargs=raw, normalize_returns=False)
    before = bits(model.get_parameters())
    with pytest.warns(UserWarning, match="Gradient skipped: it is not finite"):
        model.learn(12)
    assert bits(model.get_parameters()) == before and logged(model)["skipped_updates"] > 0


def test_loading_another_algorithms_file_is_said(space_env, tiny, tmp_path):
    from sb3_trpo_ext import TRPO

    TRPO("MlpPolicy", space_env(VECTOR, DISCRETE), n_steps=16).save(tmp_path / "trpo")
    with pytest.raises(ValueError, match=r"saved by another algorithm than ACER"):
        ACER.load(tmp_path / "trpo")
