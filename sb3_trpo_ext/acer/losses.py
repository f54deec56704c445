"""
The gradients and losses of ACER (Wang et al. 2017, arXiv:1611.01224), as pure functions of tensors.

The policy gradient ĝ is taken with respect to the statistics φ of the action distribution, one row per state: the
logits of a Categorical or a MultiCategorical, (mean, std) of a Gaussian side by side. Rows are n states; gradients of
the policy are ascent directions.
"""

import math

import torch
from torch import Tensor

from sb3_trpo_ext.acer.gradients import score, weighted_score
from sb3_trpo_ext.kernels.families import Categorical, Family, Gaussian, MultiCategorical


def importance_weights(policy: Family, behaviour: Family, actions: Tensor) -> Tensor:
    """
    ρ = π(a|x) / μ(a|x).

    :param policy: π
    :param behaviour: μ, of the same kind
    :param actions: shape (n,) for a Categorical, else (n, d)
    :return: shape (n,)
    """
    return (policy.log_prob(actions) - behaviour.log_prob(actions)).exp()


def discrete_policy_gradient(
    policy: Categorical,
    behaviour: Categorical,
    actions: Tensor,
    weights: Tensor,
    targets: Tensor,
    q_values: Tensor,
    importance_clip: float,
    bias_correction: bool = True,
) -> Tensor:
    """
    Truncated importance weighting with bias correction (equation 9):

        ĝ = min(c, ρ) (Q^ret − V) ∇_φ log π(a) + Σ_b [1 − c/ρ(b)]₊ π(b) (Q(b) − V) ∇_φ log π(b),  V = Σ_b π(b) Q(b).

    :param policy: π
    :param behaviour: μ
    :param actions: a, drawn from μ, shape (n,)
    :param weights: ρ of these, shape (n,)
    :param targets: Q^ret of (x, a), shape (n,)
    :param q_values: Q(x, ·), shape (n, k)
    :param importance_clip: c ≥ 0; ∞ for plain importance weighting, 0 for the expectation under the critic
    :param bias_correction: False leaves out the second term
    :return: ĝ, shape (n, k)
    """
    chosen = actions.long().unsqueeze(1)
    p = policy.p
    values = (p * q_values).sum(dim=1, keepdim=True)
    if bias_correction and math.isfinite(importance_clip):
        # [1 − c/ρ(b)]₊ π(b) = [π(b) − c μ(b)]₊, which needs no division.
        of_each = (p - importance_clip * behaviour.p).clamp(min=0) * (q_values - values)
    else:
        of_each = torch.zeros_like(p)
    truncated = weights.clamp(max=importance_clip).unsqueeze(1)
    of_each = of_each.scatter_add(1, chosen, truncated * (targets.unsqueeze(1) - values))
    return weighted_score(policy, of_each)[0]


def sampled_policy_gradient(
    policy: Gaussian | MultiCategorical,
    behaviour: Gaussian | MultiCategorical,
    actions: Tensor,
    weights: Tensor,
    advantages: Tensor,
    own_actions: Tensor,
    own_advantages: Tensor,
    importance_clip: float,
    bias_correction: bool = True,
) -> Tensor:
    """
    As :func:`discrete_policy_gradient`, with one action a' ~ π in the place of the sum (equation 13):

        ĝ = min(c, ρ) (Q^opc − V) ∇_φ log π(a) + [1 − c/ρ(a')]₊ (Q̃(a') − V) ∇_φ log π(a').

    :param policy: π
    :param behaviour: μ
    :param actions: a, drawn from μ, shape (n, d)
    :param weights: ρ of these, shape (n,)
    :param advantages: Q^opc(x, a) − V(x), shape (n,); for a MultiCategorical with Q^ret in the place of Q^opc
    :param own_actions: a', drawn from π, shape (n, d)
    :param own_advantages: Q̃(x, a') − V(x), shape (n,)
    :param importance_clip: c ≥ 0; ∞ for plain importance weighting
    :param bias_correction: False leaves out the second term
    :return: ĝ in the means and standard deviations, shape (n, 2d), or in the logits, shape (n, Σ k_d)
    """
    truncated = weights.clamp(max=importance_clip) * advantages
    gradient = truncated.unsqueeze(1) * torch.cat(score(policy, actions), dim=1)
    if bias_correction and math.isfinite(importance_clip):
        inverse = (behaviour.log_prob(own_actions) - policy.log_prob(own_actions)).exp()
        # Beyond 1 / c the weight is 0 in any case; the clamp keeps 0 · ∞ out.
        left = (1 - importance_clip * inverse.clamp(max=torch.finfo(inverse.dtype).max)).clamp(min=0)
        gradient = gradient + (left * own_advantages).unsqueeze(1) * torch.cat(score(policy, own_actions), dim=1)
    return gradient


def slope(direction: Tensor, kl_gradient: Tensor, inverse_metric: Tensor | None = None) -> Tensor:
    """
    kᵀ F⁻¹ z: how fast the KL to the average policy grows when φ follows z, along F⁻¹ z.

    :param direction: z, shape (n, m)
    :param kl_gradient: k, shape (n, m)
    :param inverse_metric: F⁻¹ as a diagonal, shape (n, m); None for the identity, as in the paper
    :return: shape (n,)
    """
    product = direction * kl_gradient
    return (product if inverse_metric is None else product * inverse_metric).sum(dim=1)


