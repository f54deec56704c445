"""An SB3 actor-critic policy seen as the map θ → distribution that a trust region is about."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector.utils import create_empty_array
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
from torch import Tensor, nn

from sb3_trpo_ext.common.network import PlainNetwork, actor_network
from sb3_trpo_ext.common.observations import Observations
from sb3_trpo_ext.kernels.chain import ChainLinearization, GaussianLinearization, forward
from sb3_trpo_ext.kernels.families import Bernoulli, Categorical, Family, Gaussian, MultiCategorical
from sb3_trpo_ext.kernels.linearize import AutogradLinearization, Linearization


@contextmanager
def _unvalidated() -> Iterator[None]:
    """
    Without the checks of torch's distributions: a candidate with parameters that are not finite is a result that the
    line search refuses, not an exception, and the checks cost as much as a small network.
    """
    validate = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(validate)


class LinearizedPolicy(NamedTuple):
    """
    :param family: the distributions at a batch of states
    :param linearization: of θ → the statistics of ``family``
    """

    family: Family
    linearization: Linearization


class Actor:
    """
    The part of a policy that decides on actions: its parameters θ and the distribution they give in each state.

    θ is found from the autograd graph of the distribution, whatever the parameters are called; a parameter that the
    critic uses too belongs to θ.

    :param policy: an SB3 actor-critic policy
    :param fast: differentiate plain networks by hand; False for autograd always, with the same results
    """

    parameters: list[nn.Parameter]
    """θ, in the policy's order."""
    network: PlainNetwork | None
    """The network as a chain that is differentiated by hand; None when autograd does it."""

    def __init__(self, policy: ActorCriticPolicy, fast: bool = True):
        self.policy = policy
        statistics = _family(policy.get_distribution(_blank_observations(policy))).statistics
        candidates = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        total = torch.stack([tensor.sum() for tensor in statistics]).sum()
        gradients = torch.autograd.grad(total, candidates, allow_unused=True)
        used = zip(candidates, gradients, strict=True)
        self.parameters = [parameter for parameter, gradient in used if gradient is not None]
        self.network = actor_network(policy) if fast else None
        # The chain lists its parameters layer by layer, with log_std first, which is the policy's own order. Where it
        # is not all of θ or more than θ, because something is frozen, the products by hand would have another length.
        own_std = [policy.log_std] if isinstance(policy.action_dist, DiagGaussianDistribution) else []
        layers = self.network.layers if self.network else []
        chain = [*own_std, *(parameter for layer in layers for parameter in layer.parameters)]
        if list(map(id, chain)) != list(map(id, self.parameters)):
            self.network = None
        with torch.no_grad():  # or the policy's distribution object would keep the graph, and no copy could be made
            policy.get_distribution(_blank_observations(policy))

    def critic_parameters(self) -> list[nn.Parameter]:
        """All parameters of the policy that are not in θ, in the policy's order."""
        own = {id(parameter) for parameter in self.parameters}
        return [parameter for parameter in self.policy.parameters() if id(parameter) not in own]

    def shared_parameters(self) -> list[nn.Parameter]:
        """The parameters in θ that the value function depends on too."""
        values = self.policy.predict_values(_blank_observations(self.policy))
        gradients = torch.autograd.grad(values.sum(), self.parameters, allow_unused=True)
        used = zip(self.parameters, gradients, strict=True)
        return [parameter for parameter, gradient in used if gradient is not None]

    @torch.no_grad()
    @_unvalidated()
    def family(self, observations: Observations) -> Family:
        """
        The distributions at the present θ, detached from the policy.

        :param observations: a batch of n, as the policy takes them
        """
        if self.network is None:
            return _family(self.policy.get_distribution(observations))
        return self._plain_family(forward(self.network.layers, self.network.inputs(observations)))

    @_unvalidated()
    def linearize(self, observations: Observations) -> LinearizedPolicy:
        """
        The distributions at the present θ and how they change with θ.

        :param observations: a batch of n, as the policy takes them
        """
        if self.network is not None:
            chain = ChainLinearization(self.network.layers, self.network.inputs(observations))
            family = self._plain_family(chain.value[0])
            gaussian = isinstance(family, Gaussian)
            return LinearizedPolicy(family, GaussianLinearization(chain, self.policy.log_std) if gaussian else chain)
        family = _family(self.policy.get_distribution(observations))
        linearization = AutogradLinearization(family.statistics, self.parameters)
        return LinearizedPolicy(family.with_statistics(linearization.value), linearization)

    def _plain_family(self, output: Tensor) -> Family:
        """The distributions, given the output of the last layer, shape (n, k)."""
        distribution = self.policy.action_dist
        if isinstance(distribution, DiagGaussianDistribution):
            return Gaussian(output, self.policy.log_std.detach().exp().expand_as(output))
        if isinstance(distribution, CategoricalDistribution):
            return Categorical(output)
        if isinstance(distribution, MultiCategoricalDistribution):
            return MultiCategorical(output, tuple(int(size) for size in distribution.action_dims))
        return Bernoulli(output)

    def family_actions(self, actions: Tensor) -> Tensor:
        """
        Actions in the space in which :class:`Family` measures them.

        A squashed Gaussian is a Gaussian seen through tanh: ratios of likelihoods and the KL divergence are the same
        before and after it, so the tanh is undone once and then forgotten.

        :param actions: as stored in the rollout buffer, shape (n, d)
        :return: shape (n,) for one discrete choice, else (n, d)
        """
        if isinstance(self.policy.action_space, spaces.Discrete):
            return actions.long().flatten()
        if self.policy.squash_output or isinstance(self.policy.action_dist, SquashedDiagGaussianDistribution):
            return TanhBijector.inverse(actions)
        return actions


def _family(distribution: Distribution) -> Family:
    """Snapshot of an SB3 distribution, whose wrapper object is overwritten by the policy's next call."""
    inner: Any = distribution.distribution
    if isinstance(distribution, (DiagGaussianDistribution, StateDependentNoiseDistribution)):
        return Gaussian(inner.mean, inner.stddev)
    if isinstance(distribution, CategoricalDistribution):
        return Categorical(inner.logits)
    if isinstance(distribution, MultiCategoricalDistribution):
        logits = torch.cat([choice.logits for choice in distribution.distribution], dim=1)
        return MultiCategorical(logits, tuple(int(size) for size in distribution.action_dims))
    if isinstance(distribution, BernoulliDistribution):
        return Bernoulli(inner.logits)
    raise ValueError(
        f"The policy's action distribution is a {type(distribution).__name__}, for which no trust region is known. "
        "Use a policy with a Gaussian (gSDE too), Categorical, MultiCategorical or Bernoulli distribution."
    )


def _blank_observations(policy: ActorCriticPolicy) -> Observations:
    """A batch of two all-zero observations, to trace the graph with."""
    blank: Any = create_empty_array(policy.observation_space, n=2, fn=np.zeros)
    observations: Observations = policy.obs_to_tensor(blank)[0]
    return observations
