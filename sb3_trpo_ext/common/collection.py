"""Stepping through environments as SB3 does it; what can wait is computed at the rollout's end."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from copy import deepcopy
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from sb3_trpo_ext.common.algorithm import Algorithm
from sb3_trpo_ext.common.sampler import Sampler
from sb3_trpo_ext.common.watch import Watch


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


class Behaviour(Protocol):
    """What acts during a rollout, and what there is to say of it afterwards."""

    def sampler(self, steps: int) -> Sampler:
        """
        Chooses actions with the parameters as they are now.

        :param steps: for which it may draw random numbers at once
        """
        ...

    def note_timeout(self, timeout: Timeout) -> None:
        """Called at once where a time limit strikes."""
        ...

    def evaluate(self, steps: slice) -> None:
        """
        Compute and keep what depends on the policy that acted. The parameters are again those that it had.

        :param steps: of the rollout, that it acted in
        """
        ...


def step_through(
    model: Algorithm[Any],
    behaviour: Behaviour,
    env: VecEnv,
    callback: BaseCallback,
    buffer: RolloutBuffer,
) -> bool:
    """
    Step until a rollout buffer is full, as ``OnPolicyAlgorithm.collect_rollouts`` does; what a step has no need of,
    values and log-probabilities, follows at the end. The caller calls ``callback.on_rollout_end``.

    A callback may write to the policy's parameters at any time: from then on the policy acts with the new ones, and
    what was done before is evaluated with the old.

    :param model: whose observations and counters are used and advanced
    :param behaviour: of its policy
    :param env: to step in
    :param callback: called as SB3 does
    :param buffer: to fill, of SB3's own class
    :return: False if the callback ended training
    """
    buffer.reset()
    for name in ("values", "log_probs"):  # those of the last rollout: absent is right, stale is not
        callback.locals.pop(name, None)
    callback.update_locals({"self": model, "env": env, "rollout_buffer": buffer, "n_rollout_steps": buffer.buffer_size})
    callback.on_rollout_start()
    model._follow_policy()
    # Without a callback there is nobody who could write, read or draw random numbers, and what a step of that costs can
    # be saved.
    alone = is_silent(callback)
    steps, within_bounds = buffer.buffer_size if alone else 1, bounds_of(model)
    sampler, watch, first = behaviour.sampler(steps), Watch(nn.Module() if alone else model.policy), 0
    for n_steps in range(buffer.buffer_size):
        if watch.noticed():
            with watch.undone():
                behaviour.evaluate(slice(first, n_steps))
            sampler, watch, first = behaviour.sampler(steps), Watch(model.policy), n_steps
        if model.use_sde and model.sde_sample_freq > 0 and n_steps % model.sde_sample_freq == 0:
            model.policy.reset_noise(env.num_envs)
        actions = sampler(model._last_obs)
        if not _step(model, behaviour, env, callback, buffer, n_steps, actions, within_bounds(actions), alone):
            return False
    with watch.undone() if watch.noticed() else nullcontext():
        behaviour.evaluate(slice(first, buffer.buffer_size))
    buffer.pos, buffer.full = buffer.buffer_size, True
    return True


def is_silent(callback: BaseCallback) -> bool:
    """Whether a callback is what SB3's ``learn`` makes of None."""
    return isinstance(callback, ConvertCallback) and callback.callback is None


def _step(
    model: Algorithm[Any],
    behaviour: Behaviour,
    env: VecEnv,
    callback: BaseCallback,
    buffer: RolloutBuffer,
    n_steps: int,
    actions: NDArray[Any],
    clipped_actions: NDArray[Any],
    alone: bool,
) -> bool:
    """One step in every environment, into the buffer; False if the callback ended training."""
    observations: Any = model._last_obs
    new_obs, rewards, dones, infos = env.step(clipped_actions)
    model.num_timesteps += env.num_envs * model._ranks.world_size  # those of all ranks, counted when all have finished
    if not alone:
        now = {"n_steps": n_steps, "actions": actions, "clipped_actions": clipped_actions}
        now["obs_tensor"] = obs_as_tensor(observations, model.device)
        callback.update_locals({**now, "new_obs": new_obs, "rewards": rewards, "dones": dones, "infos": infos})
    if not callback.on_step():
        return False

    model._update_info_buffer(infos, dones)
    for timeout in _timeouts(n_steps, dones, infos):
        behaviour.note_timeout(timeout)
    _store(buffer, n_steps, observations, actions, rewards, model._last_episode_starts)
    model._last_obs = new_obs  # type: ignore[assignment]
    model._last_episode_starts = dones
    return True


def _timeouts(step: int, dones: NDArray[Any], infos: list[dict[str, Any]]) -> Iterator[Timeout]:
    """Where the step was the last that a time limit allowed."""
    for i in np.flatnonzero(dones).tolist() if dones.any() else ():
        last = infos[i].get("terminal_observation")
        if infos[i].get("TimeLimit.truncated", False) and last is not None:
            yield Timeout(step, i, deepcopy(last))  # some simulators use its memory again


def bounds_of(model: OnPolicyAlgorithm) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Actions → what the environments are given: Box actions within their bounds, the others as they are."""
    space = model.action_space
    if not isinstance(space, spaces.Box):
        return lambda actions: actions
    if model.policy.squash_output:
        return model.policy.unscale_action
    low, high = space.low, space.high
    return lambda actions: np.minimum(np.maximum(actions, low), high)


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
