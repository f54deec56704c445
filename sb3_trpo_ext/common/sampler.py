"""Choosing actions while a rollout is collected: a frozen policy that costs microseconds per step."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import obs_as_tensor
from torch import nn

from sb3_trpo_ext.common.distributions import ArraySample, FloatArray, plain_distribution
from sb3_trpo_ext.common.inputs import finite
from sb3_trpo_ext.common.network import Network, PlainNetwork
from sb3_trpo_ext.common.normalization import CLIP, Normalizer, normalizer_of
from sb3_trpo_ext.common.threads import torch_threads
from sb3_trpo_ext.kernels.layers import Layer, does_only_its_kinds
from sb3_trpo_ext.kernels.masking import FORBIDDEN
from sb3_trpo_ext.kernels.vector import count

# Matrix products with more multiplications than this numpy would share out to threads, which costs more than it brings.
LARGE = 2**18
MasksOf: TypeAlias = Callable[[Any], NDArray[np.bool_]]
"""Observations of n_envs environments, as they come from the VecEnv → what is allowed in them now."""


class Sampler(Protocol):
    """Observations of n_envs environments, as they come from the VecEnv → sampled actions, shape (n_envs, …)."""

    def __call__(self, observations: Any) -> NDArray[Any]: ...


class PolicySampler:
    """
    Samples through the policy itself, without its critic.

    :param policy: in evaluation mode
    :param n_envs: rows of observations
    :param num_threads: of torch; None chooses
    :param masks: as :func:`sampler_of`
    """

    def __init__(self, policy: ActorCriticPolicy, n_envs: int, num_threads: int | None, masks: MasksOf | None = None):
        self._policy, self._masks = policy, masks
        self._n_envs, self._size = n_envs, count(list(policy.parameters()))
        self._threads = partial(torch_threads, num_threads, n_envs, self._size)
        self._noted: list[NDArray[Any]] | None = None

    def note_log_probs(self) -> list[NDArray[Any]]:
        """
        :return: to which the log-probabilities of all actions from now on are added, each of shape (n_envs,). It stays
            empty where the network is so small that asking it again costs less
        """
        noted: list[NDArray[Any]] = []
        self._noted = noted if self._n_envs * self._size > LARGE else None
        return noted

    @torch.no_grad()
    def __call__(self, observations: Any) -> NDArray[Any]:
        tensor = finite(obs_as_tensor(observations, self._policy.device))
        further = () if self._masks is None else (self._masks(observations),)
        with self._threads():
            distribution = self._policy.get_distribution(tensor, *further)
            actions = distribution.get_actions()
            if self._noted is not None:
                self._noted.append(distribution.log_prob(actions).cpu().numpy())
        return actions.reshape((-1, *self._policy.action_space.shape)).cpu().numpy()  # type: ignore[misc]


_ARRAY_ACTIVATIONS: dict[type, Callable[[FloatArray], Any]] = {
    type(None): lambda x: x,
    nn.Tanh: lambda x: np.tanh(x, out=x),
    nn.ReLU: lambda x: np.maximum(x, 0, out=x),
}
"""Each in place."""


class ArraySampler:
    """
    Samples through a copy of a plain network in array arithmetic.

    The noise is drawn from torch's global generator as SB3 draws it, so the same seed gives the same trajectory.

    :param layers: from observations to distribution parameters, all dense
    :param sample: distribution parameters of n_envs states → one sample each
    :param normalizer: of the observations; None for none
    :param n_envs: rows of observations
    :param masks: as :func:`sampler_of`
    """

    def __init__(
        self,
        layers: list[Layer],
        sample: ArraySample,
        normalizer: Normalizer | None,
        n_envs: int,
        masks: MasksOf | None = None,
    ):
        # Of each layer weight, bias and activation, and room for its output.
        self._layers = [
            (
                layer.weight.detach().numpy().T.copy(),
                np.tile(layer.bias.detach().numpy(), (n_envs, 1)),
                _ARRAY_ACTIVATIONS[type(layer.activation)],
                np.empty((n_envs, len(layer.bias)), np.float32),
            )
            for layer in layers
        ]
        self._sample, self._masks = sample, masks
        self._moments = None if normalizer is None else normalizer.arrays()

    def __call__(self, observations: Any) -> NDArray[Any]:
        x = self._inputs(observations.reshape(len(observations), -1))
        for weight, bias, activate, room in self._layers:
            x = np.dot(x, weight, out=room)
            x += bias
            activate(x)
        if self._masks is not None:
            forbid(x, self._masks(observations))
        return self._sample(x)

    def _inputs(self, rows: NDArray[Any]) -> FloatArray:
        """What enters the network, from observations that need not be finite."""
        x = self._scaled(rows)
        square = float(np.vdot(x, x))  # of their norm: the cheapest look at all of them
        if not math.isfinite(square):
            x = self._scaled(np.nan_to_num(rows.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0))
        if self._moments is None or square <= CLIP**2:  # then none is larger
            return x
        return np.minimum(np.maximum(x, -CLIP, out=x), CLIP, out=x)

    def _scaled(self, rows: NDArray[Any]) -> FloatArray:
        """In units of standard deviations from the mean, if there is a normalizer."""
        if self._moments is None:
            return rows.astype(np.float32)
        mean, inverse_std = self._moments
        x: FloatArray = np.subtract(rows, mean).astype(np.float32)
        x *= inverse_std
        return x


def forbid(logits: FloatArray, masks: NDArray[np.bool_]) -> None:
    """As :func:`sb3_trpo_ext.kernels.masking.masked`, in place."""
    if masks.shape == logits.shape:
        np.copyto(logits, FORBIDDEN, where=~masks)
    else:
        np.copyto(logits, FORBIDDEN, where=~masks[:, 1::2])
        np.copyto(logits, -FORBIDDEN, where=~masks[:, 0::2])


def sampler_of(
    policy: ActorCriticPolicy,
    network: Network | None,
    n_envs: int,
    num_threads: int | None = None,
    masks: MasksOf | None = None,
    steps: int = 1,
) -> Sampler:
    """
    The fastest one that samples exactly as the policy does. Valid until the parameters change.

    :param policy: in evaluation mode
    :param network: from its inputs to its distribution parameters, where that is differentiated by hand
    :param n_envs: rows of observations
    :param num_threads: of torch; None chooses
    :param masks: which choices the present states allow, as :func:`sb3_trpo_ext.kernels.masking.masked` takes them;
        called once per step. None for all
    :param steps: for which random numbers may be drawn at once; 1 if somebody else draws some between the steps
    """
    space, plain = policy.observation_space, plain_distribution(policy)
    if (
        not isinstance(network, PlainNetwork)
        or plain is None
        or not isinstance(space, spaces.Box)
        or type(network.extractor) is not FlattenExtractor
        or not does_only_its_kinds(network.extractor)
        or (is_image_space(space) and policy.normalize_images)
        or policy.device.type != "cpu"
        or network.layers[0].weight.dtype != torch.float32
        or any(type(layer.activation) not in _ARRAY_ACTIVATIONS for layer in network.layers)
        or max(n_envs * layer.weight.numel() for layer in network.layers) > LARGE
    ):
        return PolicySampler(policy, n_envs, num_threads, masks)
    return ArraySampler(network.layers, plain.sampler(policy, steps), normalizer_of(policy), n_envs, masks)
