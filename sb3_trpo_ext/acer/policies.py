"""
The networks of ACER: an SB3 actor-critic policy whose critic knows about actions.

Discrete: the critic's head is Q(x, ·), and V(x) = Σ_a π(a|x) Q(x, a). MultiDiscrete: it is V(x) and, of every choice of
every dimension, A_d(x, ·). Box: it has the heads V(x) and A(x, a) of a stochastic duelling network. Actor and critic
share the features extractor, or not, as in SB3.
"""

import math
from copy import deepcopy
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    NatureCNN,
    create_mlp,
)
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from sb3_trpo_ext.common.distributions import plain_distribution
from sb3_trpo_ext.common.inputs import Observations
from sb3_trpo_ext.common.normalization import NormalizingPolicy, features_of
from sb3_trpo_ext.kernels.families import Categorical, Gaussian, MultiCategorical

ActionFamily: TypeAlias = Categorical | MultiCategorical | Gaussian

# Exploration of Box actions: the standard deviation of the paper's experiments.
LOG_STD = math.log(0.3)


class Evaluation(NamedTuple):
    """
    A policy at n states.

    :param family: π
    :param head: Q(x, ·) of shape (n, k) for Discrete actions; V(x) and the A_d(x, ·) side by side, of shape
        (n, 1 + Σ k_d), for MultiDiscrete; V(x) of shape (n,) for Box
    :param latent: what A(x, a) is computed from besides a, shape (n, …)
    """

    family: ActionFamily
    head: Tensor
    latent: Tensor

    @property
    def values(self) -> Tensor:
        """V(x), shape (n,)."""
        if isinstance(self.family, Gaussian):
            return self.head
        if isinstance(self.family, MultiCategorical):
            return self.head[:, 0]
        return (self.family.p * self.head).sum(dim=1)

    def first(self, n: int) -> "Evaluation":
        """Of the first n states alone."""
        statistics = [part[:n] for part in self.family.statistics]
        return Evaluation(self.family.with_statistics(statistics), self.head[:n], self.latent[:n])


class MlpPolicy(NormalizingPolicy):
    """
    Actor and critic of ACER. All arguments but the following are those of
    :class:`~sb3_trpo_ext.common.normalization.NormalizingPolicy`.

    :param observation_space: of the environment
    :param action_space: Discrete, MultiDiscrete or Box
    :param lr_schedule: of the optimizer
    :param log_std_init: logarithm of the (initial) standard deviation of Box actions; None is that of 0.3
    :param advantage_arch: units of the hidden layers of A(x, a), behind the critic's own, which end in what (x) stands
        for; None for one layer of 64
    :param kwargs: as SB3's
    """

    advantage_net: nn.Sequential | None
    """From what (x) stands for, and an action, to A(x, a); Box alone has one. Made in ``_build``."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        log_std_init: float | None = None,
        advantage_arch: list[int] | None = None,
        **kwargs: Any,
    ):
        self.advantage_arch = [64] if advantage_arch is None else advantage_arch
        log_std_init = LOG_STD if log_std_init is None else log_std_init
        super().__init__(observation_space, action_space, lr_schedule, log_std_init=log_std_init, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {
            "advantage_arch": self.advantage_arch,
            "share_features_extractor": self.share_features_extractor,
        }

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        width, space = self.mlp_extractor.latent_dim_vf, self.action_space
        if isinstance(space, spaces.Box):
            layers = create_mlp(width + math.prod(space.shape), 1, self.advantage_arch, self.activation_fn)
            self.advantage_net = nn.Sequential(*layers)
            head: nn.Module = self.advantage_net
        else:
            self.advantage_net = None
            outputs = int(space.n) if isinstance(space, spaces.Discrete) else 1 + int(space.nvec.sum())  # type: ignore[attr-defined]
            head = self.value_net = nn.Linear(width, outputs)
        if self.ortho_init:
            head.apply(self.init_weights)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def evaluate(self, observations: Observations) -> Evaluation:
        """
        π and the critic's heads at n states, with their graph.

        :param observations: n of them, as the policy takes them
        """
        features = features_of(self, observations, self.pi_features_extractor)
        latent_pi = self.mlp_extractor.forward_actor(features)
        if not self.share_features_extractor:
            features = features_of(self, observations, self.vf_features_extractor)
        latent = self.mlp_extractor.forward_critic(features)
        head = self.value_net(latent)
        return Evaluation(self._family(latent_pi), head if self.advantage_net is None else head.squeeze(1), latent)

    def family(self, observations: Observations) -> ActionFamily:
        """
        π alone.

        :param observations: n of them
        """
        features = features_of(self, observations, self.pi_features_extractor)
        return self._family(self.mlp_extractor.forward_actor(features))

    def advantages(self, latent: Tensor, actions: Tensor) -> Tensor:
        """
        A(x, a) of several actions in each state (Box only).

        :param latent: from :meth:`evaluate`, shape (n, …)
        :param actions: shape (k, n, d)
        :return: shape (k, n)
        """
        rows = torch.cat([latent.expand(len(actions), *latent.shape), actions], dim=2)
        assert self.advantage_net is not None
        outputs: Tensor = self.advantage_net(rows).squeeze(2)
        return outputs

    def predict_values(self, obs: Any) -> Tensor:
        return self.evaluate(obs).values.unsqueeze(1)

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        distribution = self.get_distribution(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        log_prob = distribution.log_prob(actions)
        return actions.reshape((-1, *self.action_space.shape)), self.predict_values(obs), log_prob  # type: ignore[misc]

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        values = self.predict_values(obs)
        distribution = self.get_distribution(obs)
        return values, distribution.log_prob(actions), distribution.entropy()

    def _family(self, latent_pi: Tensor) -> ActionFamily:
        return family_of_output(self, self.action_net(latent_pi))


class CnnPolicy(MlpPolicy):
    """
    For images. Arguments as :class:`MlpPolicy`.

    :param features_extractor_class: of images
    """

    def __init__(self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = NatureCNN, **kwargs: Any):
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class MultiInputPolicy(MlpPolicy):
    """
    For dictionaries of vectors and images. Arguments as :class:`MlpPolicy`.

    :param features_extractor_class: of dictionaries
    """

    def __init__(
        self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] = CombinedExtractor, **kwargs: Any
    ):
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


def family_of_output(policy: MlpPolicy, output: Tensor) -> ActionFamily:
    """
    :param policy: π
    :param output: of the actor's last layer, shape (n, k)
    :return: the n distributions that follow from it
    """
    plain = plain_distribution(policy)
    assert plain is not None  # the spaces above have one
    return cast(ActionFamily, plain.family(policy, output))


def frozen_copy(policy: MlpPolicy) -> MlpPolicy:
    """
    A copy of a policy that no gradient reaches: where the average policy starts.

    :param policy: with no graph in its distribution object
    """
    copy = deepcopy(policy)
    copy.set_training_mode(False)
    return copy.requires_grad_(False)
