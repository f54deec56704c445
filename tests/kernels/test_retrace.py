"""Retrace against its definition as a sum over paths, and against the identities it has to fulfil on-policy."""

import numpy as np
import pytest
import torch

from sb3_trpo_ext.kernels.retrace import retrace, uncorrected

GAMMA = 0.9


def make(T=7, B=4, seed=0, ends=0.3):
    """Random (rewards, q, v, traces, ends, bootstraps) in float64."""
    torch.manual_seed(seed)
    rewards, q, v, bootstraps = torch.randn(4, T, B, dtype=torch.float64)
    return rewards, q, v, torch.rand(T, B, dtype=torch.float64), torch.rand(T, B) < ends, bootstraps


def by_definition(rewards, q, v, traces, ends, bootstraps, gamma):
    """Q(x_t, a_t) + Σ_s γ^{s−t} (Π_{i=t+1..s} ρ̄_i) δ_s with δ_s = r_s + γ V(x_{s+1}) − Q(x_s, a_s): Munos, eq. 3."""
    T, B = rewards.shape
    result = torch.zeros_like(rewards)
    for b in range(B):
        for t in range(T):
            total, weight = float(q[t, b]), 1.0
            for s in range(t, T):
                if s > t:
                    weight *= gamma * float(traces[s, b])
                last = s == T - 1 or bool(ends[s, b])
                following = float(bootstraps[s, b]) if last else float(v[s + 1, b])
                total += weight * (float(rewards[s, b]) + gamma * following - float(q[s, b]))
                if last:
                    break
            result[t, b] = total
    return result


@pytest.mark.parametrize("T, B", [(1, 1), (1, 3), (2, 1), (7, 4), (20, 2)])
@pytest.mark.parametrize("ends", [0.0, 0.3, 1.0])
def test_equals_the_definition(T, B, ends):
    parts = make(T, B, ends=ends)
    torch.testing.assert_close(retrace(*parts, GAMMA), by_definition(*parts, GAMMA))


def test_uncorrected_has_traces_of_one():
    rewards, q, v, traces, ends, bootstraps = make()
    expected = by_definition(rewards, q, v, torch.ones_like(traces), ends, bootstraps, GAMMA)
    torch.testing.assert_close(uncorrected(rewards, q, v, ends, bootstraps, GAMMA), expected)


def test_on_policy_with_v_for_q_it_is_the_n_step_return():
    rewards, _, v, _, ends, bootstraps = make()
    targets = uncorrected(rewards, v, v, ends, bootstraps, GAMMA)
    following = torch.zeros(rewards.shape[1], dtype=torch.float64)
    for t in reversed(range(len(rewards))):
        last = ends[t] | torch.tensor(t == len(rewards) - 1)
        following = rewards[t] + GAMMA * torch.where(last, bootstraps[t], following)
        torch.testing.assert_close(targets[t], following)


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
def test_with_constant_traces_and_v_for_q_the_advantage_is_gae(lam):
    rewards, _, v, _, ends, bootstraps = make()
    advantages = retrace(rewards, v, v, torch.full_like(v, lam), ends, bootstraps, GAMMA) - v
    ahead = torch.zeros(rewards.shape[1], dtype=torch.float64)
    for t in reversed(range(len(rewards))):
        last = ends[t] | torch.tensor(t == len(rewards) - 1)
        following = bootstraps[t] if t == len(rewards) - 1 else torch.where(last, bootstraps[t], v[t + 1])
        ahead = rewards[t] + GAMMA * following - v[t] + GAMMA * lam * torch.where(last, 0.0, ahead)
        torch.testing.assert_close(advantages[t], ahead)


def test_traces_of_zero_look_one_step_ahead():
    rewards, q, v, traces, ends, bootstraps = make(ends=0.0)
    targets = retrace(rewards, q, v, torch.zeros_like(traces), ends, bootstraps, GAMMA)
    torch.testing.assert_close(targets[:-1], rewards[:-1] + GAMMA * v[1:])
    torch.testing.assert_close(targets[-1], rewards[-1] + GAMMA * bootstraps[-1])


def test_the_true_q_of_a_deterministic_chain_is_a_fixed_point():
    rewards = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    truth = torch.tensor([[1 + 0.9 * 2 + 0.81 * 3], [2 + 0.9 * 3], [3.0]], dtype=torch.float64)
    ends = torch.tensor([[False], [False], [True]])
    for traces in (torch.zeros_like(rewards), torch.ones_like(rewards), torch.rand_like(rewards)):
        targets = retrace(rewards, truth, truth, traces, ends, torch.zeros_like(rewards), GAMMA)
        torch.testing.assert_close(targets, truth)


def test_nothing_crosses_the_end_of_an_episode():
    parts = make()
    rewards, ends = parts[0], parts[4]
    ends[3] = True
    before = retrace(*parts, GAMMA)
    rewards[4:] += 100
    parts[1][4:] -= 100
    assert torch.equal(retrace(*parts, GAMMA)[:4], before[:4])


def test_keeps_dtype_and_no_graph():
    parts = [part.float() if part.is_floating_point() else part for part in make()]
    parts[1].requires_grad_()
    result = retrace(*parts, GAMMA)
    assert result.dtype == torch.float32 and not result.requires_grad
    assert np.isfinite(result.numpy()).all()
