"""Collecting experience in the presence of bad data: what a NaN from an environment may and may not touch."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

from sb3_trpo_ext.common.actor import Observations


@contextmanager
def acting_on_finite_observations(policy: nn.Module) -> Iterator[None]:
    """
    While this context lasts, ``policy(observations)`` sees 0 in the place of NaN and infinity.

    An action must be found for every state, and torch's distributions refuse parameters that are not finite. The
    rollout buffer still stores the observation as it came, so that the update can see that the data is bad.

    :param policy: called with observations as its first argument
    """
    handle = policy.register_forward_pre_hook(lambda module, inputs: (_finite(inputs[0]), *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


def _finite(observations: Observations) -> Observations:
    if isinstance(observations, dict):
        return {key: _finite_tensor(value) for key, value in observations.items()}
    return _finite_tensor(observations)


def _finite_tensor(observation: Tensor) -> Tensor:
    return torch.nan_to_num(observation, nan=0.0, posinf=0.0, neginf=0.0)


class NormalizationKeeper:
    """
    Remembers the running statistics of a ``VecNormalize``, so that a rollout with bad data can be forgotten.

    One NaN makes a running mean NaN for good; without this, all later observations would be NaN.

    :param environment: the wrapper, or None when there is none
    """

    def __init__(self, environment: VecNormalize | None):
        self._environment = environment if environment is not None and environment.training else None
        if self._environment is not None:
            self._statistics = deepcopy((getattr(self._environment, "obs_rms", None), self._environment.ret_rms))

    def forget_rollout(self, last_observations: Any) -> Any:
        """
        Put the statistics back as they were when this object was made.

        :param last_observations: those that the next rollout starts from
        :return: the same, normalised anew where the wrapper is the outermost one
        """
        environment = self._environment
        if environment is None:
            return last_observations
        observation_statistics, environment.ret_rms = self._statistics
        if observation_statistics is not None:
            environment.obs_rms = observation_statistics
        environment.returns = np.nan_to_num(environment.returns, nan=0.0, posinf=0.0, neginf=0.0)
        return environment.normalize_obs(environment.get_original_obs())
