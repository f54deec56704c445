"""Rollout buffers as flat batches."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer

from sb3_trpo_ext.common.batch import Batch, full_batch
from sb3_trpo_ext.common.observations import every, finite

STEPS = 5
VECTOR = spaces.Box(-np.inf, np.inf, (2,))
DICT = spaces.Dict({"one": VECTOR, "two": spaces.Box(-np.inf, np.inf, (3,))})


def filled(n_envs, observation_space=VECTOR, action_space=None):
    """A full buffer in which step t of environment e carries the number 10 e + t wherever it can."""
    action_space = action_space or spaces.Box(-np.inf, np.inf, (2,))
    kind = DictRolloutBuffer if isinstance(observation_space, spaces.Dict) else RolloutBuffer
    buffer = kind(STEPS, observation_space, action_space, "cpu", gae_lambda=0.9, gamma=0.8, n_envs=n_envs)
    for t in range(STEPS):
        number = 10.0 * np.arange(n_envs) + t

        def rows(width, number=number):
            return np.repeat(number[:, None], width, axis=1)

        observation = {"one": rows(2), "two": -rows(3)} if kind is DictRolloutBuffer else rows(2)
        action = number % 3 if isinstance(action_space, spaces.Discrete) else rows(2) + 100
        value, log_prob = torch.tensor(number + 0.5), torch.tensor(-number)
        buffer.add(observation, action, number + 1000, np.zeros(n_envs), value, log_prob)
    buffer.compute_returns_and_advantage(torch.zeros(n_envs), np.zeros(n_envs))
    return buffer


def expected_numbers(n_envs):
    return torch.tensor([10.0 * e + t for e in range(n_envs) for t in range(STEPS)])


def batch_of(advantages, **parts):
    advantages = torch.tensor(advantages)
    n = len(advantages)
    shapes = {"observations": (n, 2), "actions": (n, 1), "returns": (n,), "values": (n,)}
    return Batch(**({part: torch.zeros(shape) for part, shape in shapes.items()} | {"advantages": advantages} | parts))


@pytest.mark.parametrize("used_before", [False, True])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_order_is_environment_by_environment_in_time(n_envs, used_before):
    buffer = filled(n_envs)
    advantages, returns = buffer.advantages.T.flatten().copy(), buffer.returns.T.flatten().copy()
    if used_before:
        list(buffer.get(2))
    batch, numbers = full_batch(buffer), expected_numbers(n_envs)
    assert torch.equal(batch.observations, numbers[:, None].expand(-1, 2))
    assert torch.equal(batch.actions, numbers[:, None].expand(-1, 2) + 100)
    assert torch.equal(batch.advantages, torch.tensor(advantages))
    assert torch.equal(batch.returns, torch.tensor(returns))
    assert torch.equal(batch.values, numbers + 0.5)
    # The last step of each environment: reward − value, as the value after it is 0 and no episode ended before.
    assert torch.equal(batch.advantages[STEPS - 1 :: STEPS], torch.full((n_envs,), 999.5))


def test_dictionaries():
    batch, numbers = full_batch(filled(2, DICT)), expected_numbers(2)
    assert torch.equal(batch.observations["one"], numbers[:, None].expand(-1, 2))
    assert torch.equal(batch.observations["two"], -numbers[:, None].expand(-1, 3))


def test_discrete_actions_keep_their_column():
    batch = full_batch(filled(2, action_space=spaces.Discrete(3)))
    assert torch.equal(batch.actions, expected_numbers(2)[:, None] % 3)


def test_the_buffer_can_still_be_read_afterwards():
    buffer = filled(2)
    batch = full_batch(buffer)
    again = torch.cat([samples.returns for samples in buffer.get(3)])
    assert sorted(again.tolist()) == sorted(batch.returns.tolist())
    assert torch.equal(full_batch(buffer).returns, batch.returns)


@pytest.mark.parametrize("k", [1, 2, 3, 100])
@pytest.mark.parametrize("space", [VECTOR, DICT], ids=["vector", "dict"])
def test_every_kth(space, k):
    batch, numbers = full_batch(filled(2, space)), expected_numbers(2)[::k]
    thinned = batch.every(k)
    first = thinned.observations["one"] if space is DICT else thinned.observations
    assert torch.equal(first[:, 0], numbers)
    assert torch.equal(thinned.actions[:, 0], numbers + 100)
    assert torch.equal(thinned.advantages, batch.advantages[::k])
    assert torch.equal(thinned.returns, batch.returns[::k])
    assert torch.equal(thinned.values, batch.values[::k])
    observations = every(batch.observations, k)
    assert torch.equal((observations["two"] if space is DICT else -observations)[:, 0], -numbers)


@pytest.mark.parametrize("scale, shift", [(1.0, 0.0), (1e-3, 0.0), (1e4, -1e4), (1e30, 0.0), (1e-30, 0.0)])
def test_normalized(scale, shift):
    advantages = (shift + scale * torch.randn(1000, dtype=torch.float64)).tolist()
    batch = batch_of(advantages)
    result = batch.normalized()
    expected = (np.array(advantages) - np.mean(advantages)) / np.std(advantages, ddof=1)
    np.testing.assert_allclose(result.advantages.numpy(), expected, rtol=1e-3, atol=1e-3)
    assert result.observations is batch.observations and result.returns is batch.returns
    assert batch.advantages.tolist() == torch.tensor(advantages).tolist(), "the batch itself stays"


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1 / 3, 1e6, 1e-30, 123456.789])
@pytest.mark.parametrize("n", [2, 7, 2048])
def test_equal_advantages_become_exactly_zero(value, n):
    assert batch_of([value] * n).normalized().advantages.tolist() == [0.0] * n


def test_rounding_noise_is_not_blown_up():
    value = np.float32(0.1)
    noisy = [float(value), float(np.nextafter(value, np.float32(1)))] * 50
    assert batch_of(noisy).normalized().advantages.tolist() == [0.0] * 100


def test_single_outlier():
    result = batch_of([0.0] * 99 + [1e6]).normalized().advantages
    assert float(result.std()) == pytest.approx(1, rel=1e-5)
    assert float(result.mean()) == pytest.approx(0, abs=1e-5)
    assert float(result[-1]) == pytest.approx(9.9, rel=1e-3)
    assert torch.equal(result[:-1], result[:1].expand(99))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("part", ["actions", "advantages", "returns", "observations"])
def test_not_finite_names_the_part(part, bad):
    batch = batch_of([0.0] * 4)
    assert batch.not_finite() == []
    getattr(batch, part).view(-1)[-1] = bad
    assert batch.not_finite() == [part]


def test_not_finite_names_the_key_of_a_dictionary():
    observations = {"good": torch.zeros(2, 1), "bad": torch.tensor([[0.0], [torch.nan]])}
    batch = batch_of([0.0, torch.inf], observations=observations)
    assert sorted(batch.not_finite()) == ["advantages", "observations['bad']"]


def test_images_are_finite():
    assert batch_of([0.0], observations=torch.zeros(1, 3, 4, 4, dtype=torch.uint8)).not_finite() == []


def test_finite_puts_zeros_in_the_place_of_what_is_not():
    bad = torch.tensor([1.0, torch.nan, torch.inf, -torch.inf])
    assert finite(bad).tolist() == [1, 0, 0, 0]
    assert finite({"a": bad})["a"].tolist() == [1, 0, 0, 0]
    assert bad.isnan().any(), "the tensor itself stays"
