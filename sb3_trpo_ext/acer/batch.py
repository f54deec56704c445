"""Sequences as tensors: what one gradient step learns from."""

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor

from sb3_trpo_ext.acer.buffer import Sequences
from sb3_trpo_ext.acer.policies import ActionFamily, MlpPolicy
from sb3_trpo_ext.common.inputs import Observations, each
from sb3_trpo_ext.kernels.families import Categorical, Gaussian, MultiCategorical


class SequenceBatch(NamedTuple):
    """
    T steps of B sequences as tensors. N = T · B rows, one time step of all environments after the other.

    :param observations: the N states, the B states after the sequences, then the K states where time limits struck
    :param actions: shape (N,) for Discrete, (N, d) for MultiDiscrete and Box
    :param rewards: shape (T, B)
    :param behaviour: μ at the N states
    :param dones: whether an episode ended with the step, shape (T, B)
    :param timeouts: steps and environments of the K time limits
    """

    observations: Observations
    actions: Tensor
    rewards: Tensor
    behaviour: ActionFamily
    dones: Tensor
    timeouts: tuple[list[int], list[int]]

    @property
    def size(self) -> int:
        """N."""
        return self.rewards.numel()

    @property
    def states(self) -> Observations:
        """The N states in which actions were taken."""
        return each(lambda part: part[: self.size], self.observations)

    def over_time(self, rows: Tensor) -> Tensor:
        """
        :param rows: shape (N,)
        :return: the same numbers, shape (T, B)
        """
        return rows.view(self.rewards.shape)

    def bootstraps(self, values: Tensor) -> Tensor:
        """
        What the state after each step is worth where the sequence does not go on: 0 if it is terminal; V of the state
        that came next where a time limit or the sequence's end cut the episode.

        :param values: V of all ``observations``, without a graph, shape (N + B + K,)
        :return: shape (T, B); 0 where the sequence goes on
        """
        n, n_envs = self.size, self.rewards.shape[1]
        bootstraps = torch.zeros_like(self.rewards)
        bootstraps[-1] = torch.where(self.dones[-1], 0.0, values[n : n + n_envs])
        if self.timeouts[0]:
            bootstraps[self.timeouts[0], self.timeouts[1]] = values[n + n_envs :]
        return bootstraps


def as_sequence_batch(sequences: Sequences, policy: MlpPolicy) -> SequenceBatch:
    """
    :param sequences: normalised
    :param policy: that takes the observations; its device is used
    """
    device = policy.device
    statistics = torch.as_tensor(_rows(sequences.statistics), device=device)
    actions = torch.as_tensor(_rows(sequences.actions), device=device)
    timeouts = sequences.timeouts
    return SequenceBatch(
        observations=_observations(sequences, policy),
        actions=actions.reshape(len(actions), -1).float() if isinstance(policy.action_space, spaces.Box) else actions,
        rewards=torch.as_tensor(np.ascontiguousarray(sequences.rewards), device=device),
        behaviour=_behaviour(statistics, policy.action_space),
        dones=torch.as_tensor(np.ascontiguousarray(sequences.dones), device=device),
        timeouts=([timeout.step for timeout in timeouts], [timeout.env for timeout in timeouts]),
    )


def _behaviour(statistics: Tensor, space: spaces.Space[Any]) -> ActionFamily:
    if isinstance(space, spaces.Discrete):
        return Categorical(statistics)
    if isinstance(space, spaces.MultiDiscrete):
        return MultiCategorical(statistics, tuple(int(size) for size in space.nvec))
    return Gaussian(*statistics.chunk(2, dim=1))


def _rows(array: Any) -> Any:
    """From (T, B, …) to (T · B, …), in one piece of memory."""
    return np.ascontiguousarray(array).reshape(-1, *array.shape[2:])


def _observations(sequences: Sequences, policy: MlpPolicy) -> Observations:
    """All states of a batch in its order, as the policy takes them."""

    def extended(array: Any, final: list[Any]) -> Any:
        rows = _rows(array)
        return np.concatenate([rows, np.stack(final).astype(rows.dtype)]) if final else rows

    final = [timeout.observation for timeout in sequences.timeouts]
    arrays: Any = (
        {key: extended(array, [last[key] for last in final]) for key, array in sequences.observations.items()}
        if isinstance(sequences.observations, dict)
        else extended(sequences.observations, final)
    )
    observations: Observations = obs_as_tensor(arrays, policy.device)
    return observations
