"""What users get wrong is named with its remedy; data that is not finite corrupts nothing, is counted and logged."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_trpo_ext import ACER
from tests.acer.cases import BOX, DISCRETE, VECTOR, logged

WRONG = {
    "learning_rate": [-1.0, "fast", None, float("nan")],
    "n_steps": [0, -1, 2.5, "20", True],
    "replay_ratio": [-1, math.inf, "4"],
    "replay_start": [-1, 1.5],
    "buffer_size": [0, 1e4],
    "gamma": [-0.1, 1.1, math.nan],
    "q_coef": [-0.5],
    "ent_coef": [-0.01, math.inf],
    "max_grad_norm": [0, -1],
    "rms_prop_eps": [0.0],
    "use_rms_prop": ["adam", None],
    "importance_clip": [-1, math.nan, "10"],
    "bias_correction": [None, "no"],
    "trust_region": ["kl", None],
    "trust_region_delta": [-1.0, math.inf],
    "average_policy_decay": [-0.1, 1.5],
    "n_action_samples": [0, 2.0],
    "learn_std": ["yes"],
    "stats_window_size": [0],
    "num_threads": [0, 1.5],
}


@pytest.mark.parametrize("argument, value", [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value_is_named_at_construction(argument, value, space_env, tiny):
    with pytest.raises(ValueError, match=rf"ACER\({argument}=\.\.\.\) must be .*, got {value!r}\. "):
        tiny(space_env(VECTOR, DISCRETE), **{argument: value})


@pytest.mark.parametrize("space", [spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)])
def test_other_action_spaces_are_refused(space, space_env, tiny):
    with pytest.raises(ValueError, match=r"must have a Discrete or Box action space.*use TRPO"):
        tiny(space_env(VECTOR, space))


def test_other_policies_are_refused(space_env):
    with pytest.raises(ValueError, match=r"ACER\(policy=\.\.\.\) must be one of MlpPolicy.*critic must rate actions"):
        ACER(ActorCriticPolicy, space_env(VECTOR, DISCRETE))
    with pytest.raises(ValueError, match="no state-dependent exploration"):
        ACER("MlpPolicy", space_env(VECTOR, BOX), policy_kwargs={"use_sde": True})


def test_replay_that_would_never_start_is_refused(space_env, tiny):
    with pytest.raises(ValueError, match=r"replay_start=.*got 61.*buffer_size=60 that is 60 steps.*replay_ratio=0"):
        tiny(space_env(VECTOR, DISCRETE), replay_start=61)
    with pytest.raises(ValueError, match=r"got 60.*buffer_size=65 that is 56 steps.*n_steps × n_envs = 14"):
        tiny(DummyVecEnv([lambda: space_env(VECTOR, DISCRETE)] * 2), n_steps=7, buffer_size=65, replay_start=60)
    tiny(space_env(VECTOR, DISCRETE), replay_start=61, replay_ratio=0)


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
