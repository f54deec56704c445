"""Collecting experience: fast, and in the presence of bad data."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize
from torch import nn

from sb3_trpo_ext.common.acting import Acting, acting
from sb3_trpo_ext.common.actor import Actor
from sb3_trpo_ext.common.observations import finite
from sb3_trpo_ext.common.threads import torch_threads
from sb3_trpo_ext.kernels.vector import count

# Numbers that go through the network at once when the rollout is evaluated: bounds memory for images.
CHUNK = 2**22


def can_collect_fast(policy: ActorCriticPolicy, buffer: RolloutBuffer) -> bool:
    """
    Whether :func:`collect_fast` does what SB3's own loop would do.

    :param policy: False if it has a way of acting of its own
    :param buffer: False if it is not SB3's own
    """
    return type(policy).forward is ActorCriticPolicy.forward and type(buffer) in (RolloutBuffer, DictRolloutBuffer)


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
    policy = model.policy
    policy.set_training_mode(False)
    if model.use_sde:
        policy.reset_noise(env.num_envs)
    act = acting(actor.policy, actor.network, env.num_envs, num_threads)
    timeouts = step_through(model, act, env, callback, buffer)
    if timeouts is None:
        return False

    with torch_threads(num_threads, buffer.buffer_size * buffer.n_envs, count(list(policy.parameters()))):
        values, log_probs = _evaluate(policy, buffer)
    for step, i, observation in timeouts:
        buffer.rewards[step, i] += model.gamma * _value(policy, observation)
    with torch.no_grad():
        assert model._last_obs is not None
        last_values = policy.predict_values(obs_as_tensor(model._last_obs, model.device))
    buffer.compute_returns_and_advantage(last_values, model._last_episode_starts)  # type: ignore[arg-type]
    callback.update_locals({"values": values, "log_probs": log_probs})
    callback.on_rollout_end()
    return True


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


def step_through(
    model: OnPolicyAlgorithm,
    act: Acting,
    env: VecEnv,
    callback: BaseCallback,
    buffer: RolloutBuffer,
    on_timeout: Callable[[Timeout], None] | None = None,
) -> list[Timeout] | None:
    """
    Step until a rollout buffer is full of observations, actions and rewards, as ``OnPolicyAlgorithm.collect_rollouts``
    does, without values and log-probabilities. The caller calls ``callback.on_rollout_end``.

    :param model: whose observations and counters are used and advanced
    :param act: chooses the actions
    :param env: to step in
    :param callback: called as SB3 does
    :param buffer: to fill, of SB3's own class
    :param on_timeout: called at once where a time limit strikes
    :return: where time limits struck; None if the callback ended training
    """
    assert model._last_obs is not None
    policy, space = model.policy, model.action_space
    buffer.reset()
    timeouts: list[Timeout] = []
    callback.update_locals({"self": model, "env": env, "rollout_buffer": buffer, "n_rollout_steps": buffer.buffer_size})
    callback.on_rollout_start()

    for n_steps in range(buffer.buffer_size):
        if model.use_sde and model.sde_sample_freq > 0 and n_steps % model.sde_sample_freq == 0:
            policy.reset_noise(env.num_envs)
        actions = act(model._last_obs)
        clipped_actions = actions
        if isinstance(space, spaces.Box):
            if policy.squash_output:
                clipped_actions = policy.unscale_action(actions)
            else:
                clipped_actions = np.minimum(np.maximum(actions, space.low), space.high)

        new_obs, rewards, dones, infos = env.step(clipped_actions)
        model.num_timesteps += env.num_envs
        callback.update_locals(
            {
                "n_steps": n_steps,
                "actions": actions,
                "clipped_actions": clipped_actions,
                "new_obs": new_obs,
                "rewards": rewards,
                "dones": dones,
                "infos": infos,
            }
        )
        if not callback.on_step():
            return None

        model._update_info_buffer(infos, dones)
        for i in np.flatnonzero(dones).tolist() if dones.any() else ():
            if infos[i].get("TimeLimit.truncated", False) and infos[i].get("terminal_observation") is not None:
                timeouts.append(Timeout(n_steps, i, infos[i]["terminal_observation"]))
                if on_timeout is not None:
                    on_timeout(timeouts[-1])
        _store(buffer, n_steps, model._last_obs, actions, rewards, model._last_episode_starts)
        model._last_obs = new_obs  # type: ignore[assignment]
        model._last_episode_starts = dones
    buffer.pos, buffer.full = buffer.buffer_size, True
    return timeouts


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


@torch.no_grad()
def _evaluate(policy: ActorCriticPolicy, buffer: RolloutBuffer) -> tuple[NDArray[Any], NDArray[Any]]:
    """Values and log-probabilities of the whole rollout, written into the buffer; each of shape (steps, n_envs)."""
    n = buffer.buffer_size * buffer.n_envs
    rows = max(1, CHUNK // sum(map(prod, _shapes(buffer.observation_space))))
    actions = torch.as_tensor(buffer.actions.reshape(n, -1).astype(np.float32), device=policy.device)
    if isinstance(policy.action_space, spaces.Discrete):
        actions = actions.long().flatten()
    values, log_probs = buffer.values.reshape(n), buffer.log_probs.reshape(n)  # views
    for start in range(0, n, rows):
        part = slice(start, start + rows)
        observations = finite(obs_as_tensor(_rows(buffer.observations, part), policy.device))
        part_values, part_log_probs, _ = policy.evaluate_actions(observations, actions[part])
        values[part] = part_values.flatten().cpu().numpy()
        log_probs[part] = part_log_probs.cpu().numpy()
    return buffer.values, buffer.log_probs


def _shapes(space: spaces.Space[Any]) -> list[tuple[int, ...]]:
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    return [part.shape or (1,) for part in parts]


def _rows(observations: Any, part: slice) -> Any:
    """Some of the observations of a buffer, laid out as (steps · n_envs, …)."""
    if isinstance(observations, dict):
        return {key: _rows(array, part) for key, array in observations.items()}
    return observations.reshape(-1, *observations.shape[2:])[part]


@torch.no_grad()
def _value(policy: ActorCriticPolicy, observation: Any) -> float:
    """V of a single observation; NaN when that is not finite."""
    parts = observation.values() if isinstance(observation, dict) else [observation]
    if not all(np.isfinite(part).all() for part in parts):
        return float("nan")
    return float(policy.predict_values(policy.obs_to_tensor(observation)[0]))


@contextmanager
def acting_on_finite_observations(policy: nn.Module) -> Iterator[None]:
    """
    While this context lasts, ``policy(observations)`` sees 0 in the place of NaN and infinity.

    An action must be found for every state, and torch's distributions refuse parameters that are not finite. The
    rollout buffer still stores the observation as it came, so that the update can see that the data is bad.

    :param policy: called with observations as its first argument
    """
    handle = policy.register_forward_pre_hook(lambda module, inputs: (finite(inputs[0]), *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


def warn_of_skipped_rollout(bad: list[str]) -> None:
    """
    The text has no count in it, so that Python shows it once and a broken environment does not flood the console.

    :param bad: names of the parts that are not finite
    """
    warnings.warn(
        f"Update skipped: the rollout holds NaN or infinity in its {', '.join(bad)}. The policy is unchanged. Wrap the "
        "environment in VecCheckNan to find the source. train/skipped_updates counts them.",
        stacklevel=4,
    )


class NormalizationKeeper:
    """
    Remembers the running statistics of a ``VecNormalize``, so that a rollout with bad data can be forgotten.

    One NaN makes a running mean NaN for good; without this, all later observations would be NaN. Statistics that are
    so already, because the first observation of all was bad, start anew.

    :param environment: the outermost wrapper; a ``VecNormalize`` is looked for in it and below
    """

    def __init__(self, environment: VecEnv):
        wrapper = unwrap_vec_normalize(environment)
        self._outermost = wrapper is environment
        self._wrapper = wrapper if wrapper is not None and wrapper.training else None
        if self._wrapper is not None:
            statistics = getattr(self._wrapper, "obs_rms", None)
            self._observation_statistics: Any = (
                {key: _usable_copy(part) for key, part in statistics.items()}
                if isinstance(statistics, dict)
                else statistics and _usable_copy(statistics)
            )
            self._return_statistics = _usable_copy(self._wrapper.ret_rms)

    def forget_rollout(self, last_observations: Any) -> Any:
        """
        Put the statistics back as they were when this object was made.

        :param last_observations: those that the next rollout starts from
        :return: the same, normalised anew if the wrapper is the outermost one. What other wrappers have made of them,
            such as a stack of frames, stays; the next rollout may have to be forgotten because of it, none after it.
        """
        wrapper = self._wrapper
        if wrapper is None:
            return last_observations
        wrapper.ret_rms = self._return_statistics
        if self._observation_statistics is not None:
            wrapper.obs_rms = self._observation_statistics
        wrapper.returns = np.nan_to_num(wrapper.returns, nan=0.0, posinf=0.0, neginf=0.0)
        return wrapper.normalize_obs(wrapper.get_original_obs()) if self._outermost else last_observations


def _usable_copy(statistics: RunningMeanStd) -> RunningMeanStd:
    """A copy of running statistics; of fresh ones when they are not finite."""
    if np.isfinite(statistics.mean).all() and np.isfinite(statistics.var).all():
        return statistics.copy()
    return RunningMeanStd(shape=statistics.mean.shape)
