"""ACER's gradients against exact expectations, autograd, and an optimizer that knows nothing of closed forms."""

import itertools
import math

import pytest
import torch
from torch.distributions import Normal

from sb3_trpo_ext.acer import losses
from sb3_trpo_ext.acer.gradients import entropy_gradient, inverse_metric, kl_gradient, score
from sb3_trpo_ext.acer.losses import (
    duelling,
    duelling_loss,
    duelling_loss_gradient,
    importance_weights,
    project,
    q_loss,
    q_loss_gradient,
    slope,
    summed,
)
from sb3_trpo_ext.kernels.families import Categorical, Gaussian, MultiCategorical

DOUBLE = torch.float64


def categoricals(n=1, k=4, scale=2.0):
    return tuple(Categorical(scale * torch.randn(n, k, dtype=DOUBLE)) for _ in range(2))


def gaussians(n=3, d=2):
    return tuple(Gaussian(torch.randn(n, d, dtype=DOUBLE), 0.5 + torch.rand(n, d, dtype=DOUBLE)) for _ in range(2))


def discrete_policy_gradient(policy, behaviour, actions, *others):
    weights = importance_weights(policy, behaviour, actions)
    return losses.discrete_policy_gradient(policy, behaviour, actions, weights, *others)


def sampled_policy_gradient(policy, behaviour, actions, *others):
    weights = importance_weights(policy, behaviour, actions)
    return losses.sampled_policy_gradient(policy, behaviour, actions, weights, *others)


def expected_discrete(policy, behaviour, q, clip, correct=True):
    """E over a ~ μ of ĝ, with the target Q(x, a) itself: an exact sum."""
    mu = behaviour.logits.softmax(1)[0]
    return sum(
        mu[a] * discrete_policy_gradient(policy, behaviour, torch.tensor([a]), q[:, a], q, clip, correct)[0]
        for a in range(len(mu))
    )


def true_gradient(policy, q):
    """∇_logits Σ_a π(a) Q(a), by autograd."""
    logits = policy.logits.clone().requires_grad_()
    return torch.autograd.grad((logits.softmax(1) * q).sum(), logits)[0][0]


# --------------------------------------------------------------------------------------------- bias correction
@pytest.mark.parametrize("clip", [0.0, 0.1, 0.5, 1.0, 2.0, 10.0, math.inf])
def test_truncated_term_and_correction_make_the_exact_policy_gradient(clip):
    """With the true Q, whatever c is, the expectation is that of plain importance sampling, and the true gradient."""
    for seed in range(5):
        torch.manual_seed(seed)
        policy, behaviour = categoricals()
        q = torch.randn(1, 4, dtype=DOUBLE)
        torch.testing.assert_close(expected_discrete(policy, behaviour, q, clip), true_gradient(policy, q))


def test_without_correction_truncation_is_biased():
    policy, behaviour = categoricals()
    q = torch.randn(1, 4, dtype=DOUBLE)
    assert not torch.allclose(expected_discrete(policy, behaviour, q, 0.5, False), true_gradient(policy, q), rtol=0.05)


def test_infinite_clip_is_plain_importance_sampling():
    policy, behaviour = categoricals(n=6)
    actions, targets = torch.randint(4, (6,)), torch.randn(6, dtype=DOUBLE)
    q = torch.randn(6, 4, dtype=DOUBLE)
    rho = policy.logits.softmax(1)[range(6), actions] / behaviour.logits.softmax(1)[range(6), actions]
    values = (policy.logits.softmax(1) * q).sum(1)
    onehot = torch.nn.functional.one_hot(actions, 4)
    expected = (rho * (targets - values)).unsqueeze(1) * (onehot - policy.logits.softmax(1))
    torch.testing.assert_close(discrete_policy_gradient(policy, behaviour, actions, targets, q, math.inf), expected)


def test_zero_clip_is_the_expected_policy_gradient_whatever_was_done():
    policy, behaviour = categoricals()
    q = torch.randn(1, 4, dtype=DOUBLE)
    for a in range(4):
        gradient = discrete_policy_gradient(policy, behaviour, torch.tensor([a]), torch.randn(1, dtype=DOUBLE), q, 0.0)
        torch.testing.assert_close(gradient[0], true_gradient(policy, q))


def test_on_policy_with_clip_of_one_or_more_there_is_no_correction():
    policy, _ = categoricals(n=6)
    actions, targets = torch.randint(4, (6,)), torch.randn(6, dtype=DOUBLE)
    q = torch.randn(6, 4, dtype=DOUBLE)
    one, other = (discrete_policy_gradient(policy, policy, actions, targets, q, 1.5, c) for c in (True, False))
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(importance_weights(policy, policy, actions), torch.ones(6, dtype=DOUBLE))


