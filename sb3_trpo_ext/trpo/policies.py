"""
The policies that ``TRPO("MlpPolicy", …)``, ``"CnnPolicy"`` and ``"MultiInputPolicy"`` stand for.

They are SB3's own, but for one default. TRPO moves whatever the actor uses by the trust-region step alone, so a
features extractor that is shared learns nothing from the returns, and the critic can only train what is behind it.
For images and dictionaries, where the extractor is most of the network, each side therefore has its own by default.
"""

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.type_aliases import Schedule

MlpPolicy = ActorCriticPolicy


class CnnPolicy(ActorCriticCnnPolicy):
    """
    SB3's policy for images, with separate features extractors by default.

    :param observation_space: of the environment
    :param action_space: of the environment
    :param lr_schedule: of the critic's optimizer
    :param share_features_extractor: True for one extractor, which then only the trust-region step trains
    :param kwargs: as SB3's ``ActorCriticCnnPolicy``
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        share_features_extractor: bool = False,
        **kwargs: Any,
    ):
        super().__init__(
            observation_space, action_space, lr_schedule, share_features_extractor=share_features_extractor, **kwargs
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        # SB3 leaves this out, so that policy.save() and load() would fall back to the default.
        return super()._get_constructor_parameters() | {"share_features_extractor": self.share_features_extractor}


class MultiInputPolicy(MultiInputActorCriticPolicy):
    """
    SB3's policy for dictionaries, with separate features extractors by default.

    :param observation_space: of the environment
    :param action_space: of the environment
    :param lr_schedule: of the critic's optimizer
    :param share_features_extractor: True for one extractor, which then only the trust-region step trains
    :param kwargs: as SB3's ``MultiInputActorCriticPolicy``
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        share_features_extractor: bool = False,
        **kwargs: Any,
    ):
        super().__init__(
            observation_space, action_space, lr_schedule, share_features_extractor=share_features_extractor, **kwargs
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"share_features_extractor": self.share_features_extractor}
