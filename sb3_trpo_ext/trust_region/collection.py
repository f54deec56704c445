"""Collecting a rollout: actions step by step, values and log-probabilities in one batch at its end."""

from collections.abc import Callable
from dataclasses import replace
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
from sb3_trpo_ext.common.inputs import finite
from sb3_trpo_ext.common.sampler import PolicySampler, Sampler
from sb3_trpo_ext.common.threads import torch_threads
from sb3_trpo_ext.kernels.vector import count
from sb3_trpo_ext.trust_region.actor import Actor
from sb3_trpo_ext.trust_region.advantages import compute_advantages
from sb3_trpo_ext.trust_region.heads import Heads
from sb3_trpo_ext.trust_region.value_function import ValueFunction

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
    compute_advantages(buffer, behaviour.last_values(model._last_obs, starts), starts)
    callback.update_locals({"values": buffer.values, "log_probs": buffer.log_probs})
    callback.on_rollout_end()
    return True


class FastBehaviour:
    """
    Acts without the critic, and evaluates many steps at once.

    :param parts: gives actor and critic as they are now; a callback may exchange the policy when the rollout starts
    :param buffer: to write values and log-probabilities into
    :param gamma: discount, of values at time limits
    :param num_threads: of torch; None chooses
    """

    def __init__(
        self,
        parts: Callable[[], tuple[Actor, ValueFunction]],
        buffer: RolloutBuffer,
        gamma: float,
        num_threads: int | None,
    ):
        self._parts, self._buffer = parts, buffer
        self._gamma, self._num_threads = gamma, num_threads
        self._timeouts: list[Timeout] = []
        self._log_probs: list[NDArray[Any]] = []  # noted when actions were drawn, if they were

    def sampler(self, steps: int) -> Sampler:
        """As :meth:`sb3_trpo_ext.common.collection.Behaviour.sampler`."""
        actor, _ = self._parts()
        sampler = actor.heads.sampler(actor.network, self._buffer.n_envs, self._num_threads, steps)
        self._log_probs = sampler.note_log_probs() if isinstance(sampler, PolicySampler) else []
        return sampler

    def note_timeout(self, timeout: Timeout) -> None:
        """As :meth:`sb3_trpo_ext.common.collection.Behaviour.note_timeout`."""
        self._timeouts.append(timeout)

    def evaluate(self, steps: slice) -> None:
        """As :meth:`sb3_trpo_ext.common.collection.Behaviour.evaluate`."""
        (actor, critic), n_envs = self._parts(), self._buffer.n_envs
        if self._log_probs:
            self._buffer.log_probs[steps] = np.stack(self._log_probs)
        rows = (steps.stop - steps.start) * n_envs
        with torch_threads(self._num_threads, rows, count(list(actor.policy.parameters()))):
            _evaluate(actor, critic, self._buffer, steps.start * n_envs, steps.stop * n_envs, bool(self._log_probs))
        for step, i, observation in self._timeouts:
            self._buffer.rewards[step, i] += self._gamma * _value(actor.heads, observation)
        self._timeouts.clear()

    @torch.no_grad()
    def last_values(self, observations: Any, episode_starts: NDArray[Any]) -> Tensor:
        """As :meth:`ValuingBehaviour.last_values`."""
        heads = self._parts()[0].heads
        return heads.values(heads.present(observations))


@torch.no_grad()
def _evaluate(
    actor: Actor, critic: ValueFunction, buffer: RolloutBuffer, first: int, end: int, values_alone: bool
) -> None:
    """Values and log-probabilities of some rows, one step of all environments after the other, into the buffer."""
    n = buffer.buffer_size * buffer.n_envs
    rows = max(1, CHUNK // sum(map(prod, _shapes(buffer.observation_space))))
    actions = torch.as_tensor(buffer.actions.reshape(n, -1).astype(np.float32), device=actor.policy.device)
    if isinstance(buffer.action_space, spaces.Discrete):
        actions = actions.long().flatten()
    values, log_probs = buffer.values.reshape(n), buffer.log_probs.reshape(n)  # views
    for start in range(first, end, rows):
        part = slice(start, min(start + rows, end))
        inputs = actor.heads.recorded(buffer, partial(_in_order, part))
        inputs = replace(inputs, observations=finite(inputs.observations))
        if values_alone:
            part_values = critic.values(inputs)
        elif actor.network is not None and critic.network is not None:
            part_values = critic.values(inputs)
            log_probs[part] = actor.family(inputs).log_prob(actions[part]).cpu().numpy()
        else:
            part_values, part_log_probs = actor.heads.evaluate(inputs, actions[part])
            log_probs[part] = part_log_probs.cpu().numpy()
        values[part] = part_values.flatten().cpu().numpy()


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