@pytest.mark.parametrize("clip", [0.0, 0.5, 1.0, 5.0, math.inf])
def test_gaussian_correction_in_expectation(clip):
    """One-dimensional, A(a) = a² + a: both expectations by a fine sum over the line, against the true gradient."""
    policy_mean, policy_std, mean, std = 0.3, 0.6, -0.2, 0.9
    line = torch.linspace(-9, 9, 36001, dtype=DOUBLE)
    n, ones = len(line), torch.ones(len(line), 1, dtype=DOUBLE)
    policy, behaviour = Gaussian(policy_mean * ones, policy_std * ones), Gaussian(mean * ones, std * ones)
    advantages, far, nothing = line**2 + line, 1e3 * ones, torch.zeros(n, dtype=DOUBLE)
    actions = line.unsqueeze(1)
    width = line[1] - line[0]
    truncated = sampled_policy_gradient(policy, behaviour, actions, advantages, far, nothing, clip)
    corrected = sampled_policy_gradient(policy, behaviour, actions, nothing, actions, advantages, clip)
    mu, pi = (Normal(m, s).log_prob(line).exp() for m, s in ((mean, std), (policy_mean, policy_std)))
    expectation = (mu.unsqueeze(1) * truncated + pi.unsqueeze(1) * corrected).sum(0) * width
    # E[a² + a] = m² + s² + m, so its gradient in (m, s) is (2m + 1, 2s).
    expected = torch.tensor([2 * policy_mean + 1, 2 * policy_std], dtype=DOUBLE)
    torch.testing.assert_close(expectation, expected, rtol=1e-4, atol=1e-4)


def test_gaussian_without_correction_is_the_first_term():
    policy, behaviour = gaussians()
    actions, own = torch.randn(2, 3, 2, dtype=DOUBLE)
    advantages, own_advantages = torch.randn(2, 3, dtype=DOUBLE)
    gradient = sampled_policy_gradient(policy, behaviour, actions, advantages, own, own_advantages, 5.0, False)
    rho = importance_weights(policy, behaviour, actions).clamp(max=5)
    expected = (rho * advantages).unsqueeze(1) * torch.cat(score(policy, actions), 1)
    torch.testing.assert_close(gradient, expected)


# --------------------------------------------------------------------------------------------- projection
def test_projection_holds_the_constraint_and_leaves_the_rest_alone():
    g, k = 3 * torch.randn(2, 200, 5, dtype=DOUBLE)
    z = project(g, k, 1.0)
    slack = slope(g, k) <= 1
    assert 0 < int(slack.sum()) < 200
    assert (slope(z, k) <= 1 + 1e-12).all()
    torch.testing.assert_close(z[slack], g[slack], rtol=0, atol=0)
    torch.testing.assert_close(slope(z, k)[~slack], torch.ones(int((~slack).sum()), dtype=DOUBLE))


@pytest.mark.parametrize("delta", [0.0, 0.5, 2.0])
def test_projection_solves_the_quadratic_program(delta):
    """Against bisection on the multiplier of min ½‖g − z‖² subject to kᵀz ≤ δ, and against random feasible points."""
    g, k = torch.randn(2, 5, dtype=DOUBLE)
    k = k if float(g @ k) > 0 else -k
    low, high = 0.0, 1e3
    if float(k @ g) <= delta:
        high = 0.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float(k @ (g - middle * k)) > delta else (low, middle)
    z = project(g[None], k[None], delta)[0]
    torch.testing.assert_close(z, g - high * k, rtol=1e-9, atol=1e-9)
    candidates = 3 * torch.randn(10000, 5, dtype=DOUBLE)
    feasible = candidates[candidates @ k <= delta]
    assert ((feasible - g).square().sum(1) >= (z - g).square().sum() - 1e-12).all()


def test_projection_in_a_metric_is_that_in_other_statistics():
    """With mean / std and log std / √2 in the place of (mean, std), in which the Fisher information is the identity."""
    policy, average = gaussians(n=50)
    g, k = 3 * torch.randn(50, 4, dtype=DOUBLE), torch.cat(kl_gradient(policy, average), 1)
    diagonal = torch.cat(inverse_metric(policy), 1)
    z = project(g, k, 0.3, diagonal)
    root = diagonal.sqrt()
    torch.testing.assert_close(z * root, project(g * root, k * root, 0.3))
    acted = slope(g, k, diagonal) > 0.3
    assert 0 < int(acted.sum()) < 50
    torch.testing.assert_close(slope(z, k, diagonal)[acted], torch.full((int(acted.sum()),), 0.3, dtype=DOUBLE))


