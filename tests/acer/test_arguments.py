"""What each of the constructor's arguments does, seen in what is learned, logged and stored."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from sb3_trpo_ext import ACER
from tests.acer.cases import ACTIONS, VECTOR, logged


def test_without_replay(space_env, tiny):
    model = tiny(space_env(VECTOR, ACTIONS["discrete"]), replay_ratio=0, buffer_size=10**12).learn(60)
    figures = logged(model)
    assert figures["n_updates"] == 10 and figures["n_replays"] == 0 and len(model.replay_buffer) == 0


@pytest.mark.parametrize("rms_prop", [True, False])
def test_the_optimizers_settings_can_be_given(rms_prop, space_env, tiny, tmp_path):
    env, given = space_env(VECTOR, ACTIONS["discrete"]), {"optimizer_kwargs": {"weight_decay": 0.1, "eps": 1e-3}}
    tiny(env, use_rms_prop=rms_prop, policy_kwargs=given).learn(12).save(tmp_path / "model")
    for model in (tiny(env, use_rms_prop=rms_prop, policy_kwargs=given), ACER.load(tmp_path / "model", env=env)):
        group = model.policy.optimizer.param_groups[0]
        assert (group["weight_decay"], group["eps"]) == (0.1, 1e-3)


def test_replays_wait_for_their_start_and_follow_their_mean(space_env, tiny):
    model = tiny(space_env(VECTOR, ACTIONS["discrete"]), replay_ratio=3, replay_start=61, buffer_size=120).learn(60)
    assert logged(model)["n_replays"] == 0 and len(model.replay_buffer) == 60
    model.learn(1800, reset_num_timesteps=False)
    assert logged(model)["n_replays"] / 300 == pytest.approx(3, rel=0.15)


def test_the_average_policy_is_the_running_mean_of_the_policies(space_env, tiny):
    model = tiny(space_env(VECTOR, ACTIONS["box"]), average_policy_decay=0.8, replay_ratio=0)
    expected = [p.detach().clone() for p in model.policy.parameters()]
    for i in range(1, 6):
        model.learn(6, reset_num_timesteps=False)
        assert logged(model)["n_updates"] == i
        expected = [
            0.8 * old + 0.2 * new.detach() for old, new in zip(expected, model.policy.parameters(), strict=True)
        ]
        for mean, parameter in zip(expected, model.average_policy.parameters(), strict=True):
            torch.testing.assert_close(parameter, mean)


@pytest.mark.parametrize("learned", [True, False])
def test_fixed_and_learned_std(learned, space_env, tiny):
    model = tiny(space_env(VECTOR, ACTIONS["box"]), learn_std=learned, policy_kwargs={"log_std_init": -1.0}).learn(60)
    assert bool((model.policy.log_std == -1.0).all()) is not learned


def test_time_limits_are_bootstrapped_and_terminal_states_are_not(tiny):
    class Constant(gym.Env):
        """Reward 1 for ever, in episodes of one step."""

        observation_space, action_space = VECTOR, ACTIONS["discrete"]

        def __init__(self, truncate):
            self.truncate = truncate

        def reset(self, *, seed=None, options=None):
            return np.zeros(3, np.float32), {}

        def step(self, action):
            return np.zeros(3, np.float32), 1.0, not self.truncate, self.truncate, {}

    for truncate, worth in ((False, 1.0), (True, 1 / (1 - 0.9))):
        model = tiny(Constant(truncate), gamma=0.9, learning_rate=3e-3, n_steps=10, buffer_size=100)
        model.learn(10_000)
        value = model.policy.predict_values(torch.zeros(1, 3)).item()
        assert value == pytest.approx(worth, rel=0.15)
