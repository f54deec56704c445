"""
The networks of ACER as one function of states, and the way back through it: by hand where they are plain chains of
layers, by autograd where they are anything else.

What goes back are cotangents, the derivatives of the loss in what the networks put out; that is where ACER's policy
gradient and trust region are computed.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor

from sb3_trpo_ext.acer.policies import ActionFamily, Evaluation, MlpPolicy, family_of_output
from sb3_trpo_ext.common.inputs import Inputs, Observations, each
from sb3_trpo_ext.common.network import (
    PlainNetwork,
    actor_network,
    has_nothing_to_train,
    modules_in,
    modules_of,
    trained_layers,
)
from sb3_trpo_ext.kernels.chain import Activations, forward
from sb3_trpo_ext.kernels.families import Gaussian
from sb3_trpo_ext.kernels.layers import Layer, layers_of
from sb3_trpo_ext.kernels.vector import count, unflatten

# The ways to a policy's networks, which a subclass may change.
WAYS = ("evaluate", "family", "advantages", "_family")


class Cotangents(NamedTuple):
    """
    Derivatives of a loss at the first N states of a pass.

    :param statistics: in the first parts of φ, shape (N, m) each; the loss does not depend on the others
    :param head: in the critic's head, of its shape
    :param advantages: in the A(x, a) that were asked for, shape (k, N); None where there were none
    """

    statistics: Sequence[Tensor]
    head: Tensor
    advantages: Tensor | None = None


class Pass(Protocol):
    """One pass of actor and critic over states, kept for the way back."""

    evaluation: Evaluation
    """In all the states, without a graph."""

    def centre(self, n: int) -> ActionFamily:
        """π_avg in the first n states."""
        ...

    def advantages(self, actions: Tensor) -> Tensor:
        """
        A(x, a) of several actions in each of the first n states (Box only), once.

        :param actions: shape (k, n, d)
        :return: shape (k, n), without a graph
        """
        ...

    def write_gradients(self, cotangents: Cotangents) -> Tensor | None:
        """
        Back-propagate to the ``grad`` of the policy's parameters, which is None before.

        :return: all of these as one vector that shares their memory; None where they lie apart
        """
        ...


class Networks(Protocol):
    """A policy and its running average."""

    def run(self, observations: Observations) -> Pass:
        """
        :param observations: as the policy takes them
        """
        ...


def networks_of(policy: MlpPolicy, average: MlpPolicy) -> Networks:
    """
    :param policy: whose gradients are wanted
    :param average: of the same structure, with the policy's own buffers, such as statistics of observations
    """
    return _plain_networks(policy, average) or GraphNetworks(policy, average)


class GraphNetworks:
    """
    Any networks, with autograd.

    :param policy: π and the critic
    :param average: π_avg
    """

    def __init__(self, policy: MlpPolicy, average: MlpPolicy):
        self.policy, self.average = policy, average

    def run(self, observations: Observations) -> "GraphPass":
        """As :meth:`Networks.run`."""
        return GraphPass(self, observations)


class GraphPass:
    """
    As :class:`Pass`.

    :param networks: that it goes through
    :param observations: of all the states
    """

    @torch.enable_grad()
    def __init__(self, networks: GraphNetworks, observations: Observations):
        self._networks, self._observations = networks, observations
        self._graph = networks.policy.evaluate(observations)
        self._rated: Tensor | None = None
        family, head, latent = self._graph
        detached = family.with_statistics([part.detach() for part in family.statistics])
        self.evaluation = Evaluation(detached, head.detach(), latent.detach())

    @torch.no_grad()
    def centre(self, n: int) -> ActionFamily:
        """As :meth:`Pass.centre`."""
        return self._networks.average.family(each(lambda part: part[:n], self._observations))

    @torch.enable_grad()
    def advantages(self, actions: Tensor) -> Tensor:
        """As :meth:`Pass.advantages`."""
        self._rated = self._networks.policy.advantages(self._graph.latent[: actions.shape[1]], actions)
        return self._rated.detach()

    @torch.enable_grad()
    def write_gradients(self, cotangents: Cotangents) -> Tensor | None:
        """As :meth:`Pass.write_gradients`."""
        n, statistics = len(cotangents.head), self._graph.family.statistics
        pairs = [(part[:n], c) for part, c in zip(statistics, cotangents.statistics, strict=False)]
        pairs.append((self._graph.head[:n], cotangents.head))
        if self._rated is not None and cotangents.advantages is not None:
            pairs.append((self._rated, cotangents.advantages))
        trained = [(output, c) for output, c in pairs if output.requires_grad]
        if trained:
            torch.autograd.backward([output for output, _ in trained], [c for _, c in trained])
        return None


def _plain_networks(policy: MlpPolicy, average: MlpPolicy) -> "PlainNetworks | None":
    """None where the networks do anything else than SB3's own chains, or a part of them is not trained."""
    extractors = (policy.pi_features_extractor, policy.vf_features_extractor)
    is_ours = all(getattr(type(policy), way) is getattr(MlpPolicy, way) and way not in vars(policy) for way in WAYS)
    if not is_ours or not all(map(has_nothing_to_train, extractors)):
        return None
    actor, hidden = actor_network(policy), modules_of(policy, "value_net")
    means = modules_of(average, "policy_net")
    centre = None if means is None else layers_of([*means, average.action_net])
    if actor is None or hidden is None or centre is None:
        return None
    rating = [] if policy.advantage_net is None else modules_in(policy.advantage_net)
    chains = [None if part is None else trained_layers(part) for part in (hidden, [policy.value_net], rating)]
    if any(chain is None for chain in chains):
        return None
    networks = PlainNetworks(actor, average, centre, *cast(list[list[Layer]], chains))
    trained = {id(parameter) for parameter in policy.parameters() if parameter.requires_grad}
    return networks if networks.gradients.keys() == trained else None


