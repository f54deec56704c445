"""
Generalized advantage estimation (Schulman et al. 2016, arXiv:1506.02438) on SB3's rollout buffer, and other λ.

    δ_t = r_t + γ V(s_{t+1}) − V(s_t),    Â_t = δ_t + γ λ Â_{t+1},    within an episode

gives what ``RolloutBuffer.compute_returns_and_advantage`` gives, by a few operations on whole arrays instead of several
for each step, and in float64 until it is stored.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor

from sb3_trpo_ext.kernels.recurrence import discounted_sums

Doubles = NDArray[np.float64]


def has_sb3s_advantages(buffer: RolloutBuffer) -> bool:
    """Whether nobody has given it advantages and returns of another kind."""
    return type(buffer).compute_returns_and_advantage is RolloutBuffer.compute_returns_and_advantage


def compute_advantages(buffer: RolloutBuffer, last_values: Tensor, last_episode_starts: NDArray[Any]) -> None:
    """
    As ``buffer.compute_returns_and_advantage``, which is called where it is not SB3's own.

    :param buffer: filled, but for advantages and returns
    :param last_values: V of the states after step T, shape (E,)
    :param last_episode_starts: whether episodes ended with step T, shape (E,)
    """
    if not has_sb3s_advantages(buffer):
        buffer.compute_returns_and_advantage(last_values, last_episode_starts)
        return
    values = buffer.values.astype(np.float64)
    following = np.concatenate([values[1:], last_values.detach().cpu().double().numpy().reshape(1, -1)])
    starts = np.concatenate([buffer.episode_starts[1:], last_episode_starts.reshape(1, -1)])
    discounts = buffer.gamma * (1.0 - starts)  # γ from step t to t + 1, and 0 where an episode ends
    errors = buffer.rewards + discounts * following - values  # δ
    advantages = discounted_sums(errors, buffer.gae_lambda * discounts[:-1])
    buffer.advantages = advantages.astype(np.float32)
    buffer.returns = (advantages + values).astype(np.float32)


def critic_targets(buffer: RolloutBuffer, critic_gae_lambda: float) -> NDArray[np.float32]:
    """
    V(s_t) + Σ_l (γ λ_V)^l δ_{t+l}, within the episode: what the critic learns when its λ is not that of the advantages
    (Aitchison and Sweetser 2022, "DNA: Proximal Policy Optimization with a Dual Network Architecture",
    arXiv:2206.10027).

    The errors δ are read off the advantages, so that nobody has to know the value of the state after the last step once
    more.

    :param buffer: filled, with returns and advantages computed
    :param critic_gae_lambda: λ_V, in [0, 1]
    :return: as the buffer's returns are laid out
    """
    is_flat = buffer.generator_ready

    def in_time(array: NDArray[Any]) -> Doubles:
        rows = array.reshape(buffer.n_envs, buffer.buffer_size).T if is_flat else array
        return rows.astype(np.float64)

    advantages, values = in_time(buffer.advantages), in_time(buffer.values)
    discounts = buffer.gamma * (1.0 - buffer.episode_starts[1:].astype(np.float64))
    errors = advantages.copy()
    errors[:-1] -= buffer.gae_lambda * discounts * advantages[1:]  # δ
    returns = (values + discounted_sums(errors, critic_gae_lambda * discounts)).astype(np.float32)
    return returns.T.reshape(buffer.returns.shape) if is_flat else returns
