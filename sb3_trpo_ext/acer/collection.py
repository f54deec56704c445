"""A finished rollout as sequences: as the policy saw it, and as the environments gave it."""

import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_trpo_ext.acer.buffer import Array, Arrays, Sequences
from sb3_trpo_ext.acer.policies import MlpPolicy
from sb3_trpo_ext.common.acting import Acting
from sb3_trpo_ext.common.observations import finite
from sb3_trpo_ext.common.rollout import Timeout, step_through


class Collected(NamedTuple):
    """
    :param seen: what the policy acted on, and the rewards it learns from
    :param original: the same before normalisation, for the replay buffer
    """

    seen: Sequences
    original: Sequences


class _Recording:
    """
    Acts, and remembers the observations and rewards that a ``VecNormalize`` has normalised.

    :param act: chooses the actions
    :param wrapper: of the environments
    """

    def __init__(self, act: Acting, wrapper: VecNormalize):
        self._act, self._wrapper = act, wrapper
        self._observations: list[Any] = []
        self._rewards: list[Array] = []
        self._timeouts: list[Timeout] = []

    def __call__(self, observations: Any) -> Array:
        self.note()
        return self._act(observations)

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
    act: Acting,
    env: VecEnv,
    callback: BaseCallback,
    buffer: RolloutBuffer,
    wrapper: VecNormalize | None,
) -> Collected | None:
    """
    One sequence from each environment.

    The parameters do not change within a rollout, so the behaviour policy's distributions follow for all steps at its
    end, in one batch.

    :param model: whose observations and counters are used and advanced
    :param policy: of the model
    :param act: chooses its actions
    :param env: to step in
    :param callback: called as SB3 does
    :param buffer: to fill
    :param wrapper: whose normalisation is to be undone; None for none
    :return: None if the callback ended training
    """
    policy.set_training_mode(False)
    recording = None if wrapper is None else _Recording(act, wrapper)
    timeouts = step_through(
        model, recording or act, env, callback, buffer, recording.note_timeout if recording else None
    )
    if timeouts is None:
        return None
    last: Any = model._last_obs
    space = policy.observation_space
    observations: Arrays
    if isinstance(space, spaces.Dict):
        stored: Any = buffer.observations
        observations = {key: _followed(stored[key], last[key], part) for key, part in space.spaces.items()}
    else:
        observations = _followed(buffer.observations, last, space)
    starts: Any = model._last_episode_starts
    seen = Sequences(
        observations,
        actions=buffer.actions.reshape(*buffer.rewards.shape, *(policy.action_space.shape or ())),
        rewards=buffer.rewards,
        statistics=_statistics(policy, observations, buffer.rewards.shape),
        dones=np.concatenate([buffer.episode_starts[1:], starts[None]]).astype(bool),
        timeouts=tuple(timeouts),
    )
    if recording is None:
        return Collected(seen, seen)
    recording.note()
    return Collected(seen, recording.original(seen))


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
