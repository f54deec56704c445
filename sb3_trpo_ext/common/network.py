"""Which of a policy's networks are plain chains of layers, to be differentiated and run by hand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    MlpExtractor,
    NatureCNN,
)
from torch import Tensor, nn

from sb3_trpo_ext.common.distributions import plain_distribution
from sb3_trpo_ext.common.inputs import Inputs
from sb3_trpo_ext.common.normalization import features_of
from sb3_trpo_ext.kernels.chain import ChainLinearization, forward
from sb3_trpo_ext.kernels.layers import Layer, does_only_its_kinds, layers_of
from sb3_trpo_ext.kernels.linearize import Linearization

MethodT = TypeVar("MethodT", bound=Callable[..., Any])


class Network(Protocol):
    """
    A network inside a policy, from its inputs to distribution parameters or values, that is differentiated by hand.
    """

    @property
    def layers(self) -> list[Layer]:
        """Those that it ends with, which make a chain."""
        ...

    @property
    def parameters(self) -> list[Tensor]:
        """All that is trained, in the order of its vectors."""
        ...

    def forward(self, inputs: Inputs) -> Tensor:
        """The outputs in n states, without a graph, shape (n, k)."""
        ...

    def linearize(self, inputs: Inputs) -> Linearization:
        """The same, and how they change with the parameters."""
        ...


@dataclass(frozen=True)
class PlainNetwork:
    """
    A chain of layers inside a policy, from its inputs to distribution parameters or values.

    :param layers: in order; they hold the policy's own parameters
    :param policy: that they belong to
    :param extractor: of features; it is itself the beginning of the chain, or has nothing to train
    :param from_pixels: whether the chain begins in the extractor
    """

    layers: list[Layer]
    policy: ActorCriticPolicy
    extractor: BaseFeaturesExtractor
    from_pixels: bool

    @property
    def parameters(self) -> list[Tensor]:
        """Of the layers, in their order."""
        return [parameter for layer in self.layers for parameter in layer.parameters]

    @torch.no_grad()
    def inputs(self, inputs: Inputs) -> Tensor:
        """
        What enters the first layer; constant in the chain's parameters.

        :param inputs: of n states
        :return: shape (n, …)
        """
        observations = inputs.observations
        if self.from_pixels:
            assert isinstance(observations, Tensor)
            # Convolutions, their gradients above all, are up to twice as fast with the channels innermost.
            observations = observations.contiguous(memory_format=torch.channels_last)
            features = preprocess_obs(observations, self.policy.observation_space, self.policy.normalize_images)
        else:
            features = features_of(self.policy, observations, self.extractor)
        assert isinstance(features, Tensor)
        return features.to(self.layers[0].weight.dtype)

    @torch.no_grad()
    def forward(self, inputs: Inputs) -> Tensor:
        """As :meth:`Network.forward`."""
        return forward(self.layers, self.inputs(inputs))

    def linearize(self, inputs: Inputs) -> Linearization:
        """As :meth:`Network.linearize`."""
        return ChainLinearization(self.layers, self.inputs(inputs))


def actor_network(policy: ActorCriticPolicy) -> PlainNetwork | None:
    """
    The network from observations to distribution parameters (means or logits).

    :param policy: any
    :return: None when it does anything else than SB3's own chains
    """
    if plain_distribution(policy) is None or not has_sb3s(policy, "_get_action_dist_from_latent"):
        return None
    if not has_sb3s(policy, "get_distribution"):
        return None
    hidden = modules_of(policy, "policy_net")
    if hidden is None:
        return None
    return _plain(policy, policy.pi_features_extractor, [*hidden, policy.action_net], True)


def critic_network(policy: ActorCriticPolicy, trains_extractor: bool) -> PlainNetwork | None:
    """
    The network from observations to values.

    :param policy: any
    :param trains_extractor: whether the features extractor is the critic's own
    :return: None when it does anything else than SB3's own chains
    """
    if not has_sb3s(policy, "predict_values"):
        return None
    hidden = modules_of(policy, "value_net")
    if hidden is None:
        return None
    return _plain(policy, policy.vf_features_extractor, [*hidden, policy.value_net], trains_extractor)


def _plain(
    policy: ActorCriticPolicy, extractor: BaseFeaturesExtractor, head: Sequence[nn.Module], trains_extractor: bool
) -> PlainNetwork | None:
    if not has_sb3s(policy, "extract_features"):
        return None
    kind = type(extractor)
    stem: list[nn.Module] = []
    if kind is NatureCNN:
        parts = [modules_in(part) for part in (extractor.cnn, extractor.linear)]
        if trains_extractor:
            if not does_only_its_kinds(extractor) or None in parts:
                return None
            stem = [module for part in parts for module in part or ()]
    elif not has_nothing_to_train(extractor):
        return None
    layers = trained_layers([*stem, *head])
    return None if layers is None else PlainNetwork(layers, policy, extractor, bool(stem))


def has_nothing_to_train(extractor: BaseFeaturesExtractor) -> bool:
    """Whether features are observations, in another form."""
    is_known = type(extractor) in (FlattenExtractor, CombinedExtractor)
    return is_known and next(extractor.parameters(), None) is None


def trained_layers(modules: Sequence[nn.Module]) -> list[Layer] | None:
    """
    As :func:`sb3_trpo_ext.kernels.layers.layers_of`, and None where a parameter is frozen.

    :param modules: applied one after the other
    """
    layers = layers_of(modules)
    if layers is None or not all(parameter.requires_grad for layer in layers for parameter in layer.parameters):
        return None
    return layers


def modules_of(policy: ActorCriticPolicy, network: str) -> list[nn.Module] | None:
    """
    :param policy: any
    :param network: name of one of the two of SB3's ``mlp_extractor``
    :return: the modules that it calls one after the other; None where it may do anything else
    """
    has_sb3s_mlp = type(policy.mlp_extractor) is MlpExtractor and does_only_its_kinds(policy.mlp_extractor)
    return modules_in(getattr(policy.mlp_extractor, network)) if has_sb3s_mlp else None


def stands_for(original: Callable[..., Any]) -> Callable[[MethodT], MethodT]:
    """
    Marks a policy's method that does what one of SB3's does where its further arguments are left out.

    :param original: SB3's
    """

    def mark(method: MethodT) -> MethodT:
        method.stands_for = original  # type: ignore[attr-defined]
        return method

    return mark


def has_sb3s(policy: ActorCriticPolicy, method: str) -> bool:
    """Whether a policy has left one of SB3's methods as it is, or has one that stands for it."""
    found = getattr(type(policy), method, None)
    return getattr(found, "stands_for", found) is getattr(ActorCriticPolicy, method) and method not in vars(policy)


def modules_in(container: Any) -> list[nn.Module] | None:
    """What a container calls, one after the other; None where it may do anything else."""
    return list(container) if type(container) is nn.Sequential and does_only_its_kinds(container) else None
