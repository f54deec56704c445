"""A finished rollout, read once from SB3's buffer."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor

from sb3_trpo_ext.common.inputs import Inputs
from sb3_trpo_ext.trust_region.advantages import critic_targets
from sb3_trpo_ext.trust_region.batch import Batch
from sb3_trpo_ext.trust_region.heads import Heads


@dataclass(frozen=True)
class Rollout:
    """
    T steps in each of E environments, N = T × E samples: one environment after the other, each in time order.

    Observations and rewards are as they were then, normalised or not; where a time limit cut an episode, the reward
    holds the value that the critic then gave the state after it.

    :param inputs: of the N states
    :param actions: as stored, shape (N, d)
    :param advantages: shape (N,)
    :param returns: targets of the critic, shape (N,)
    :param values: predicted by the critic then, shape (N,)
    :param rewards: shape (T, E)
    :param ends: whether an episode ended with step t, boolean, shape (T, E); None where nobody knows of step T
    :param last_inputs: of the E states after step T; None where nobody knows them
    """

    inputs: Inputs
    actions: Tensor
    advantages: Tensor
    returns: Tensor
    values: Tensor
    rewards: Tensor
    ends: Tensor | None
    last_inputs: Inputs | None

    @classmethod
    def of(
        cls,
        buffer: RolloutBuffer,
        heads: Heads,
        last_observations: Any = None,
        last_episode_starts: NDArray[Any] | None = None,
        critic_gae_lambda: float | None = None,
    ) -> "Rollout":
        """
        :param buffer: filled, with returns and advantages computed
        :param heads: of the policy that is going to learn from it
        :param last_observations: E of them, as they came from the VecEnv after step T; None if it was not filled by
            stepping
        :param last_episode_starts: whether episodes ended with step T, shape (E,); None likewise
        :param critic_gae_lambda: of the critic's targets; None for those that the buffer holds
        """

        def flat(array: NDArray[Any]) -> NDArray[Any]:
            # Once someone has drawn samples from a buffer, its arrays are flat. The buffer may be filled again while
            # this rollout is still of use, hence the copy.
            return np.array(array if buffer.generator_ready else buffer.swap_and_flatten(array))

        def tensor(array: NDArray[Any]) -> Tensor:
            return buffer.to_torch(flat(array), copy=False)

        returns = buffer.returns if critic_gae_lambda is None else critic_targets(buffer, critic_gae_lambda)
        # SB3 draws an order of the samples here. This keeps the random numbers of what follows the same.
        np.random.permutation(buffer.buffer_size * buffer.n_envs)
        ends, last_inputs = None, None
        if last_episode_starts is not None:
            array = np.concatenate([buffer.episode_starts[1:], [last_episode_starts]]).astype(bool)
            ends, last_inputs = buffer.to_torch(array), heads.present(last_observations)
        return cls(
            inputs=heads.recorded(buffer, flat),
            actions=tensor(buffer.actions.astype(np.float32, copy=False)),
            advantages=tensor(buffer.advantages).flatten(),
            returns=tensor(returns).flatten(),
            values=tensor(buffer.values).flatten(),
            rewards=buffer.to_torch(buffer.rewards),
            ends=ends,
            last_inputs=last_inputs,
        )

    @property
    def size(self) -> int:
        """N."""
        return len(self.returns)

    def batch(self) -> Batch:
        """All samples, as those of the policy that collected them."""
        return Batch(self.inputs, self.actions, self.advantages, self.returns, self.values)

    def not_finite(self) -> list[str]:
        """The names of the parts that hold NaN or infinity; empty when all is well."""
        parts = {
            "rewards": self.rewards,
            "actions": self.actions,
            "advantages": self.advantages,
            "returns": self.returns,
        }
        bad = [name for name, tensor in parts.items() if not bool(torch.isfinite(tensor).all())]
        return bad + self.inputs.not_finite()
