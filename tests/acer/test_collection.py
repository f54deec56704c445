"""What a rollout gives: sequences as the policy saw them, and as the environments gave them."""

from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecFrameStack,
    VecNormalize,
)

from tests.acer.cases import ACTIONS, VECTOR, environments, logged


def test_observations_changed_after_normalisation_are_stored_as_seen(space_env, tiny):
    env = VecFrameStack(VecNormalize(environments(space_env, ACTIONS["discrete"])), 2)
    with pytest.warns(UserWarning, match="Put VecNormalize outermost"):
        model = tiny(env)
    model.learn(48)
    assert logged(model)["n_replays"] > 0


def test_what_is_stored_is_not_normalised_and_is_normalised_when_drawn(space_env, tiny):
    class Recorder(gym.Wrapper):
        def __init__(self, env):
            super().__init__(env)
            self.seen, self.rewards, self.final = [], [], []

        def reset(self, **kwargs):
            observation, info = self.env.reset(**kwargs)
            self.seen.append(observation)
            return observation, info

        def step(self, action):
            observation, reward, terminated, truncated, info = self.env.step(action)
            (self.final if truncated else self.seen).append(observation)
            self.rewards.append(reward)
            return observation, reward, terminated, truncated, info

    recorder = Recorder(space_env(VECTOR, ACTIONS["discrete"], length=4))
    env = VecNormalize(DummyVecEnv([lambda: recorder]))
    model = tiny(env, buffer_size=10**4).learn(60)
    buffer = model.replay_buffer
    stored = [buffer.get(np.array([slot])) for slot in range(buffer.n_stored)]
    np.testing.assert_array_equal(np.concatenate([s.rewards[:, 0] for s in stored]), np.float32(recorder.rewards))
    np.testing.assert_array_equal(np.concatenate([s.observations[:-1, 0] for s in stored]), recorder.seen[:60])
    for one, other in pairwise(stored):
        np.testing.assert_array_equal(one.observations[-1], other.observations[0])
    final = [t.observation for s in stored for t in s.timeouts]
    np.testing.assert_allclose(final, recorder.final, rtol=1e-4, atol=1e-5)

    np.random.seed(0)
    raw = buffer.sample()
    np.random.seed(0)
    drawn = buffer.sample(env)
    np.testing.assert_allclose(drawn.observations, env.normalize_obs(raw.observations))
    np.testing.assert_allclose(drawn.rewards, env.normalize_reward(raw.rewards), rtol=1e-6)


def test_behaviour_statistics_are_those_of_the_policy_that_acted(space_env, tiny):
    """On the rollout just collected the importance weights are exactly 1."""
    for action in ACTIONS:
        model = tiny(VecNormalize(environments(space_env, ACTIONS[action])), replay_ratio=0).learn(24)
        values = model.logger.name_to_value
        assert values["train/importance_weight_mean"] == pytest.approx(1, abs=1e-5)
        assert values["train/importance_weight_max"] == pytest.approx(1, abs=1e-4)
