"""Collecting a rollout: actions step by step, values and log-probabilities in one batch at its end."""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from sb3_trpo_ext.common.algorithm import Algorithm
from sb3_trpo_ext.common.collection import Behaviour, Timeout, step_through
from sb3_trpo_ext.common.sampler import Sampler
from sb3_trpo_ext.common.threads import torch_threads
from sb3_trpo_ext.kernels.vector import count
from sb3_trpo_ext.trust_region.actor import Actor
from sb3_trpo_ext.trust_region.heads import Heads

# Numbers that go through the network at once when the rollout is evaluated: bounds memory for images.
CHUNK = 2**22


class ValuingBehaviour(Behaviour, Protocol):
    """One that can say what the states are worth in which a rollout ends."""

    def last_values(self, observations: Any, episode_starts: NDArray[Any]) -> Tensor:
        """
        V of the present states, by the policy as it is now.

        :param observations: of E environments, as they come from the VecEnv
        :param episode_starts: whether episodes begin with them, shape (E,)
        :return: E numbers
        """
        ...


def collect_fast(
    model: Algorithm[Any], behaviour: ValuingBehaviour, env: VecEnv, callback: BaseCallback, buffer: RolloutBuffer
) -> bool:
    """
    Fill a rollout buffer as ``OnPolicyAlgorithm.collect_rollouts`` does, with the same trajectory for the same seed.

    Only the action is computed at each step. Values and log-probabilities follow for the whole rollout in one batch at
    its end, so callbacks see ``values`` and ``log_probs`` in ``self.locals`` only in ``on_rollout_end``.

    :param model: whose observations, counters and policy are used and advanced
    :param behaviour: of its policy
    :param env: to step in
    :param callback: called as SB3 does
    :param buffer: to fill, with SB3's own arrays
    :return: False if the callback ended training
    """
    policy = model.policy
    policy.set_training_mode(False)
    if model.use_sde:
        policy.reset_noise(env.num_envs)
    if not step_through(model, behaviour, env, callback, buffer):
        return False
    starts: Any = model._last_episode_starts
    buffer.compute_returns_and_advantage(behaviour.last_values(model._last_obs, starts), starts)
    callback.update_locals({"values": buffer.values, "log_probs": buffer.log_probs})
    callback.on_rollout_end()
    return True


class FastBehaviour:
    """
    Acts without the critic, and evaluates many steps at once.

    :param actor: gives that of the policy as it is now; a callback may exchange it when the rollout starts
    :param buffer: to write values and log-probabilities into
    :param gamma: discount, of values at time limits
    :param num_threads: of torch; None chooses
    """

    def __init__(self, actor: Callable[[], Actor], buffer: RolloutBuffer, gamma: float, num_threads: int | None):
        self._actor, self._buffer = actor, buffer
        self._gamma, self._num_threads = gamma, num_threads
        self._timeouts: list[Timeout] = []

    def sampler(self) -> Sampler:
        """As :meth:`sb3_trpo_ext.common.collection.Behaviour.sampler`."""
        actor = self._actor()
        return actor.heads.sampler(actor.network, self._buffer.n_envs, self._num_threads)

    def note_timeout(self, timeout: Timeout) -> None:
        """As :meth:`sb3_trpo_ext.common.collection.Behaviour.note_timeout`."""
        self._timeouts.append(timeout)

    def evaluate(self, steps: slice) -> None:
        """As :meth:`sb3_trpo_ext.common.collection.Behaviour.evaluate`."""
        heads, n_envs = self._actor().heads, self._buffer.n_envs
        rows = (steps.stop - steps.start) * n_envs
        with torch_threads(self._num_threads, rows, count(list(heads.policy.parameters()))):
            _evaluate(heads, self._buffer, steps.start * n_envs, steps.stop * n_envs)
        for step, i, observation in self._timeouts:
            self._buffer.rewards[step, i] += self._gamma * _value(heads, observation)
        self._timeouts.clear()

    @torch.no_grad()
    def last_values(self, observations: Any, episode_starts: NDArray[Any]) -> Tensor:
        """As :meth:`ValuingBehaviour.last_values`."""
        heads = self._actor().heads
        return heads.values(heads.present(observations))


@torch.no_grad()
def _evaluate(heads: Heads, buffer: RolloutBuffer, first: int, end: int) -> None:
    """Values and log-probabilities of some rows, one step of all environments after the other, into the buffer."""
    n = buffer.buffer_size * buffer.n_envs
    rows = max(1, CHUNK // sum(map(prod, _shapes(buffer.observation_space))))
    actions = torch.as_tensor(buffer.actions.reshape(n, -1).astype(np.float32), device=heads.policy.device)
    if isinstance(buffer.action_space, spaces.Discrete):
        actions = actions.long().flatten()
    values, log_probs = buffer.values.reshape(n), buffer.log_probs.reshape(n)  # views
    for start in range(first, end, rows):
        part = slice(start, min(start + rows, end))
        inputs = heads.recorded(buffer, partial(_in_order, part))
        part_values, part_log_probs = heads.evaluate(inputs, actions[part])
        values[part] = part_values.flatten().cpu().numpy()
        log_probs[part] = part_log_probs.cpu().numpy()


def _in_order(part: slice, array: NDArray[Any]) -> NDArray[Any]:
    """Some of the rows of a buffer's array, one step of all environments after the other."""
    return array.reshape(-1, *array.shape[2:])[part]


def _shapes(space: spaces.Space[Any]) -> list[tuple[int, ...]]:
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    return [part.shape or (1,) for part in parts]


@torch.no_grad()
def _value(heads: Heads, observation: Any) -> float:
    """V of a single observation; NaN when that is not finite."""
    parts = observation.values() if isinstance(observation, dict) else [observation]
    if not all(np.isfinite(part).all() for part in parts):
        return float("nan")
    return float(heads.values(heads.single(observation)))
