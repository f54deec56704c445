"""
Derivatives of action distributions in their own statistics φ, in closed form: the score ∇_φ log p, and the gradients of
the KL divergence and of the entropy, and the metric in which they are compared.

φ are the logits of a Categorical or a MultiCategorical, and mean and standard deviation of a Gaussian. Every row is a
state of its own; no gradient is summed over states.
"""

from functools import singledispatch

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from sb3_trpo_ext.kernels.families import Categorical, Family, Gaussian, MultiCategorical


@singledispatch
def score(family: Family, actions: Tensor) -> tuple[Tensor, ...]:
    """
    ∇_φ log p(a).

    :param family: p, n distributions, Gaussian or MultiCategorical
    :param actions: a, shape (n, d)
    :return: shaped like the family's statistics
    """
    raise TypeError(f"The score is not known for a {type(family).__name__}.")


@score.register
def _(family: Gaussian, actions: Tensor) -> tuple[Tensor, ...]:
    z = (actions - family.mean) / family.std
    return z / family.std, (z * z - 1) / family.std


@score.register
def _(family: MultiCategorical, actions: Tensor) -> tuple[Tensor, ...]:
    chosen = zip(family.choices, actions.long().unbind(1), strict=True)
    parts = [one_hot(action, size) - choice.p for (choice, action), size in zip(chosen, family.sizes, strict=True)]
    return (torch.cat(parts, dim=1),)


def weighted_score(family: Categorical, weights: Tensor) -> tuple[Tensor, ...]:
    """
    Σ_a w(a) ∇_φ log p(a).

    :param family: p, n distributions
    :param weights: w, shape (n, k); a one-hot row gives the score of that action
    :return: shaped like the family's statistics
    """
    return (weights - family.p * weights.sum(dim=1, keepdim=True),)


@singledispatch
def kl_gradient(family: Family, old: Family) -> tuple[Tensor, ...]:
    """
    ∇_φ KL(old ‖ p), which points away from ``old``.

    :param family: p, n distributions: Gaussian, Categorical or MultiCategorical
    :param old: of the same kind and shape
    :return: shaped like the family's statistics
    """
    raise TypeError(f"The gradient of the KL divergence is not known for a {type(family).__name__}.")


@kl_gradient.register
def _(family: Gaussian, old: Gaussian) -> tuple[Tensor, ...]:
    shift, ratio = (family.mean - old.mean) / family.std, old.std / family.std
    return shift / family.std, (1 - ratio * ratio - shift * shift) / family.std


@kl_gradient.register
def _(family: Categorical, old: Categorical) -> tuple[Tensor, ...]:
    return (family.p - old.p,)


@kl_gradient.register
def _(family: MultiCategorical, old: MultiCategorical) -> tuple[Tensor, ...]:
    parts = [kl_gradient(choice, before)[0] for choice, before in zip(family.choices, old.choices, strict=True)]
    return (torch.cat(parts, dim=1),)


@singledispatch
def entropy_gradient(family: Family) -> tuple[Tensor, ...]:
    """
    ∇_φ of the entropy.

    :param family: n distributions: Gaussian, Categorical or MultiCategorical
    :return: shaped like the family's statistics
    """
    raise TypeError(f"The gradient of the entropy is not known for a {type(family).__name__}.")


@entropy_gradient.register
def _(family: Gaussian) -> tuple[Tensor, ...]:
    return torch.zeros_like(family.mean), family.std.reciprocal()


@entropy_gradient.register
def _(family: Categorical) -> tuple[Tensor, ...]:
    log_p = family.log_p
    p = log_p.exp()
    return (-p * (log_p - (p * log_p).sum(dim=1, keepdim=True)),)


@entropy_gradient.register
def _(family: MultiCategorical) -> tuple[Tensor, ...]:
    return (torch.cat([entropy_gradient(choice)[0] for choice in family.choices], dim=1),)


@singledispatch
def inverse_metric(family: Family) -> tuple[Tensor, ...]:
    """
    The diagonal D for which uᵀ F⁻¹ v = Σ_i D_i u_i v_i, where F is the Fisher information in φ
    (:meth:`sb3_trpo_ext.kernels.families.Family.metric`) and u and v are gradients in φ. Those in logits sum to 0 over
    the options of a choice; there F⁻¹ is the pseudo-inverse.

    :param family: n distributions: Gaussian, Categorical or MultiCategorical
    :return: shaped like the family's statistics
    """
    raise TypeError(f"The inverse of the metric is not known for a {type(family).__name__}.")


@inverse_metric.register
def _(family: Gaussian) -> tuple[Tensor, ...]:
    variance = family.std.square()
    return variance, variance / 2


@inverse_metric.register
def _(family: Categorical) -> tuple[Tensor, ...]:
    p = family.p
    return (p.clamp(min=torch.finfo(p.dtype).tiny).reciprocal(),)


@inverse_metric.register
def _(family: MultiCategorical) -> tuple[Tensor, ...]:
    return (torch.cat([inverse_metric(choice)[0] for choice in family.choices], dim=1),)
