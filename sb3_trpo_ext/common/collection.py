"""Stepping through environments, as SB3 does it but for what can wait until the rollout's end."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo_ext.common.sampler import Sampler


class Timeout(NamedTuple):
    """
    Where a time limit ended an episode: its last state was not terminal, so it has a value.

    :param step: within the rollout
    :param env: index of the environment
    :param observation: the episode's last one, which no action followed
    """

    step: int
    env: int
    observation: Any


OnTimeout = Callable[[Timeout], None]


def step_through(
    model: OnPolicyAlgorithm,
    sampler: Sampler,
    env: VecEnv,
    callback: BaseCallback,
    buffer: RolloutBuffer,
    on_timeout: OnTimeout,
) -> bool:
    """
    Step until a rollout buffer is full of observations, actions and rewards, as ``OnPolicyAlgorithm.collect_rollouts``
    does, without values and log-probabilities. The caller calls ``callback.on_rollout_end``.

    :param model: whose observations and counters are used and advanced
    :param sampler: chooses the actions
    :param env: to step in
    :param callback: called as SB3 does
    :param buffer: to fill, of SB3's own class
    :param on_timeout: called at once where a time limit strikes
    :return: False if the callback ended training
    """
    buffer.reset()
    callback.update_locals({"self": model, "env": env, "rollout_buffer": buffer, "n_rollout_steps": buffer.buffer_size})
    callback.on_rollout_start()
    for n_steps in range(buffer.buffer_size):
        if model.use_sde and model.sde_sample_freq > 0 and n_steps % model.sde_sample_freq == 0:
            model.policy.reset_noise(env.num_envs)
        actions = sampler(model._last_obs)
        clipped_actions = _within_bounds(model, actions)
        new_obs, rewards, dones, infos = env.step(clipped_actions)
        model.num_timesteps += env.num_envs
        now = {"n_steps": n_steps, "actions": actions, "clipped_actions": clipped_actions}
        callback.update_locals({**now, "new_obs": new_obs, "rewards": rewards, "dones": dones, "infos": infos})
        if not callback.on_step():
            return False

        model._update_info_buffer(infos, dones)
        for i in np.flatnonzero(dones).tolist() if dones.any() else ():
            if infos[i].get("TimeLimit.truncated", False) and infos[i].get("terminal_observation") is not None:
                on_timeout(Timeout(n_steps, i, infos[i]["terminal_observation"]))
        _store(buffer, n_steps, model._last_obs, actions, rewards, model._last_episode_starts)
        model._last_obs = new_obs  # type: ignore[assignment]
        model._last_episode_starts = dones
    buffer.pos, buffer.full = buffer.buffer_size, True
    return True


def _within_bounds(model: OnPolicyAlgorithm, actions: NDArray[Any]) -> NDArray[Any]:
    """What the environments are given: Box actions within their bounds, the others as they are."""
    space = model.action_space
    if not isinstance(space, spaces.Box):
        return actions
    if model.policy.squash_output:
        unscaled: NDArray[Any] = model.policy.unscale_action(actions)
        return unscaled
    bounded: NDArray[Any] = np.minimum(np.maximum(actions, space.low), space.high)
    return bounded


def _store(
    buffer: RolloutBuffer, step: int, observations: Any, actions: Any, rewards: Any, episode_starts: Any
) -> None:
    """One step of all environments into the buffer's arrays."""
    if isinstance(buffer.observations, dict):
        for key, array in buffer.observations.items():
            array[step] = observations[key].reshape(array.shape[1:])
    else:
        buffer.observations[step] = observations.reshape(buffer.observations.shape[1:])
    buffer.actions[step] = actions.reshape(buffer.actions.shape[1:])
    buffer.rewards[step] = rewards
    buffer.episode_starts[step] = episode_starts
