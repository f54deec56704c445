"""Units: what ACER learns does not depend on the scale of the rewards."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from sb3_trpo_ext import ACER
from sb3_trpo_ext.acer.scale import past_returns, root_mean_square
from tests.acer.cases import ACTIONS, BOX, DISCRETE, VECTOR, environments, logged


def test_past_returns_are_discounted_sums_since_the_episodes_start():
    rng = np.random.default_rng(0)
    rewards, dones = rng.normal(size=(12, 2)), rng.random((12, 2)) < 0.3
    assert dones.any() and not dones.all()
    found, carried = [], np.zeros(2)
    for part in (slice(0, 5), slice(5, 12)):  # in two rollouts
        returns, carried = past_returns(rewards[part], dones[part], carried, 0.9)
        found.append(returns)
    for b in range(2):
        for t in range(12):
            starts = [u + 1 for u in range(t) if dones[u, b]]
            first = max(starts, default=0)
            expected = sum(0.9 ** (t - u) * rewards[u, b] for u in range(first, t + 1))
            assert np.concatenate(found)[t, b] == pytest.approx(expected)


def test_the_size_of_nothing_is_one():
    assert root_mean_square(0.0, 0) == root_mean_square(0.0, 7) == 1.0
    assert root_mean_square(8.0, 2) == 2.0


class Scaled(gym.RewardWrapper):
    def __init__(self, env, scale):
        super().__init__(env)
        self.scale = scale

    def reward(self, reward):
        return self.scale * reward


def trained(space_env, tiny, action, factor, steps=240, **settings):
    env = environments(lambda *spaces: Scaled(space_env(*spaces), factor), action)
    return tiny(env, **settings).learn(steps)


@pytest.mark.parametrize("factor", [2.0**-7, 2.0**10])
@pytest.mark.parametrize("action", ACTIONS)
def test_the_scale_of_the_rewards_changes_no_bit(action, factor, space_env, tiny, bits):
    """A power of two, which changes no digits of a number."""
    one, other = (trained(space_env, tiny, ACTIONS[action], scale) for scale in (1.0, factor))
    assert logged(one)["n_replays"] > 0 and logged(one)["return_scale"] != 1
    assert bits(one.get_parameters()) == bits(other.get_parameters())
    for name, value in logged(one).items():
        unit = factor if name in ("return_scale", "q_retrace_mean") else 1.0
        assert logged(other)[name] == pytest.approx(unit * value), name


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_a_hundred_times_the_rewards_are_projected_as_often(factor, space_env, tiny):
    fast = {"learning_rate": 0.01}  # or there would be nothing to project
    one, other = (trained(space_env, tiny, DISCRETE, scale, **fast) for scale in (1.0, factor))
    assert logged(one)["projected_share"] > 0
    assert logged(other)["projected_share"] == pytest.approx(logged(one)["projected_share"])
    for parameter, same in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
        torch.testing.assert_close(parameter, same, rtol=1e-3, atol=1e-4)


def test_without_it_the_scale_matters(space_env, tiny, bits):
    one, other = (trained(space_env, tiny, DISCRETE, scale, normalize_returns=False) for scale in (1.0, 4.0))
    assert bits(one.get_parameters()) != bits(other.get_parameters())
    assert logged(other)["return_scale"] == logged(other)["advantage_scale"] == 1.0


def test_the_scale_is_the_root_mean_square_of_the_returns_so_far(space_env, tiny):
    rewards, dones = [], []

    class Noting(gym.Wrapper):
        def step(self, action):
            found = super().step(action)
            rewards.append(found[1])
            dones.append(found[2] or found[3])
            return found

    model = tiny(Noting(space_env(VECTOR, DISCRETE)), gamma=0.9)
    for _ in range(3):  # the running sum goes on from one call to the next
        model.learn(12, reset_num_timesteps=False)
    running, returns = 0.0, []
    for reward, done in zip(rewards, dones, strict=True):
        running = float(np.float32(reward)) + 0.9 * running
        returns.append(running)
        running = 0.0 if done else running
    nonzero = [value for value in returns if value != 0]
    assert model.return_scale == pytest.approx(np.sqrt(np.mean(np.square(nonzero))))


@pytest.mark.parametrize("action", [DISCRETE, BOX], ids=["discrete", "box"])
def test_the_scales_are_saved(action, space_env, tiny, tmp_path):
    model = tiny(space_env(VECTOR, action)).learn(60)
    model.save(tmp_path / "model")
    loaded = ACER.load(tmp_path / "model")
    assert loaded.return_scale == model.return_scale != 1.0
    assert loaded.advantage_scale == model.advantage_scale != 1.0


def test_rewards_of_nothing_but_zero(space_env, tiny):
    figures = logged(trained(space_env, tiny, DISCRETE, 0.0))
    assert figures["return_scale"] == 1.0 and all(np.isfinite(value) for value in figures.values())
    assert figures["skipped_updates"] == 0
