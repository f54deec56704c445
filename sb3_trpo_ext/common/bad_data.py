"""Going on in the presence of bad data: choosing actions all the same, forgetting it, and saying so."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize
from torch import nn

from sb3_trpo_ext.common.inputs import finite
from sb3_trpo_ext.common.ranks import ALONE, Ranks


@contextmanager
def acting_on_finite_observations(policy: nn.Module) -> Iterator[None]:
    """
    While this context lasts, ``policy(observations)`` sees 0 in the place of NaN and infinity.

    An action must be found for every state, and torch's distributions refuse parameters that are not finite. The
    rollout buffer still stores the observation as it came, so that the update can see that the data is bad.

    :param policy: called with observations as its first argument
    """
    handle = policy.register_forward_pre_hook(lambda module, inputs: (finite(inputs[0]), *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


def is_finite(policy: nn.Module) -> bool:
    """Whether all parameters of a policy are finite."""
    return all(bool(torch.isfinite(parameter).all()) for parameter in policy.parameters())


def warn_of_skipped_rollout(bad: list[str], policy_is_finite: bool = True) -> None:
    """
    The text has no count in it, so that Python shows it once and a broken environment does not flood the console.

    :param bad: names of the parts that are not finite
    :param policy_is_finite: False if the fault is the policy's own
    """
    remedy = "Wrap the environment in VecCheckNan to find the source."
    if not policy_is_finite:
        remedy = "The policy's own parameters are not finite: load the last good model, and see what wrote into them."
    warnings.warn(
        f"Update skipped: the rollout holds NaN or infinity in its {', '.join(bad)}. The policy is unchanged. {remedy} "
        "train/skipped_updates counts them.",
        stacklevel=4,
    )


class GoodStatistics:
    """
    The running statistics of a ``VecNormalize`` as they were before a rollout, so that one with bad data can be
    forgotten.

    One NaN makes a running mean NaN for good; without this, all later observations would be NaN. Statistics that are
    so already, because the first observation of all was bad, start anew.
    """

    def __init__(self) -> None:
        self._wrapper: VecNormalize | None = None

    def remember(self, environment: VecEnv) -> None:
        """
        Take a copy of the statistics as they are now.

        :param environment: the outermost wrapper; a ``VecNormalize`` is looked for in it and below
        """
        wrapper = unwrap_vec_normalize(environment)
        self._outermost = wrapper is environment
        self._wrapper = wrapper if wrapper is not None and wrapper.training else None
        if self._wrapper is not None:
            self._saved = [_usable_copy(statistics) for statistics in _statistics_of(self._wrapper)]

    def share(self, ranks: Ranks) -> None:
        """
        Give all ranks the statistics of all that they have seen since :meth:`remember`, when theirs were the same.

        :param ranks: all of them
        """
        if self._wrapper is None or ranks is ALONE:
            return
        for statistics, before in zip(_statistics_of(self._wrapper), self._saved, strict=True):
            together = before.copy()
            for mean, var, count in ranks.gather(_moments_since(statistics, before)):
                if count > 0:
                    together.update_from_moments(mean, var, count)
            _put_back(statistics, together)

    def restore(self, last_observations: Any) -> Any:
        """
        Put the statistics back as they were when they were remembered.

        :param last_observations: those that the next rollout starts from
        :return: the same, normalised anew if the wrapper is the outermost one. What other wrappers have made of them,
            such as a stack of frames, stays; the next rollout may have to be forgotten because of it, none after it.
        """
        wrapper = self._wrapper
        if wrapper is None:
            return last_observations
        for statistics, saved in zip(_statistics_of(wrapper), self._saved, strict=True):
            _put_back(statistics, saved)
        wrapper.returns = np.nan_to_num(wrapper.returns, nan=0.0, posinf=0.0, neginf=0.0)
        return wrapper.normalize_obs(wrapper.get_original_obs()) if self._outermost else last_observations


def running_statistics(environment: VecEnv | None) -> list[RunningMeanStd]:
    """Copies of those of its ``VecNormalize``: of the returns, and of observations that it normalises; [] without."""
    wrapper = None if environment is None else unwrap_vec_normalize(environment)
    return [] if wrapper is None else [statistics.copy() for statistics in _statistics_of(wrapper)]


def set_running_statistics(environment: VecEnv | None, saved: list[RunningMeanStd]) -> None:
    """
    :param environment: with a ``VecNormalize`` of the same parts, or none
    :param saved: of :func:`running_statistics`
    """
    wrapper = None if environment is None else unwrap_vec_normalize(environment)
    for statistics, one in zip([] if wrapper is None else _statistics_of(wrapper), saved, strict=True):
        _put_back(statistics, one)


def _statistics_of(wrapper: VecNormalize) -> list[RunningMeanStd]:
    """Those of the returns and, where observations are normalised, of each of their parts."""
    of_observations: Any = getattr(wrapper, "obs_rms", None)
    if isinstance(of_observations, dict):
        return [wrapper.ret_rms, *of_observations.values()]
    return [wrapper.ret_rms] if of_observations is None else [wrapper.ret_rms, of_observations]


def _moments_since(now: RunningMeanStd, before: RunningMeanStd) -> tuple[Any, Any, float]:
    """Mean, variance and number of what was taken in since: Chan's formula, solved for one of its parts."""
    count = now.count - before.count
    if count <= 0:
        return now.mean, now.var, 0.0
    mean = (now.count * now.mean - before.count * before.mean) / count
    between = (mean - before.mean) ** 2 * before.count * count / now.count
    squares = now.count * now.var - before.count * before.var - between
    return mean, np.maximum(squares, 0.0) / count, count


def _usable_copy(statistics: RunningMeanStd) -> RunningMeanStd:
    """A copy of running statistics; of fresh ones when they are not finite."""
    if np.isfinite(statistics.mean).all() and np.isfinite(statistics.var).all():
        return statistics.copy()
    return RunningMeanStd(shape=statistics.mean.shape)


def _put_back(statistics: RunningMeanStd, saved: RunningMeanStd) -> None:
    """Into the object itself, which an environment for evaluation may share."""
    statistics.mean, statistics.var, statistics.count = saved.mean.copy(), saved.var.copy(), saved.count
