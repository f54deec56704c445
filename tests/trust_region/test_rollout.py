"""SB3's rollout buffers, read once."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy, MultiInputActorCriticPolicy

from sb3_trpo_ext.trust_region.advantages import critic_targets
from sb3_trpo_ext.trust_region.heads import Heads
from sb3_trpo_ext.trust_region.rollout import Rollout

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


def heads_for(buffer):
    kind = MultiInputActorCriticPolicy if isinstance(buffer.observation_space, spaces.Dict) else ActorCriticPolicy
    return Heads(kind(buffer.observation_space, buffer.action_space, lambda _: 1e-3))


def rollout_of(buffer, *last):
    return Rollout.of(buffer, heads_for(buffer), *last)


def expected_numbers(n_envs):
    return torch.tensor([10.0 * e + t for e in range(n_envs) for t in range(STEPS)])


@pytest.mark.parametrize("used_before", [False, True])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_order_is_environment_by_environment_in_time(n_envs, used_before):
    buffer = filled(n_envs)
    advantages, returns = buffer.advantages.T.flatten().copy(), buffer.returns.T.flatten().copy()
    if used_before:
        list(buffer.get(2))
    batch, numbers = rollout_of(buffer).batch(), expected_numbers(n_envs)
    assert torch.equal(batch.inputs.observations, numbers[:, None].expand(-1, 2))
    assert torch.equal(batch.actions, numbers[:, None].expand(-1, 2) + 100)
    assert torch.equal(batch.advantages, torch.tensor(advantages))
    assert torch.equal(batch.returns, torch.tensor(returns))
    assert torch.equal(batch.values, numbers + 0.5)
    assert batch.behaviour_log_prob is None
    # The last step of each environment: reward − value, as the value after it is 0 and no episode ended before.
    assert torch.equal(batch.advantages[STEPS - 1 :: STEPS], torch.full((n_envs,), 999.5))


def test_dictionaries():
    inputs, numbers = rollout_of(filled(2, DICT)).inputs, expected_numbers(2)
    assert torch.equal(inputs.observations["one"], numbers[:, None].expand(-1, 2))
    assert torch.equal(inputs.observations["two"], -numbers[:, None].expand(-1, 3))


def test_discrete_actions_keep_their_column():
    rollout = rollout_of(filled(2, action_space=spaces.Discrete(3)))
    assert torch.equal(rollout.actions, expected_numbers(2)[:, None] % 3)


def test_the_buffer_can_still_be_read_afterwards():
    buffer = filled(2)
    rollout = rollout_of(buffer)
    again = torch.cat([samples.returns for samples in buffer.get(3)])
    assert sorted(again.tolist()) == sorted(rollout.returns.tolist())
    assert torch.equal(rollout_of(buffer).returns, rollout.returns)


@pytest.mark.parametrize("n_envs", [1, 2])
def test_it_shares_no_memory_with_the_buffer(n_envs):
    """Which may be filled again while the rollout is still learnt from."""
    buffer = filled(n_envs)
    rollout = rollout_of(buffer, np.zeros((n_envs, 2), np.float32), np.zeros(n_envs))
    parts = [getattr(rollout, name) for name in ("actions", "advantages", "returns", "values", "rewards")]
    parts += [rollout.inputs.observations, rollout.last_inputs.observations]
    before = [part.clone() for part in parts]
    for array in (buffer.observations, buffer.actions, buffer.advantages, buffer.returns, buffer.values):
        array.fill(-1)
    buffer.rewards.fill(-1)
    assert all(torch.equal(part, old) for part, old in zip(parts, before, strict=True))


def test_rewards_and_ends_are_by_step_and_environment():
    buffer = filled(2)
    buffer.episode_starts[3, 1] = 1
    last = np.array([[7.0, 7.0], [8.0, 8.0]], np.float32)
    rollout = rollout_of(buffer, last, np.array([True, False]))
    assert torch.equal(rollout.rewards, torch.tensor(buffer.rewards))
    ends = torch.zeros(STEPS, 2, dtype=torch.bool)
    ends[2, 1] = ends[-1, 0] = True  # the step before a start; and what the last step said
    assert torch.equal(rollout.ends, ends)
    assert torch.equal(rollout.last_inputs.observations, torch.tensor(last))


def test_without_a_last_step_nothing_is_claimed_about_it():
    rollout = rollout_of(filled(2))
    assert rollout.ends is None and rollout.last_inputs is None


def test_random_numbers_go_on_as_after_sb3s_own_reading():
    """Which draws an order of the samples: the critic's minibatches stay the same."""
    ours, theirs = filled(2), filled(2)
    np.random.seed(0)
    rollout_of(ours)
    after_ours = np.random.randint(10**9)
    np.random.seed(0)
    next(theirs.get())
    assert np.random.randint(10**9) == after_ours


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["actions", "advantages", "returns", "observations"])
def test_not_finite_names_the_part(part, bad):
    buffer = filled(2)
    assert rollout_of(buffer).not_finite() == []
    getattr(buffer, part)[-1, -1] = bad
    assert rollout_of(buffer).not_finite() == [part]


def test_not_finite_names_the_key_of_a_dictionary():
    buffer = filled(2, DICT)
    buffer.observations["two"][0, 0, 0] = np.nan
    buffer.advantages[2, 1] = np.inf
    assert rollout_of(buffer).not_finite() == ["advantages", "observations['two']"]


def test_the_critics_lambda_changes_the_returns_alone():
    buffer = filled(2)
    policys, critics = rollout_of(buffer).batch(), rollout_of(buffer, None, None, 0.5).batch()
    np.testing.assert_array_equal(critics.returns, critic_targets(buffer, 0.5).T.flatten())
    assert not torch.allclose(critics.returns, policys.returns)
    assert torch.equal(critics.advantages, policys.advantages)