class PlainNetworks:
    """
    Chains of layers, by hand.

    :param actor: from observations to the distribution's parameters
    :param average: π_avg
    :param centre: the layers of its actor
    :param hidden: the layers of the critic up to what (x) stands for, as many as there are
    :param value: the one behind them, which ends in the critic's head
    :param rating: those from what (x) stands for and an action to A(x, a); empty where there is no such network
    """

    def __init__(
        self,
        actor: PlainNetwork,
        average: MlpPolicy,
        centre: list[Layer],
        hidden: list[Layer],
        value: list[Layer],
        rating: list[Layer],
    ):
        self.actor, self.policy, self.average = actor, cast(MlpPolicy, actor.policy), average
        self.centre, self.hidden, self.value, self.rating = centre, hidden, value, rating
        log_std = getattr(self.policy, "log_std", None)
        self.learns_std = log_std is not None and log_std.requires_grad
        parameters = [
            parameter for layer in [*actor.layers, *hidden, *value, *rating] for parameter in layer.parameters
        ]
        if self.learns_std:
            parameters.append(self.policy.log_std)
        # What is not written, such as that of a standard deviation that the loss does not depend on, stays 0.
        self.gradient = parameters[0].new_zeros(count(parameters))
        pieces = unflatten(self.gradient, parameters)
        self.gradients = {id(parameter): piece for parameter, piece in zip(parameters, pieces, strict=True)}

    def run(self, observations: Observations) -> "PlainPass":
        """As :meth:`Networks.run`."""
        return PlainPass(self, observations)


class PlainPass:
    """
    As :class:`Pass`. It is made and asked under ``torch.no_grad()``.

    :param networks: that it goes through
    :param observations: of all the states
    """

    def __init__(self, networks: PlainNetworks, observations: Observations):
        self._networks = networks
        self._inputs = networks.actor.inputs(Inputs(observations))
        self._actor = Activations(networks.actor.layers, self._inputs)
        self._hidden = Activations(networks.hidden, self._inputs)
        latent = self._hidden.outputs[-1]
        head = forward(networks.value, latent)
        family = family_of_output(networks.policy, self._actor.outputs[-1])
        self.evaluation = Evaluation(family, head.squeeze(1) if isinstance(family, Gaussian) else head, latent)
        self._rated: Activations | None = None

    def centre(self, n: int) -> ActionFamily:
        """As :meth:`Pass.centre`."""
        return family_of_output(self._networks.average, forward(self._networks.centre, self._inputs[:n]))

    def advantages(self, actions: Tensor) -> Tensor:
        """As :meth:`Pass.advantages`."""
        k, n, _ = actions.shape
        latent = self.evaluation.latent[:n]
        rows = torch.cat([latent.expand(k, *latent.shape), actions], dim=2)
        self._rated = Activations(self._networks.rating, rows.view(k * n, -1))
        return self._rated.outputs[-1].view(k, n)

    def write_gradients(self, cotangents: Cotangents) -> Tensor | None:
        """As :meth:`Pass.write_gradients`."""
        networks, n = self._networks, len(cotangents.head)
        self._back(self._actor.first(n), cotangents.statistics[0])
        if networks.learns_std and len(cotangents.statistics) > 1:
            std, log_std = self.evaluation.family.statistics[1][:n], networks.policy.log_std
            log_std.grad = networks.gradients[id(log_std)]
            torch.sum(std * cotangents.statistics[1], dim=0, out=log_std.grad)

        latent, (value,) = self.evaluation.latent[:n], networks.value
        at_head = cotangents.head.view(n, -1)
        self._write(value, latent, at_head)
        at_latent = value.pull(latent, at_head, None)
        if self._rated is not None and cotangents.advantages is not None:
            at_rows = self._back(self._rated, cotangents.advantages.reshape(-1, 1))
            pulled = networks.rating[0].pull(self._rated.inputs[0], at_rows, None)
            at_latent += pulled[:, : latent.shape[1]].view(-1, *latent.shape).sum(dim=0)
        if networks.hidden:
            self._back(self._hidden.first(n), at_latent)
        return networks.gradient

    def _back(self, activations: Activations, cotangent: Tensor) -> Tensor:
        """
        Write the gradients of a chain.

        :param cotangent: at its output; it is overwritten
        :return: the cotangent at the first layer's affine map
        """
        for i, cotangent in activations.cotangents(cotangent):  # noqa: B020  # the last one is wanted
            self._write(activations.layers[i], activations.inputs[i], cotangent)
        return cotangent

    def _write(self, layer: Layer, x: Tensor, cotangent: Tensor) -> None:
        for parameter in layer.parameters:
            parameter.grad = self._networks.gradients[id(parameter)]
        layer.write_gradient(x, cotangent, *(parameter.grad for parameter in layer.parameters))  # type: ignore[arg-type]
