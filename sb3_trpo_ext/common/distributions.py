"""
SB3's action distributions as families: the one place that knows which there are.

Another distribution is a family in :mod:`sb3_trpo_ext.kernels.families`, a case of :func:`family_of`, and, if its
parameters are a network's output as it comes, an entry of :data:`PLAIN`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
    SquashedDiagGaussianDistribution,
    StateDependentNoiseDistribution,
    TanhBijector,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from sb3_trpo_ext.common.noise import StandardNormal
from sb3_trpo_ext.kernels.families import Bernoulli, Categorical, Family, Gaussian, MultiCategorical

FloatArray: TypeAlias = NDArray[np.float32]
ArraySample: TypeAlias = Callable[[FloatArray], NDArray[Any]]


def family_of(distribution: Distribution) -> Family:
    """
    Snapshot of an SB3 distribution, whose wrapper object is overwritten by the policy's next call.

    :param distribution: as the policy returns it, with its graph
    :raises ValueError: for one that no trust region is known for
    """
    inner: Any = distribution.distribution
    if isinstance(distribution, (DiagGaussianDistribution, StateDependentNoiseDistribution)):
        return Gaussian(inner.mean, inner.stddev)
    if isinstance(distribution, CategoricalDistribution):
        return Categorical(inner.logits)
    if isinstance(distribution, MultiCategoricalDistribution):
        logits = torch.cat([choice.logits for choice in distribution.distribution], dim=1)
        return MultiCategorical(logits, _sizes(distribution))
    if isinstance(distribution, BernoulliDistribution):
        return Bernoulli(inner.logits)
    raise ValueError(
        f"The policy's action distribution is a {type(distribution).__name__}, for which no trust region is known. "
        "Use a policy with a Gaussian (gSDE too), Categorical, MultiCategorical or Bernoulli distribution."
    )


def family_of_latent(policy: ActorCriticPolicy, latent: Tensor) -> Family | None:
    """
    What SB3's ``_get_action_dist_from_latent`` stands for, without torch's distribution objects: their checks refuse
    parameters that are not finite, where a line search wants a result, and cost as much as a small network.

    :param policy: any
    :param latent: what its actor's last layer is given, shape (n, …)
    :return: with its graph; None for a distribution of a kind of its own
    """
    distribution = policy.action_dist
    if (plain := plain_distribution(policy)) is not None:
        return plain.family(policy, policy.action_net(latent))
    if type(distribution) is not StateDependentNoiseDistribution:
        return None
    features = latent if distribution.learn_features else latent.detach()
    variance = torch.mm(features**2, distribution.get_std(policy.log_std) ** 2)
    return Gaussian(policy.action_net(latent), torch.sqrt(variance + distribution.epsilon))


def family_actions(policy: ActorCriticPolicy, actions: Tensor) -> Tensor:
    """
    Actions in the space in which :class:`Family` measures them.

    A squashed Gaussian is a Gaussian seen through tanh: ratios of likelihoods and the KL divergence are the same
    before and after it, so the tanh is undone once and then forgotten.

    :param policy: that drew them
    :param actions: as stored in the rollout buffer, shape (n, d)
    :return: shape (n,) for one discrete choice, else (n, d)
    """
    if isinstance(policy.action_space, spaces.Discrete):
        return actions.long().flatten()
    if policy.squash_output or isinstance(policy.action_dist, SquashedDiagGaussianDistribution):
        return TanhBijector.inverse(actions)
    return actions


class PlainDistribution(NamedTuple):
    """
    A distribution whose parameters are the output of the actor's last layer, but for a state-independent log std.

    :param family: policy, output of shape (n, k) → the n distributions, with their graph
    :param sampler: policy and a number of steps → function from the output as an array to one sample each, which draws
        torch's random numbers as SB3 does, for so many steps at once where it can. It is valid until the parameters
        change.
    """

    family: Callable[[ActorCriticPolicy, Tensor], Family]
    sampler: Callable[[ActorCriticPolicy, int], ArraySample]


def plain_distribution(policy: ActorCriticPolicy) -> PlainDistribution | None:
    """How a policy's distribution follows from its last layer's output; None where it does not by that alone."""
    return PLAIN.get(type(policy.action_dist))


def _sizes(distribution: Distribution) -> tuple[int, ...]:
    """The number of options of each choice."""
    assert isinstance(distribution, MultiCategoricalDistribution)
    return tuple(int(size) for size in distribution.action_dims)


class _GaussianSampler:
    def __init__(self, policy: ActorCriticPolicy, steps: int):
        self._std = policy.log_std.detach().exp().numpy().copy()
        self._shape: Any = policy.action_space.shape
        self._noise = StandardNormal(steps)

    def __call__(self, mean: FloatArray) -> FloatArray:
        actions: FloatArray = self._noise(mean.shape) * self._std
        actions += mean
        return actions.reshape(-1, *self._shape)


class _Choice:
    """
    One option per row, with probabilities softmax(logits).

    A race of exponential clocks: option i rings after a time E_i / exp(logit_i), and the first is chosen. torch's
    multinomial draws the same clocks, at many times the cost for a single row.
    """

    def __init__(self) -> None:
        self._clocks = torch.empty(0)
        self._array = self._clocks.numpy()

    def __call__(self, logits: FloatArray) -> NDArray[np.int64]:
        if self._array.shape != logits.shape:
            self._clocks = torch.empty(logits.shape)
            self._array = self._clocks.numpy()
        self._clocks.exponential_()
        choice: NDArray[np.int64] = np.subtract(logits, np.log(self._array)).argmax(axis=1)
        return choice


def _choose_each(policy: ActorCriticPolicy, steps: int) -> ArraySample:
    sizes = _sizes(policy.action_dist)
    cuts, choices = np.cumsum(sizes)[:-1].tolist(), [_Choice() for _ in sizes]

    def choose(logits: FloatArray) -> NDArray[np.int64]:
        blocks = np.split(logits, cuts, axis=1)
        return np.stack([choice(block) for choice, block in zip(choices, blocks, strict=True)], axis=1)

    return choose


PLAIN: dict[type[Distribution], PlainDistribution] = {
    DiagGaussianDistribution: PlainDistribution(
        lambda policy, mean: Gaussian(mean, policy.log_std.exp().expand_as(mean)), _GaussianSampler
    ),
    CategoricalDistribution: PlainDistribution(
        lambda policy, logits: Categorical(logits), lambda policy, steps: _Choice()
    ),
    MultiCategoricalDistribution: PlainDistribution(
        lambda policy, logits: MultiCategorical(logits, _sizes(policy.action_dist)), _choose_each
    ),
    BernoulliDistribution: PlainDistribution(
        lambda policy, logits: Bernoulli(logits),
        lambda policy, steps: lambda logits: torch.from_numpy(logits).sigmoid().bernoulli().numpy(),
    ),
}
