"""ACER's rollouts: acting, recording what VecNormalize hides, and the sequences that come of it."""

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    VecVideoRecorder,
    unwrap_vec_normalize,
)

from sb3_trpo_ext.acer.buffer import Array, Arrays, Sequences
from sb3_trpo_ext.common.collection import Timeout
from sb3_trpo_ext.common.inputs import finite
from sb3_trpo_ext.common.sampler import Sampler, sampler_of

if TYPE_CHECKING:
    from sb3_trpo_ext.acer.acer import ACER


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
    """SB3's buffer, which also keeps the sequences that filled it."""

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
    Remembers the observations and rewards that a ``VecNormalize`` has normalised.

    :param wrapper: of the environments
    """

    def __init__(self, wrapper: VecNormalize):
        self._wrapper = wrapper
        self._observations: list[Any] = []
        self._rewards: list[Array] = []
        self._timeouts: list[Timeout] = []

    def noting(self, sampler: Sampler) -> Sampler:
        """A sampler that remembers what it is asked about."""

        def sample(observations: Any) -> Array:
            self.note()
            return sampler(observations)

        return sample

    def note(self) -> None:
        """Remember the latest observations, and the rewards that came with them."""
        if self._observations:
            self._rewards.append(self._wrapper.get_original_reward())
        self._observations.append(self._wrapper.get_original_obs())

    def note_timeout(self, timeout: Timeout) -> None:
        """Remember an episode's last observation while the statistics that normalised it are still the same."""
        self._timeouts.append(timeout._replace(observation=self._unnormalized(timeout.observation)))

    def _unnormalized(self, observation: Any) -> Any:
        """What is normalised, as it was; the rest, which need be no array, as it is."""
        if not self._wrapper.norm_obs:
            return observation
        original: Any = self._wrapper.unnormalize_obs(observation)  # NumPy may have made it float64
        if not isinstance(original, dict):
            return original.astype(observation.dtype)
        return original | {key: original[key].astype(observation[key].dtype) for key in normalized_keys(self._wrapper)}

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


# Whatever else stands outside a VecNormalize is taken to change observations and rewards: what a class does that is
# not known, nobody can say, and a subclass of one of these may do anything.
CHANGE_NOTHING = (VecMonitor, VecCheckNan, VecVideoRecorder)
CHANGE_OBSERVATIONS = (VecFrameStack, VecTransposeImage, VecExtractDictObs)


def usable_normalizer(env: VecEnv | None) -> VecNormalize | None:
    """
    :param env: with all its wrappers, or None
    :return: the ``VecNormalize`` among them, if what the policy sees and learns from is what it normalised, so that it
        can be stored as it was before and be normalised anew
    """
    wrapper = unwrap_vec_normalize(env) if env is not None else None
    if wrapper is None or not (wrapper.norm_obs or wrapper.norm_reward):
        return None
    changing, outer = [], env
    while isinstance(outer, VecEnvWrapper) and outer is not wrapper:
        if _changes_what_is_normalized(outer, wrapper):
            changing.append(type(outer).__name__)
        outer = outer.venv
    if changing:
        names = ", ".join(changing)
        warnings.warn(
            f"Another wrapper ({names}) may change observations or rewards after VecNormalize has normalised them, so "
            "the replay buffer stores them as they are when they are collected, and replays keep the statistics of "
            f"that time. Put VecNormalize outermost: VecNormalize({changing[0]}(...)).",
            stacklevel=5,
        )
        return None
    return wrapper


def _changes_what_is_normalized(outer: VecEnvWrapper, wrapper: VecNormalize) -> bool:
    if type(outer) in CHANGE_NOTHING:
        return False
    if type(outer) not in CHANGE_OBSERVATIONS:
        return True
    before, after = outer.venv.observation_space, outer.observation_space
    if isinstance(before, spaces.Dict) and isinstance(after, spaces.Dict):
        return any(before[key] != after[key] for key in normalized_keys(wrapper))
    return wrapper.norm_obs and before != after


class SequenceBehaviour:
    """
    Acts without the critic, and finds the distributions that it drew from for many steps at once.

    :param model: whose policy acts; a callback may exchange it when the rollout starts
    :param buffer: that is filled
    :param wrapper: whose normalisation is to be undone; None for none
    """

    def __init__(self, model: "ACER", buffer: RolloutBuffer, wrapper: VecNormalize | None):
        self._model, self._buffer = model, buffer
        self._recording = None if wrapper is None else _Recording(wrapper)
        self._timeouts: list[Timeout] = []
        self._statistics: list[Array] = []

    def sampler(self, steps: int) -> Sampler:
        """As :meth:`sb3_trpo_ext.common.collection.Behaviour.sampler`."""
        model = self._model
        sampler = sampler_of(model.policy, model._network, self._buffer.n_envs, model.num_threads, steps=steps)
        return sampler if self._recording is None else self._recording.noting(sampler)

    def note_timeout(self, timeout: Timeout) -> None:
        """As :meth:`sb3_trpo_ext.common.collection.Behaviour.note_timeout`."""
        self._timeouts.append(timeout)
        if self._recording is not None:
            self._recording.note_timeout(timeout)

    @torch.no_grad()
    def evaluate(self, steps: slice) -> None:
        """As :meth:`sb3_trpo_ext.common.collection.Behaviour.evaluate`: φ, shape (steps, B, m)."""
        space, stored = self._model.policy.observation_space, cast(Any, self._buffer.observations)
        if isinstance(space, spaces.Dict):
            rows: Any = {key: stored[key][steps].reshape(-1, *(part.shape or ())) for key, part in space.spaces.items()}
        else:
            rows = stored[steps].reshape(-1, *(space.shape or ()))
        family = self._model.policy.family(finite(obs_as_tensor(rows, self._model.policy.device)))
        statistics: Array = torch.cat(family.statistics, dim=1).cpu().numpy()
        self._statistics.append(statistics.reshape(-1, self._buffer.n_envs, statistics.shape[1]))

    def collected(self, last_observations: Any, last_episode_starts: Any) -> Collected:
        """
        What a full buffer holds.

        :param last_observations: those after the last step
        :param last_episode_starts: whether it ended episodes, shape (B,)
        """
        buffer, space, last = self._buffer, self._model.policy.observation_space, last_observations
        stored: Any = buffer.observations
        observations: Arrays
        if isinstance(space, spaces.Dict):
            observations = {key: _followed(stored[key], last[key], part) for key, part in space.spaces.items()}
        else:
            observations = _followed(stored, last, space)
        seen = Sequences(
            observations,
            actions=buffer.actions.reshape(*buffer.rewards.shape, *(self._model.policy.action_space.shape or ())),
            rewards=buffer.rewards,
            statistics=np.concatenate(self._statistics),
            dones=np.concatenate([buffer.episode_starts[1:], last_episode_starts[None]]).astype(bool),
            timeouts=tuple(self._timeouts),
        )
        if self._recording is None:
            return Collected(seen, seen)
        self._recording.note()
        return Collected(seen, self._recording.original(seen))


def _followed(stored: Array, last: Array, space: spaces.Space[Any]) -> Array:
    """A rollout's observations and the ones after it, shape (T + 1, B, …)."""
    shape = (*stored.shape[:2], *(space.shape or ()))
    return np.concatenate([stored.reshape(shape), last.reshape(1, *shape[1:])])
