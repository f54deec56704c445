"""Observations as the networks take them: each component with mean 0 and standard deviation 1."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from sb3_trpo_ext.common.distributions import FloatArray
from sb3_trpo_ext.common.inputs import Observations
from sb3_trpo_ext.common.ranks import ALONE, Ranks

OPTION = "normalize_observations"  # of a policy's constructor
EPSILON = 1e-8  # added to variances
CLIP = 10.0  # in standard deviations


class RunningMoments(nn.Module):
    """
    Mean and variance of all that was taken in. They move in :meth:`take_in` and nowhere else.

    :param shape: of one observation
    """

    count: Tensor
    """n, a whole number."""
    mean: Tensor
    """Of the n observations, in float64."""
    m2: Tensor
    """Σ (x − mean)² over them, in float64."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("m2", torch.zeros(shape, dtype=torch.float64))

    @torch.no_grad()
    def take_in(self, rows: Tensor, ranks: Ranks = ALONE) -> None:
        """
        :param rows: finite, shape (n, …), n ≥ 1
        :param ranks: who all take in rows of their own, which are added in the ranks' order
        """
        rows = rows.to(self.mean.dtype)
        variance, mean = torch.var_mean(rows, dim=0, correction=0)
        own = (len(rows), variance, mean) if ranks is ALONE else (len(rows), variance.cpu(), mean.cpu())
        for n, *moments in ranks.gather(own):
            self._add(n, *(part.to(self.mean.device) for part in moments))

    def _add(self, n: int, variance: Tensor, mean: Tensor) -> None:
        """Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance", eq. (1.5)."""
        taken = int(self.count)
        difference = mean - self.mean
        self.mean += difference * (n / (n + taken))
        self.m2 += n * variance + difference.square() * (n * taken / (n + taken))
        self.count += n

    @property
    def inverse_std(self) -> Tensor:
        """1 / √(variance + ε); 1 as long as nothing was taken in."""
        # Without a branch in Python, so that an exported policy can be given other statistics.
        variance = self.m2 / self.count.clamp(min=1) + EPSILON
        return torch.where(self.count > 0, variance, 1.0).rsqrt()

    def forward(self, rows: Tensor) -> Tensor:
        """
        (x − mean) / √(variance + ε), at most 10 from 0.

        :param rows: shape (n, …), of any type
        :return: in float32, as SB3 gives observations to networks
        """
        # Only the difference needs more precision: of observations far from 0 float32 would leave little.
        return (rows.to(self.mean.dtype) - self.mean).float().mul_(self.inverse_std.float()).clamp_(-CLIP, CLIP)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        try:
            return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        except TypeError:  # of devices that have no float64, such as Apple's
            self.mean, self.m2 = self.mean.float(), self.m2.float()
            return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]


class Normalizer(nn.Module):
    """
    Normalises observations, or some parts of a dictionary of observations, each component on its own.

    :param space: of the observations
    :param keys: of a dictionary's parts; not used where observations are no dictionary
    """

    moves = True
    """False to keep the statistics as they are, as ``VecNormalize.training`` does."""

    def __init__(self, space: spaces.Space[Any], keys: Sequence[str]):
        super().__init__()
        self.keys = list(dict.fromkeys(keys))
        parts = [space[key] for key in self.keys] if isinstance(space, spaces.Dict) else [space]
        self.moments = nn.ModuleList(RunningMoments(part.shape) for part in parts)  # type: ignore[arg-type]

    def forward(self, observations: Observations) -> Observations:
        """
        :param observations: as they came from the environment
        """
        if isinstance(observations, Tensor):
            normalized: Tensor = self.moments[0](observations)
            return normalized
        parts = zip(self.keys, self.moments, strict=True)
        return {**observations, **{key: moments(observations[key]) for key, moments in parts}}

    def take_in(self, observations: Observations, ranks: Ranks = ALONE) -> None:
        """
        :param observations: as they came from the environment, finite, n ≥ 1 of them
        :param ranks: who all take in observations of their own
        """
        parts = [observations] if isinstance(observations, Tensor) else [observations[key] for key in self.keys]
        for part, moments in zip(parts, self.moments, strict=True):
            moments.take_in(part, ranks)  # type: ignore[operator]

    def knows_anything(self) -> bool:
        """Whether any observation was taken in."""
        return any(int(moments.count) for moments in self.moments)  # type: ignore[arg-type]

    def arrays(self) -> tuple[FloatArray, FloatArray]:
        """Mean and 1 / standard deviation of an observation that is no dictionary, flat, as they are now."""
        moments: Any = self.moments[0]
        return moments.mean.flatten().numpy().copy(), moments.inverse_std.float().flatten().numpy()


