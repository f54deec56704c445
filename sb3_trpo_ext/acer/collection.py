"""A finished rollout as sequences: as the policy saw it, and as the environments gave it."""

import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_trpo_ext.acer.buffer import Array, Arrays, Sequences
from sb3_trpo_ext.acer.policies import MlpPolicy
from sb3_trpo_ext.common.collection import Timeout, step_through
from sb3_trpo_ext.common.inputs import finite
from sb3_trpo_ext.common.sampler import Sampler


class Collected(NamedTuple):
    """
    :param seen: what the policy acted on, and the rewards it learns from
    :param original: the same before normalisation, for the replay buffer
    """

    seen: Sequences
    original: Sequences

    def not_finite(self) -> list[str]:
        """The names of the parts that hold NaN or infinity; empty when all is well."""
        return self.seen.not_finite() or self.original.not_finite()


class SequenceRolloutBuffer(RolloutBuffer):
    """SB3's buffer, in which the sequences lie too that it was filled with."""

    collected: Collected


class DictSequenceRolloutBuffer(DictRolloutBuffer):
    """The same for dictionaries of observations."""

    collected: Collected


def rollout_buffer_of(model: OnPolicyAlgorithm) -> SequenceRolloutBuffer | DictSequenceRolloutBuffer:
    """
    :param model: whose spaces and numbers of steps and environments it has
    """
    space, sizes = model.observation_space, {"n_envs": model.n_envs, "device": model.device}
    if isinstance(space, spaces.Dict):
        return DictSequenceRolloutBuffer(model.n_steps, space, model.action_space, **sizes)  # type: ignore[arg-type]
    return SequenceRolloutBuffer(model.n_steps, space, model.action_space, **sizes)  # type: ignore[arg-type]


class _Recording:
    """
    Samples actions, and remembers the observations and rewards that a ``VecNormalize`` has normalised.

    :param sampler: chooses the actions
    :param wrapper: of the environments
    """

    def __init__(self, sampler: Sampler, wrapper: VecNormalize):
        self._sampler, self._wrapper = sampler, wrapper
        self._observations: list[Any] = []
        self._rewards: list[Array] = []
        self._timeouts: list[Timeout] = []

    def __call__(self, observations: Any) -> Array:
        self.note()
        return self._sampler(observations)

    def note(self) -> None:
        """Remember the latest observations, and the rewards that came with them."""
        if self._observations:
            self._rewards.append(self._wrapper.get_original_reward())
        self._observations.append(self._wrapper.get_original_obs())

    def note_timeout(self, timeout: Timeout) -> None:
        """Remember an episode's last observation while the statistics that normalised it are still the same."""
        original = self._wrapper.unnormalize_obs(timeout.observation)  # NumPy may have made it float64
        if isinstance(original, dict):
            original = {key: part.astype(timeout.observation[key].dtype) for key, part in original.items()}
        else:
            original = original.astype(timeout.observation.dtype)
        self._timeouts.append(timeout._replace(observation=original))

    def original(self, seen: Sequences) -> Sequences:
        """
        :param seen: the sequences that were recorded
        """
        observations: Arrays = seen.observations
        if isinstance(observations, dict):  # of which some parts may not be normalised
            keys = normalized_keys(self._wrapper)
            observations = observations | {key: np.stack([each[key] for each in self._observations]) for key in keys}
        elif self._wrapper.norm_obs:
            observations = np.stack(self._observations)
        rewards = np.stack(self._rewards).astype(np.float32)
        return Sequences(observations, seen.actions, rewards, seen.statistics, seen.dones, tuple(self._timeouts))


def normalized_keys(wrapper: VecNormalize) -> list[str]:
    """Which parts of a dictionary of observations a wrapper normalises."""
    return list(wrapper.norm_obs_keys or []) if wrapper.norm_obs else []