@pytest.mark.parametrize("make", [categoricals, gaussians])
def test_the_slope_in_the_metric_is_the_growth_along_the_natural_gradient(make):
    policy, average = make(n=6)
    k, diagonal = kl_gradient(policy, average), inverse_metric(policy)
    step = [1e-6 * d * part for d, part in zip(diagonal, k, strict=True)]
    moved = policy.with_statistics([part + s for part, s in zip(policy.statistics, step, strict=True)])
    growth = (average.kl(moved) - average.kl(policy)) / 1e-6
    k, diagonal = torch.cat(k, 1), torch.cat(diagonal, 1)
    torch.testing.assert_close(slope(k, k, diagonal), growth, rtol=1e-3, atol=1e-6)


def test_projected_step_approaches_the_average_policy_less_fast_away():
    """After a step along z*, the policy is nearer to the average policy than after one along ĝ."""
    policy, average = categoricals(n=1)
    k = kl_gradient(policy, average)[0]
    g = 20 * k
    with_region = Categorical(policy.logits + 0.1 * project(g, k, 0.0))
    without = Categorical(policy.logits + 0.1 * g)
    assert float(average.kl(with_region)) < float(average.kl(without))


# --------------------------------------------------------------------------------------------- critics
def test_duelling_is_consistent_with_the_value():
    """The mean of Q̃ over actions from the same policy is V."""
    values = torch.tensor([1.5], dtype=DOUBLE)
    draws = torch.randn(2, 200000, dtype=DOUBLE)
    estimates = duelling(values, draws[0].sin() + 3, draws[1:].sin() + 3)
    assert float(estimates.mean()) == pytest.approx(1.5, abs=0.01)


def test_gradient_of_the_duelling_loss_is_the_papers():
    torch.manual_seed(1)
    n = 6
    values, taken = (torch.randn(n, dtype=DOUBLE, requires_grad=True) for _ in range(2))
    sampled = torch.randn(5, n, dtype=DOUBLE, requires_grad=True)
    targets, rho = torch.randn(n, dtype=DOUBLE), 2 * torch.rand(n, dtype=DOUBLE)
    q = duelling(values, taken, sampled)
    duelling_loss(q, values, targets, rho).mean().backward()
    errors = (targets - q).detach()
    torch.testing.assert_close(-n * taken.grad, errors)
    torch.testing.assert_close(-n * sampled.grad, (-errors / 5).expand(5, n))
    torch.testing.assert_close(-n * values.grad, errors * (1 + rho.clamp(max=1)))


def test_the_gradient_of_the_duelling_loss_by_hand_is_that_of_autograd():
    n, k = 6, 5
    values, taken = (torch.randn(n, dtype=DOUBLE, requires_grad=True) for _ in range(2))
    sampled = torch.randn(k, n, dtype=DOUBLE, requires_grad=True)
    targets, rho = torch.randn(n, dtype=DOUBLE), 2 * torch.rand(n, dtype=DOUBLE)
    q = duelling(values, taken, sampled)
    at_values, at_advantages = duelling_loss_gradient(q.detach(), values.detach(), targets, rho, k)
    duelling_loss(q, values, targets, rho).mean().backward()
    torch.testing.assert_close(at_values, values.grad)
    torch.testing.assert_close(at_advantages, torch.cat([taken.grad[None], sampled.grad]))


def test_q_loss():
    q, targets = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([2.0, 4.0])
    assert q_loss(q, targets).tolist() == [0.5, 2.0]
    q_loss(q, targets).mean().backward()
    assert torch.equal(q_loss_gradient(q.detach(), targets), q.grad)


# --------------------------------------------------------------------------------------------- several dimensions
SIZES = (3, 2, 2)
JOINT = torch.tensor(list(itertools.product(*map(range, SIZES))))


def multi(seed):
    """π and μ in one state, repeated for all joint actions; V, and A of every choice."""
    torch.manual_seed(seed)
    policy, behaviour = (
        MultiCategorical(1.5 * torch.randn(1, sum(SIZES), dtype=DOUBLE).expand(len(JOINT), -1), SIZES) for _ in range(2)
    )
    values, advantages = torch.randn(1, dtype=DOUBLE), torch.randn(1, sum(SIZES), dtype=DOUBLE)
    return policy, behaviour, values, advantages