class _NormalizedFeatures(BasePolicy):
    """SB3's ``BasePolicy``, which normalises observations before it asks for features."""

    normalizer: Normalizer | None
    """Made in ``_build``; no attribute of the class, which would hide it."""

    def extract_features(self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor) -> Tensor:
        normalized: Any = obs if self.normalizer is None else self.normalizer(obs)
        return super().extract_features(normalized, features_extractor)


# All of ActorCriticPolicy's ways to features end in the extract_features of the class behind it in this list, once.
class NormalizingPolicy(ActorCriticPolicy, _NormalizedFeatures):  # type: ignore[misc]
    """
    SB3's actor-critic policy, which may normalise observations by statistics of its own, saved with its parameters.

    The algorithms move the statistics once per iteration, between an update and the next rollout. While a rollout is
    collected and learned from, the policy is one and the same function.

    :param observation_space: of the environment
    :param action_space: of the environment
    :param lr_schedule: of the optimizer
    :param normalize_observations: True for all that is normalizable: a Box of floats of at most two dimensions, and
        such parts of a Dict; a list for some parts of a Dict; None or False for nothing. The algorithms give a new
        policy what is not normalised by the environment already.
    :param kwargs: as SB3's ``ActorCriticPolicy``
    :raises ValueError: when there is nothing to normalise, or a part can not be
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        normalize_observations: bool | Sequence[str] | None = None,
        **kwargs: Any,
    ):
        check_normalizable(observation_space, normalize_observations)
        self.normalize_observations = normalize_observations
        self.normalizer = None
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        chosen, space = self.normalize_observations, self.observation_space
        keys = normalizable_keys(space) if isinstance(chosen, bool) or chosen is None else chosen
        self.normalizer = Normalizer(space, keys) if chosen else None
        super()._build(lr_schedule)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {OPTION: self.normalize_observations}


def features_of(policy: ActorCriticPolicy, observations: Observations, extractor: BaseFeaturesExtractor) -> Tensor:
    """
    What one of a policy's features extractors makes of observations, normalised if the policy does that.

    :param policy: whose extractor it is; its ``extract_features`` must be SB3's
    :param observations: n of them, as the policy takes them
    :param extractor: of the actor or of the critic
    :return: shape (n, …)
    """
    # Past ActorCriticPolicy's own, which asks both extractors.
    return super(ActorCriticPolicy, policy).extract_features(observations, extractor)


def normalizer_of(policy: nn.Module) -> Normalizer | None:
    """What normalises a policy's observations; None where nothing does."""
    return policy.normalizer if isinstance(policy, NormalizingPolicy) else None


def is_normalizable(space: spaces.Space[Any]) -> bool:
    """Whether it is one of numbers whose mean says something: of floats, and no image."""
    return isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating) and len(space.shape) < 3


def normalizable_keys(space: spaces.Space[Any]) -> list[str]:
    """The parts of a dictionary of observations that can be normalised."""
    return [key for key, part in space.items() if is_normalizable(part)] if isinstance(space, spaces.Dict) else []


def check_normalizable(space: spaces.Space[Any], chosen: bool | Sequence[str] | None) -> None:
    """
    :param space: of observations
    :param chosen: what is to be normalised in it
    :raises ValueError: when that can not be
    """
    keys = normalizable_keys(space)
    if chosen is True:
        holds = is_normalizable(space) or bool(keys)
    else:
        are_keys = isinstance(chosen, (list, tuple)) and bool(chosen) and set(chosen) <= set(keys)
        holds = chosen is None or chosen is False or are_keys
    if not holds:
        raise ValueError(
            "policy_kwargs=dict(normalize_observations=...) must be False, True where observations are a Box of floats "
            "of at most two dimensions or a Dict that holds some, or a list of such parts of a Dict, got "
            f"{chosen!r} with {space}. Leave it out to have normalised what can be."
        )
