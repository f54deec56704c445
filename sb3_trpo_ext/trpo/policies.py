"""
The policies that ``TRPO("MlpPolicy", …)``, ``"CnnPolicy"`` and ``"MultiInputPolicy"`` stand for.

They are SB3's own, but for these things. TRPO moves whatever the actor uses by the trust-region step alone, so a
features extractor that is shared learns nothing from the returns, and the critic can only train what is behind it.
For images and dictionaries, where the extractor is most of the network, each side therefore has its own by default.
A critic in a trust region starts with the value 0 everywhere: SB3's starts with values of about 1, which mean much
where the returns are small. The noise of Box actions starts in proportion to their range, where SB3's is 1 whatever the
range. How large the actor's last layer is at the start, which SB3 has fixed, is an argument. And observations may be
normalised inside.
"""

import math
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
)
from stable_baselines3.common.type_aliases import Schedule

from sb3_trpo_ext.common.normalization import NormalizingPolicy
from sb3_trpo_ext.common.settings import number

SB3_LAST_LAYER_GAIN = 0.01
FIRST_STD = math.exp(-1)  # of the actions' noise, in units of half their range
FAR = 1e6  # half a range that is as good as none


class MlpPolicy(NormalizingPolicy):
    """
    SB3's policy for vectors.

    :param observation_space: of the environment
    :param action_space: of the environment
    :param lr_schedule: of the critic's optimizer
    :param last_layer_gain: finite, above 0, of the orthogonal initialisation of the actor's last layer. With SB3's 0.01
        the first actions hardly depend on the observation: a Box action's mean is near 0, discrete ones are about
        equally probable
    :param log_std_init: logarithm of the standard deviation of Box actions at the start. None is a deviation of e⁻¹
        times half of each action's range, taken for 2 where that is 0, or two million and more; with gSDE 0, as SB3's
    :param features_extractor_class: of each side; None is the class's own
    :param share_features_extractor: True for one extractor, which then only the trust-region step trains; None is True
        for vectors, which need none, and False for images and dictionaries
    :param kwargs: as :class:`~sb3_trpo_ext.common.normalization.NormalizingPolicy`
    :raises ValueError: when the gain is not above 0, or is another than 0.01 without ``ortho_init``
    """

    EXTRACTOR: ClassVar[type[BaseFeaturesExtractor]] = FlattenExtractor
    SHARES_IT: ClassVar[bool] = True

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        last_layer_gain: float = SB3_LAST_LAYER_GAIN,
        log_std_init: float | None = None,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        share_features_extractor: bool | None = None,
        **kwargs: Any,
    ):
        if not number(0, open_low=True)(last_layer_gain):
            raise ValueError(
                f"policy_kwargs=dict(last_layer_gain=...) must be a finite number above 0, got {last_layer_gain!r}. "
                f"SB3's own is {SB3_LAST_LAYER_GAIN}."
            )
        self.last_layer_gain = last_layer_gain
        self.noise_by_bounds = log_std_init is None and not kwargs.get("use_sde", False)
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            log_std_init=0.0 if log_std_init is None else log_std_init,
            features_extractor_class=features_extractor_class or self.EXTRACTOR,
            share_features_extractor=self.SHARES_IT if share_features_extractor is None else share_features_extractor,
            **kwargs,
        )

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        if self.noise_by_bounds and isinstance(self.action_space, spaces.Box):
            with torch.no_grad():
                self.log_std.copy_(torch.as_tensor(FIRST_STD * half_range(self.action_space)).log())
        if self.last_layer_gain != SB3_LAST_LAYER_GAIN:
            if not self.ortho_init:
                raise ValueError(f"last_layer_gain={self.last_layer_gain} needs ortho_init=True")
            with torch.no_grad():
                for parameter in self.action_net.parameters():  # the bias is 0
                    parameter.mul_(self.last_layer_gain / SB3_LAST_LAYER_GAIN)

    @torch.no_grad()
    def predict_0(self) -> None:
        """Make the critic predict 0 everywhere, until it is fitted."""
        for parameter in self.value_net.parameters():
            parameter.zero_()

    def _get_constructor_parameters(self) -> dict[str, Any]:
        # SB3 leaves the second out, so that policy.save() and load() would fall back to the default.
        own: dict[str, Any] = {
            "last_layer_gain": self.last_layer_gain,
            "share_features_extractor": self.share_features_extractor,
        }
        return super()._get_constructor_parameters() | own | ({"log_std_init": None} if self.noise_by_bounds else {})


def half_range(space: spaces.Box) -> NDArray[np.float64]:
    """Of each action, flat; 1 where bounds say nothing: equal ones, and those a million and more from the middle."""
    half = space.high.astype(np.float64) / 2 - space.low.astype(np.float64) / 2
    return np.where((half > 0) & (half < FAR), half, 1.0).flatten()


class CnnPolicy(MlpPolicy):
    """SB3's policy for images, with separate features extractors by default. Arguments as :class:`MlpPolicy`."""

    EXTRACTOR = NatureCNN
    SHARES_IT = False


class MultiInputPolicy(MlpPolicy):
    """SB3's policy for dictionaries, with separate features extractors by default. Arguments as :class:`MlpPolicy`."""

    EXTRACTOR = CombinedExtractor
    SHARES_IT = False