def chances(family):
    """Of all joint actions, by multiplying."""
    blocks = [block[0].softmax(0) for block in family.logits.split(SIZES, dim=1)]
    return torch.stack([math.prod(block[i] for block, i in zip(blocks, action, strict=True)) for action in JOINT])


def by_loop(policy, values, advantages):
    """Q of all joint actions from the definition, dimension by dimension."""
    q = []
    for action in JOINT:
        total = values[0]
        for logits, a, i in zip(policy.logits[0].split(SIZES), advantages[0].split(SIZES), action, strict=True):
            total = total + a[i] - (logits.softmax(0) * a).sum()
        q.append(total)
    return torch.stack(q)


def test_q_values_of_joint_actions_have_the_expectation_v():
    for seed in range(3):
        policy, _, values, advantages = multi(seed)
        q = summed(values, advantages, score(policy, JOINT)[0])
        torch.testing.assert_close(q, by_loop(policy, values, advantages))
        torch.testing.assert_close((chances(policy) * q).sum(), values[0])


@pytest.mark.parametrize("clip", [0.0, 0.5, 1.0, 2.0, math.inf])
def test_a_sampled_joint_action_makes_the_exact_policy_gradient(clip):
    """Both expectations over all joint actions, a ~ μ and a' ~ π, against ∇ Σ_a π(a) Q(a) by autograd."""
    for seed in range(3):
        policy, behaviour, values, advantages = multi(seed)
        gains = by_loop(policy, values, advantages) - values
        pi, mu, nothing = chances(policy)[:, None], chances(behaviour)[:, None], torch.zeros(len(JOINT)).double()
        truncated = sampled_policy_gradient(policy, behaviour, JOINT, gains, JOINT, nothing, clip)
        corrected = sampled_policy_gradient(policy, behaviour, JOINT, nothing, JOINT, gains, clip)
        logits = policy.logits[:1].clone().requires_grad_()
        objective = (chances(MultiCategorical(logits, SIZES)) * gains).sum()
        (expected,) = torch.autograd.grad(objective, logits)
        torch.testing.assert_close((mu * truncated + pi * corrected).sum(0), expected[0])


def test_the_critic_of_several_dimensions_has_the_score_as_its_gradient():
    """Also where π is made of the same numbers: it is a constant in the critic's loss."""
    policy, _, values, advantages = multi(0)
    advantages.requires_grad_()
    (found,) = torch.autograd.grad(by_loop(policy, values, advantages)[5], advantages)
    torch.testing.assert_close(found, score(policy, JOINT)[0][5:6])


# --------------------------------------------------------------------------------------------- degenerate distributions
@pytest.mark.parametrize("clip", [0.0, 1.0, 10.0])
def test_deterministic_categoricals_stay_finite(clip):
    sure, other = torch.tensor([[1e4, 0.0, 0.0]]), torch.tensor([[0.0, 1e4, -1e4]])
    for policy, behaviour in ((sure, other), (other, sure), (sure, sure)):
        for action in range(3):
            gradient = discrete_policy_gradient(
                Categorical(policy),
                Categorical(behaviour),
                torch.tensor([action]),
                torch.ones(1),
                torch.ones(1, 3),
                clip,
            )
            k = kl_gradient(Categorical(policy), Categorical(behaviour))[0]
            entropy = entropy_gradient(Categorical(policy))[0]
            assert torch.isfinite(project(gradient + entropy, k, 1.0)).all()
            assert torch.isfinite(project(gradient + entropy, k, 1.0, inverse_metric(Categorical(policy))[0])).all()


@pytest.mark.parametrize("clip", [0.0, 1.0, 5.0])
def test_narrow_gaussians_stay_finite(clip):
    narrow, wide = (Gaussian(torch.full((1, 2), m), torch.full((1, 2), s)) for m, s in ((5.0, 1e-3), (-5.0, 1.0)))
    for policy, behaviour in ((narrow, wide), (wide, narrow), (narrow, narrow)):
        for actions in (narrow.mean, wide.mean):
            gradient = sampled_policy_gradient(
                policy, behaviour, actions, torch.ones(1), policy.mean, torch.ones(1), clip
            )
            k = torch.cat(kl_gradient(policy, behaviour), 1)
            assert torch.isfinite(project(gradient, k, 1.0)).all()


def test_equal_policies_have_no_constraint():
    policy, _ = categoricals(n=2)
    g = 100 * torch.randn(2, 4, dtype=DOUBLE)
    assert torch.equal(project(g, kl_gradient(policy, policy)[0], 0.0), g)