def project(
    gradient: Tensor, kl_gradient: Tensor, trust_region_delta: float, inverse_metric: Tensor | None = None
) -> Tensor:
    """
    The direction nearest to ĝ along which the linearized KL to the average policy grows by at most δ (equation 12):

        z* = ĝ − max(0, (kᵀF⁻¹ĝ − δ) / kᵀF⁻¹k) k  =  argmin ½ (ĝ − z)ᵀ F⁻¹ (ĝ − z)  subject to  kᵀ F⁻¹ z ≤ δ.

    In the paper F is the identity, and the result depends on which statistics φ of a distribution are chosen. With the
    Fisher information it does not: F⁻¹ĝ is the natural gradient.

    :param gradient: ĝ, an ascent direction, shape (n, m)
    :param kl_gradient: k = ∇_φ KL(π_avg ‖ π), shape (n, m)
    :param trust_region_delta: δ ≥ 0
    :param inverse_metric: F⁻¹ as a diagonal, shape (n, m); None for the identity
    :return: z*, shape (n, m)
    """
    excess = slope(gradient, kl_gradient, inverse_metric) - trust_region_delta
    norms = slope(kl_gradient, kl_gradient, inverse_metric).clamp(min=torch.finfo(gradient.dtype).tiny)
    return gradient - (excess.clamp(min=0) / norms).unsqueeze(1) * kl_gradient


def q_loss(q_taken: Tensor, targets: Tensor) -> Tensor:
    """
    ½ (Q^ret − Q(x, a))² of each row, whose mean is the loss.

    :param q_taken: Q(x, a), shape (n,)
    :param targets: Q^ret, constant, shape (n,)
    :return: shape (n,)
    """
    return 0.5 * (targets - q_taken).square()


def q_loss_gradient(q_taken: Tensor, targets: Tensor) -> Tensor:
    """
    The gradient of the mean of :func:`q_loss` in the Q(x, a).

    :param q_taken: Q(x, a), shape (n,)
    :param targets: Q^ret, shape (n,)
    :return: shape (n,)
    """
    return (q_taken - targets) / len(targets)


def summed(values: Tensor, advantages: Tensor, score: Tensor) -> Tensor:
    """
    The Q-value of one choice in each of several dimensions, whose advantages add up, and whose expectation over the
    policy is V, as that of :func:`duelling`:

        Q(x, a) = V(x) + Σ_d [A_d(x, a_d) − Σ_b π_d(b|x) A_d(x, b)] = V(x) + A(x)ᵀ ∇_φ log π(a|x).

    The gradient in A is the score, that in V is 1; π is a constant in it.

    :param values: V(x), shape (n,)
    :param advantages: A(x), the A_d(x, ·) of all dimensions side by side, shape (n, Σ k_d)
    :param score: ∇_φ log π(a|x), shape (n, Σ k_d)
    :return: shape (n,)
    """
    return values + (advantages * score).sum(dim=1)


def duelling(values: Tensor, taken: Tensor, sampled: Tensor) -> Tensor:
    """
    The stochastic duelling estimate of a Q-value, whose expectation over u is consistent with V (equation 14):

        Q̃(x, a) = V(x) + A(x, a) − (1/k) Σ_i A(x, u_i),  u_i ~ π(·|x).

    :param values: V(x), shape (n,)
    :param taken: A(x, a), shape (n,)
    :param sampled: A(x, u_i), shape (k, n)
    :return: shape (n,)
    """
    return values + taken - sampled.mean(dim=0)


def duelling_loss(q_taken: Tensor, values: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """
    ½ (Q^ret − Q̃(x, a))² + ½ (V^tgt − V(x))² of each row, with the constant V^tgt = min(1, ρ) (Q^ret − Q̃(x, a)) + V(x).
    The loss is the mean.

    :param q_taken: Q̃(x, a), shape (n,)
    :param values: V(x), shape (n,)
    :param targets: Q^ret, constant, shape (n,)
    :param weights: ρ, constant, shape (n,)
    :return: shape (n,)
    """
    errors = targets - q_taken
    value_targets = (weights.clamp(max=1) * errors + values).detach()
    return q_loss(q_taken, targets) + q_loss(values, value_targets)


def duelling_loss_gradient(
    q_taken: Tensor, values: Tensor, targets: Tensor, weights: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """
    The gradient of the mean of :func:`duelling_loss` through :func:`duelling`.

    :param q_taken: Q̃(x, a), shape (n,)
    :param values: V(x), shape (n,)
    :param targets: Q^ret, shape (n,)
    :param weights: ρ, shape (n,)
    :param k: number of sampled actions
    :return: in V(x), shape (n,); in A(x, a) and the A(x, u_i), shape (1 + k, n)
    """
    errors = q_loss_gradient(q_taken, targets)
    at_taken = errors.unsqueeze(0)
    return errors * (1 + weights.clamp(max=1)), torch.cat([at_taken, (-at_taken / k).expand(k, -1)])
