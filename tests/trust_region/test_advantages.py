"""Advantages and targets against those of SB3's loop."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_trpo_ext.trust_region.advantages import compute_advantages, critic_targets, has_sb3s_advantages

VECTOR = spaces.Box(-np.inf, np.inf, (2,))


def buffer_with(gae_lambda, T=40, E=3, kind=RolloutBuffer, gamma=0.95):
    """A full buffer with episodes of all lengths; what belongs to the state after it."""
    rng = np.random.default_rng(T + 100 * E)
    buffer = kind(T, VECTOR, VECTOR, "cpu", gae_lambda=gae_lambda, gamma=gamma, n_envs=E)
    buffer.rewards[:], buffer.values[:] = rng.normal(3, 1, (T, E)), rng.normal(3, 2, (T, E))
    buffer.episode_starts[:] = rng.random((T, E)) < 0.2
    buffer.pos, buffer.full = T, True
    return buffer, torch.as_tensor(rng.normal(size=E).astype(np.float32)), rng.random(E) < 0.5


@pytest.mark.parametrize("gae_lambda", [0.0, 0.9, 1.0])
@pytest.mark.parametrize(("T", "E"), [(1, 1), (2, 1), (40, 3), (257, 2)])
def test_advantages_and_returns_are_sb3s(T, E, gae_lambda):
    ours, last_values, ends = buffer_with(gae_lambda, T, E)
    theirs, _, _ = buffer_with(gae_lambda, T, E)
    compute_advantages(ours, last_values, ends)
    theirs.compute_returns_and_advantage(last_values, ends)
    for name in ("advantages", "returns"):
        one, other = getattr(ours, name), getattr(theirs, name)
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_a_buffer_of_another_kind_computes_its_own():
    class Doubled(RolloutBuffer):
        def compute_returns_and_advantage(self, last_values, dones):
            super().compute_returns_and_advantage(last_values, dones)
            self.advantages *= 2

    ours, last_values, ends = buffer_with(0.9, kind=Doubled)
    plain, _, _ = buffer_with(0.9)
    assert has_sb3s_advantages(plain) and not has_sb3s_advantages(ours)
    compute_advantages(ours, last_values, ends)
    compute_advantages(plain, last_values, ends)
    np.testing.assert_allclose(ours.advantages, 2 * plain.advantages, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("used_before", [False, True])
@pytest.mark.parametrize("critics", [0.0, 0.6, 0.9, 1.0])
def test_targets_with_another_lambda_are_those_of_a_buffer_with_that_lambda(critics, used_before):
    (policys, last_values, ends), (other, _, _) = buffer_with(0.9), buffer_with(critics)
    policys.compute_returns_and_advantage(last_values, ends)
    other.compute_returns_and_advantage(last_values, ends)
    expected = other.returns
    if used_before:
        list(policys.get(7))
        expected = expected.T.reshape(-1, 1)
    targets = critic_targets(policys, critics)
    assert targets.shape == policys.returns.shape
    np.testing.assert_allclose(targets, expected, rtol=1e-4)