def usable_normalizer(wrapper: VecNormalize | None, space: spaces.Space[Any]) -> VecNormalize | None:
    """
    :param wrapper: somewhere among the environment's wrappers, or None
    :param space: of the observations that the policy gets in the end
    :return: the wrapper, if what it normalises can be had without the normalisation
    """
    if wrapper is None or not (wrapper.norm_obs or wrapper.norm_reward):
        return None
    inner = wrapper.observation_space
    if isinstance(space, spaces.Dict) and isinstance(inner, spaces.Dict):
        changed = any(inner[key] != space[key] for key in normalized_keys(wrapper))
    else:
        changed = wrapper.norm_obs and inner != space
    if changed:
        warnings.warn(
            "Another wrapper changes the observations after VecNormalize has normalised them, so the replay buffer "
            "stores them as they were normalised when they were collected. Put VecNormalize outermost.",
            stacklevel=5,
        )
        return None
    return wrapper


def collect(
    model: OnPolicyAlgorithm,
    policy: MlpPolicy,
    sampler: Sampler,
    env: VecEnv,
    callback: BaseCallback,
    buffer: RolloutBuffer,
    wrapper: VecNormalize | None,
) -> bool:
    """
    One sequence from each environment, into the buffer.

    The parameters do not change within a rollout, so the behaviour policy's distributions follow for all steps at its
    end, in one batch.

    :param model: whose observations and counters are used and advanced
    :param policy: of the model, in evaluation mode
    :param sampler: chooses its actions
    :param env: to step in
    :param callback: called as SB3 does
    :param buffer: to fill, from :func:`rollout_buffer_of`
    :param wrapper: whose normalisation is to be undone; None for none
    :return: False if the callback ended training
    """
    assert isinstance(buffer, (SequenceRolloutBuffer, DictSequenceRolloutBuffer))
    recording = None if wrapper is None else _Recording(sampler, wrapper)
    timeouts: list[Timeout] = []

    def on_timeout(timeout: Timeout) -> None:
        timeouts.append(timeout)
        if recording is not None:
            recording.note_timeout(timeout)

    if not step_through(model, recording or sampler, env, callback, buffer, on_timeout):
        return False
    seen = _as_seen(model, policy, buffer, tuple(timeouts))
    if recording is not None:
        recording.note()
    buffer.collected = Collected(seen, seen if recording is None else recording.original(seen))
    callback.on_rollout_end()
    return True


def _as_seen(
    model: OnPolicyAlgorithm, policy: MlpPolicy, buffer: RolloutBuffer, timeouts: tuple[Timeout, ...]
) -> Sequences:
    """What the policy acted on, out of a full buffer."""
    last: Any = model._last_obs
    space = policy.observation_space
    observations: Arrays
    if isinstance(space, spaces.Dict):
        stored: Any = buffer.observations
        observations = {key: _followed(stored[key], last[key], part) for key, part in space.spaces.items()}
    else:
        observations = _followed(buffer.observations, last, space)
    starts: Any = model._last_episode_starts
    return Sequences(
        observations,
        actions=buffer.actions.reshape(*buffer.rewards.shape, *(policy.action_space.shape or ())),
        rewards=buffer.rewards,
        statistics=_statistics(policy, observations, buffer.rewards.shape),
        dones=np.concatenate([buffer.episode_starts[1:], starts[None]]).astype(bool),
        timeouts=timeouts,
    )


def _followed(stored: Array, last: Array, space: spaces.Space[Any]) -> Array:
    """A rollout's observations and the ones after it, shape (T + 1, B, …)."""
    shape = (*stored.shape[:2], *(space.shape or ()))
    return np.concatenate([stored.reshape(shape), last.reshape(1, *shape[1:])])


@torch.no_grad()
def _statistics(policy: MlpPolicy, observations: Arrays, shape: tuple[int, ...]) -> Array:
    """φ of the policy at all observations but the last, shape (T, B, m)."""
    if isinstance(observations, dict):
        rows: Any = {key: array[:-1].reshape(-1, *array.shape[2:]) for key, array in observations.items()}
    else:
        rows = observations[:-1].reshape(-1, *observations.shape[2:])
    family = policy.family(finite(obs_as_tensor(rows, policy.device)))
    statistics: Array = torch.cat(family.statistics, dim=1).cpu().numpy()
    return statistics.reshape(*shape, -1)
