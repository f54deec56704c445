"""An SB3 actor-critic policy seen as the map θ → distribution that a trust region is about."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sb3_trpo_ext.common.inputs import Inputs
from sb3_trpo_ext.common.network import Network, PlainNetwork
from sb3_trpo_ext.kernels.chain import GaussianLinearization
from sb3_trpo_ext.kernels.families import Family, Gaussian
from sb3_trpo_ext.kernels.layers import Dense
from sb3_trpo_ext.kernels.linearize import AutogradLinearization, ConstantLinearization, Linearization
from sb3_trpo_ext.kernels.vector import are_the_same
from sb3_trpo_ext.trust_region.heads import Heads


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

    :param heads: of an SB3 actor-critic policy
    :param fast: differentiate plain networks by hand; False for autograd always, with the same results
    """

    parameters: list[nn.Parameter]
    """θ, in the policy's order; empty when all of the actor is frozen."""
    network: Network | None
    """The network as one that is differentiated by hand; None when autograd does it."""

    def __init__(self, heads: Heads, fast: bool = True):
        self.heads, self.policy = heads, heads.policy
        blank = heads.blank()
        everything = list(self.policy.parameters())
        frozen = [parameter for parameter in everything if not parameter.requires_grad]
        for parameter in frozen:  # what belongs to whom does not depend on what is frozen now
            parameter.requires_grad_(True)
        family = heads.family(blank)
        self._own = _used(everything, torch.stack([tensor.sum() for tensor in family.statistics]).sum())
        for parameter in frozen:
            parameter.requires_grad_(False)
        self.parameters = [parameter for parameter in self._own if parameter.requires_grad]
        self.network = heads.actor_network() if fast and self.parameters else None
        # The chain lists its parameters layer by layer, with log_std first, which is the policy's own order. Where it
        # is not all of θ or more than θ, because something is frozen, the products by hand would have another length.
        if self.network is not None and not are_the_same(self._chain(self.network, family), self.parameters):
            self.network = None
        with torch.no_grad():  # or the policy's distribution object would keep the graph, and no copy could be made
            heads.family(blank)

    @property
    def is_dense(self) -> bool:
        """Whether the network is a chain of dense layers alone."""
        return type(self.network) is PlainNetwork and all(type(layer) is Dense for layer in self.network.layers)

    @property
    def widest(self) -> int:
        """The most inputs or outputs that a layer of the network has; 0 without a network."""
        layers = self.network.layers if self.network else ()
        return max((size for layer in layers for size in layer.weight.shape), default=0)

    def critic_parameters(self) -> list[nn.Parameter]:
        """All parameters of the policy that the actor does not use, frozen or not, in the policy's order."""
        own = {id(parameter) for parameter in self._own}
        return [parameter for parameter in self.policy.parameters() if id(parameter) not in own]

    def shared_parameters(self) -> list[nn.Parameter]:
        """The parameters in θ that the value function depends on too."""
        return _used(self.parameters, self.heads.values(self.heads.blank()).sum())

    @torch.no_grad()
    def family(self, inputs: Inputs) -> Family:
        """
        The distributions at the present θ, detached from the policy.

        :param inputs: of n states
        """
        if self.network is None:
            return self.heads.family(inputs)
        return self.heads.family_of_output(self.network.forward(inputs), inputs)

    def linearize(self, inputs: Inputs) -> LinearizedPolicy:
        """
        The distributions at the present θ and how they change with θ.

        :param inputs: of n states
        """
        if not self.parameters:
            family = self.family(inputs)
            return LinearizedPolicy(family, ConstantLinearization(family.statistics))
        if self.network is None:
            family = self.heads.family(inputs)
            linearization = AutogradLinearization(family.statistics, self.parameters)
            return LinearizedPolicy(family.with_statistics(linearization.value), linearization)
        output = self.network.linearize(inputs)
        with torch.no_grad():
            family = self.heads.family_of_output(output.value[0], inputs)
        if isinstance(family, Gaussian):
            return LinearizedPolicy(family, GaussianLinearization(output, self.policy.log_std))
        return LinearizedPolicy(family, output)

    def family_actions(self, actions: Tensor) -> Tensor:
        """As :meth:`sb3_trpo_ext.trust_region.heads.Heads.actions`."""
        return self.heads.actions(actions)

    def _chain(self, network: Network, family: Family) -> list[Tensor]:
        """All parameters of a plain network; the log std of a Gaussian is one of its own."""
        return [*([self.policy.log_std] if isinstance(family, Gaussian) else []), *network.parameters]


def _used(candidates: list[nn.Parameter], output: Tensor) -> list[nn.Parameter]:
    """Those of some parameters that a scalar depends on."""
    if not candidates or not output.requires_grad:
        return []
    gradients = torch.autograd.grad(output, candidates, allow_unused=True)
    return [parameter for parameter, gradient in zip(candidates, gradients, strict=True) if gradient is not None]
