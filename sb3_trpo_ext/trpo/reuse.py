"""
Learning from the rollouts of earlier policies once more.

The idea is that of Queeney, Paschalidis and Cassandras 2021, "Generalized Proximal Policy Optimization with Sample
Reuse", arXiv:2111.00072: an update learns from the last M rollouts. Each may then be M times shorter, which makes M
times as many updates of the same number of samples. Advantages and returns of earlier rollouts are estimated anew with
the present critic and corrected for the present policy by V-trace (Espeholt et al. 2018, arXiv:1802.01561, section 4).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sb3_trpo_ext.common.actor import Actor
from sb3_trpo_ext.common.batch import Batch
from sb3_trpo_ext.common.critic import Critic
from sb3_trpo_ext.common.observations import Observations, joined
from sb3_trpo_ext.kernels.retrace import retrace


@dataclass(frozen=True)
class Rollout:
    """
    T steps in each of E environments, N = T × E samples. Observations and rewards are as they were then, normalised or
    not; where a time limit cut an episode, the reward holds the value that the critic then gave the state after it.

    :param observations: N of them, one environment after the other, each in time order
    :param actions: as stored, shape (N, d)
    :param log_prob: log μ(a|s) of the policy μ that acted, shape (N,)
    :param rewards: shape (T, E)
    :param ends: whether an episode ended with step t, boolean, shape (T, E)
    :param last_observations: E of them, after step T
    """

    observations: Observations
    actions: Tensor
    log_prob: Tensor
    rewards: Tensor
    ends: Tensor
    last_observations: Observations


class EarlierRollouts:
    """The last few rollouts, the oldest first."""

    def __init__(self) -> None:
        self._rollouts: list[Rollout] = []

    def __len__(self) -> int:
        return len(self._rollouts)

    def add(self, rollout: Rollout, count: int) -> None:
        """
        Keep one more, and forget the oldest when there are too many.

        :param rollout: as long as the others, of as many environments
        :param count: how many are kept, ≥ 1
        """
        self._rollouts = [*self._rollouts, rollout][-count:]

    def clear(self) -> None:
        """Forget all."""
        self._rollouts = []

    @torch.no_grad()
    def corrected(self, actor: Actor, critic: Critic, gamma: float, gae_lambda: float) -> Batch:
        """
        All their samples, as the present policy π and critic V see them. With δ_t = r_t + γ V(s_{t+1}) − V(s_t) and
        w_t = min(1, π(a_t|s_t) / μ(a_t|s_t)), the advantage is

            Â_t = δ_t + γ λ w_{t+1} Â_{t+1},

        the critic's target V(s_t) + w_t Â_t. Where π = μ this is GAE.

        :param actor: of π
        :param critic: of V
        :param gamma: discount γ, in [0, 1]
        :param gae_lambda: λ, in [0, 1]
        :raises ValueError: when there is no rollout
        """
        if not self._rollouts:
            raise ValueError("There is no earlier rollout yet. Add one.")
        observations = joined([one.observations for one in self._rollouts])
        actions = torch.cat([one.actions for one in self._rollouts])
        old_log_prob = torch.cat([one.log_prob for one in self._rollouts])
        rewards = torch.cat([one.rewards for one in self._rollouts], dim=1)
        ends = torch.cat([one.ends for one in self._rollouts], dim=1)

        log_prob = actor.family(observations).log_prob(actor.family_actions(actions))
        weights = (log_prob - old_log_prob).exp().clamp(max=1)  # w
        values = critic.values(observations).flatten()
        last_values = critic.values(joined([one.last_observations for one in self._rollouts])).flatten()
        bootstraps = torch.zeros_like(rewards)
        bootstraps[-1] = torch.where(ends[-1], 0, last_values)

        def in_time(flat: Tensor) -> Tensor:
            return flat.reshape(-1, len(rewards)).T

        # Retrace with V in the place of Q: its target is then V + Â.
        v, traces = in_time(values), gae_lambda * in_time(weights)
        advantages = (retrace(rewards, v, v, traces, ends, bootstraps, gamma) - v).T.flatten()
        returns = values + weights * advantages
        return Batch(observations, actions, advantages, returns, values, old_log_prob)
