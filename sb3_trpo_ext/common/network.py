"""Which of a policy's networks are plain chains of layers, to be differentiated and run by hand."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
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
from sb3_trpo_ext.kernels.layers import Layer, layers_of


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
            features = BasePolicy.extract_features(self.policy, observations, self.extractor)
        assert isinstance(features, Tensor)
        return features.to(self.layers[0].weight.dtype)


def actor_network(policy: ActorCriticPolicy) -> PlainNetwork | None:
    """
    The network from observations to distribution parameters (means or logits).

    :param policy: any
    :return: None when it does anything else than SB3's own chains
    """
    if plain_distribution(policy) is None or not _has_sb3s(policy, "_get_action_dist_from_latent"):
        return None
    if not _has_sb3s(policy, "get_distribution"):
        return None
    head = [*policy.mlp_extractor.policy_net, policy.action_net] if _has_mlp(policy) else []
    return _plain(policy, policy.pi_features_extractor, head, True)


def critic_network(policy: ActorCriticPolicy, trains_extractor: bool) -> PlainNetwork | None:
    """
    The network from observations to values.

    :param policy: any
    :param trains_extractor: whether the features extractor is the critic's own
    :return: None when it does anything else than SB3's own chains
    """
    if not _has_sb3s(policy, "predict_values"):
        return None
    head = [*policy.mlp_extractor.value_net, policy.value_net] if _has_mlp(policy) else []
    return _plain(policy, policy.vf_features_extractor, head, trains_extractor)


def _plain(
    policy: ActorCriticPolicy, extractor: BaseFeaturesExtractor, head: Sequence[nn.Module], trains_extractor: bool
) -> PlainNetwork | None:
    if not head or not _has_sb3s(policy, "extract_features"):
        return None
    kind = type(extractor)
    if kind is NatureCNN:
        stem = [*extractor.cnn, *extractor.linear] if trains_extractor else []  # type: ignore[misc]
    elif kind in (FlattenExtractor, CombinedExtractor) and next(extractor.parameters(), None) is None:
        stem = []
    else:
        return None
    layers = layers_of([*stem, *head])
    if layers is None or not all(parameter.requires_grad for layer in layers for parameter in layer.parameters):
        return None
    return PlainNetwork(layers, policy, extractor, bool(stem))


def _has_sb3s(policy: ActorCriticPolicy, method: str) -> bool:
    """Whether a policy class has left one of SB3's methods as it is."""
    return getattr(type(policy), method) is getattr(ActorCriticPolicy, method)


def _has_mlp(policy: ActorCriticPolicy) -> bool:
    return type(policy.mlp_extractor) is MlpExtractor
