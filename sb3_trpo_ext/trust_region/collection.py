"""Collecting a rollout: actions step by step, values and log-probabilities in one batch at its end."""

from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo_ext.common.collection import Timeout, step_through
from sb3_trpo_ext.common.inputs import Inputs
from sb3_trpo_ext.common.threads import torch_threads
from sb3_trpo_ext.kernels.vector import count
from sb3_trpo_ext.trust_region.actor import Actor
from sb3_trpo_ext.trust_region.heads import Heads

# Numbers that go through the network at once when the rollout is evaluated: bounds memory for images.
CHUNK = 2**22


def collect_fast(
    model: OnPolicyAlgorithm,
    actor: Actor,
    env: VecEnv,
    callback: BaseCallback,
    buffer: RolloutBuffer,
    num_threads: int | None = None,
) -> bool:
    """
    Fill a rollout buffer as ``OnPolicyAlgorithm.collect_rollouts`` does, with the same trajectory for the same seed.

    Only the action is computed at each step. Values and log-probabilities follow for the whole rollout in one batch at
    its end, so callbacks see ``values`` and ``log_probs`` in ``self.locals`` only in ``on_rollout_end``.

    :param model: whose observations, counters and policy are used and advanced
    :param actor: of the model's policy
    :param env: to step in
    :param callback: called as SB3 does
    :param buffer: to fill, of SB3's own class
    :param num_threads: of torch when the rollout is evaluated; None chooses
    :return: False if the callback ended training
    """
    policy, heads = model.policy, actor.heads
    policy.set_training_mode(False)
    if model.use_sde:
        policy.reset_noise(env.num_envs)
    timeouts: list[Timeout] = []
    sampler = heads.sampler(actor.network, env.num_envs, num_threads)
    if not step_through(model, sampler, env, callback, buffer, timeouts.append):
        return False

    with torch_threads(num_threads, buffer.buffer_size * buffer.n_envs, count(list(policy.parameters()))):
        values, log_probs = _evaluate(heads, buffer)
    for step, i, observation in timeouts:
        buffer.rewards[step, i] += model.gamma * _value(heads, observation)
    with torch.no_grad():
        last_values = heads.values(heads.present(model._last_obs))
    buffer.compute_returns_and_advantage(last_values, model._last_episode_starts)  # type: ignore[arg-type]
    callback.update_locals({"values": values, "log_probs": log_probs})
    callback.on_rollout_end()
    return True


@torch.no_grad()
def _evaluate(heads: Heads, buffer: RolloutBuffer) -> tuple[NDArray[Any], NDArray[Any]]:
    """Values and log-probabilities of the whole rollout, written into the buffer; each of shape (steps, n_envs)."""
    n = buffer.buffer_size * buffer.n_envs
    rows = max(1, CHUNK // sum(map(prod, _shapes(buffer.observation_space))))
    actions = torch.as_tensor(buffer.actions.reshape(n, -1).astype(np.float32), device=heads.policy.device)
    if isinstance(buffer.action_space, spaces.Discrete):
        actions = actions.long().flatten()
    values, log_probs = buffer.values.reshape(n), buffer.log_probs.reshape(n)  # views
    for start in range(0, n, rows):
        part = slice(start, start + rows)
        inputs = heads.recorded(buffer, partial(_in_order, part))
        part_values, part_log_probs = heads.evaluate(inputs, actions[part])
        values[part] = part_values.flatten().cpu().numpy()
        log_probs[part] = part_log_probs.cpu().numpy()
    return buffer.values, buffer.log_probs


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
    return float(heads.values(Inputs(heads.policy.obs_to_tensor(observation)[0])))
