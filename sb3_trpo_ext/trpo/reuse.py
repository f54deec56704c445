"""
Learning from the rollouts of earlier policies once more.

The idea is that of Queeney, Paschalidis and Cassandras 2021, "Generalized Proximal Policy Optimization with Sample
Reuse", arXiv:2111.00072: an update learns from the last M rollouts. Each may then be M times shorter, which makes M
times as many updates of the same number of samples. Advantages and returns of earlier rollouts are estimated anew with
the present critic and corrected for the present policy by V-trace (Espeholt et al. 2018, arXiv:1802.01561, section 4).
"""

from dataclasses import replace
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from sb3_trpo_ext.common.inputs import Inputs
from sb3_trpo_ext.kernels.retrace import retrace
from sb3_trpo_ext.trust_region.actor import Actor
from sb3_trpo_ext.trust_region.batch import Batch
from sb3_trpo_ext.trust_region.rollout import Rollout
from sb3_trpo_ext.trust_region.value_function import ValueFunction


class Earlier(NamedTuple):
    """
    :param rollout: that was collected by a policy μ
    :param log_prob: log μ(a|s) of its N samples, shape (N,)
    :param ends: whether an episode ended with step t, boolean, shape (T, E)
    :param last_inputs: of the E states after step T
    """

    rollout: Rollout
    log_prob: Tensor
    ends: Tensor
    last_inputs: Inputs


class Discounts(NamedTuple):
    """
    :param gamma: γ, in [0, 1]
    :param gae_lambda: λ of the advantages, in [0, 1]
    :param critic_gae_lambda: λ of the critic's targets, in [0, 1]
    """

    gamma: float
    gae_lambda: float
    critic_gae_lambda: float


class EarlierRollouts:
    """The last few rollouts, the oldest first."""

    def __init__(self) -> None:
        self._kept: list[Earlier] = []

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, rollout: Rollout, log_prob: Tensor, count: int) -> None:
        """
        Keep one more, and forget the oldest when there are too many.

        :param rollout: as long as the others, of as many environments
        :param log_prob: of its actions under the policy that took them, shape (N,)
        :param count: how many are kept, ≥ 1
        :raises ValueError: when it was not collected by stepping, so that nobody knows what followed
        """
        if rollout.ends is None or rollout.last_inputs is None:
            raise ValueError("rollouts_per_update above 1 needs rollouts that collect_rollouts has filled, got another")
        earlier = Earlier(rollout, log_prob, rollout.ends, rollout.last_inputs)
        self._kept = [*self._kept, earlier][-count:]

    def clear(self) -> None:
        """Forget all."""
        self._kept = []

    def batch_with(
        self, newest: Rollout, actor: Actor, critic: ValueFunction, discounts: Discounts, count: int
    ) -> Batch:
        """
        All samples as the present policy and critic see them, the newest rollout's first; it is then kept too.

        :param newest: collected by the present policy
        :param actor: of the present policy
        :param critic: the present one
        :param discounts: γ and λ
        :param count: how many rollouts are kept for the updates to come
        """
        earlier = [one.rollout for one in self._kept]
        inputs = reduce(_joined, (one.inputs for one in earlier), newest.inputs)
        actions = torch.cat([newest.actions, *(one.actions for one in earlier)])
        linearized = actor.linearize(inputs)  # once, for the correction and for the step
        log_prob = linearized.family.log_prob(actor.family_actions(actions))
        batch = replace(newest.batch(), behaviour_log_prob=log_prob[: newest.size])
        if earlier:
            batch = batch.followed_by(self.corrected(log_prob[newest.size :], critic, discounts))
        self.add(newest, log_prob[: newest.size], count)
        return replace(batch, linearized=linearized)

    @torch.no_grad()
    def corrected(self, log_prob: Tensor, critic: ValueFunction, discounts: Discounts) -> Batch:
        """
        All their samples, as the present policy π and critic V see them. With δ_t = r_t + γ V(s_{t+1}) − V(s_t) and
        w_t = min(1, π(a_t|s_t) / μ(a_t|s_t)), the advantage is

            Â_t = δ_t + γ λ w_{t+1} Â_{t+1},

        the critic's target V(s_t) + w_t Â_t, with its own λ. Where π = μ this is GAE.

        :param log_prob: log π(a|s) of all their samples
        :param critic: of V
        :param discounts: γ and λ
        :raises ValueError: when there is no rollout
        """
        if not self._kept:
            raise ValueError("There is no earlier rollout yet. Add one.")
        rollouts = [one.rollout for one in self._kept]
        inputs = reduce(_joined, (one.inputs for one in rollouts))
        actions = torch.cat([one.actions for one in rollouts])
        behaviour_log_prob = torch.cat([one.log_prob for one in self._kept])
        rewards = torch.cat([one.rewards for one in rollouts], dim=1)
        ends = torch.cat([one.ends for one in self._kept], dim=1)

        weights = (log_prob - behaviour_log_prob).exp().clamp(max=1)  # w
        values = critic.values(inputs).flatten()
        last_values = critic.values(reduce(_joined, (one.last_inputs for one in self._kept))).flatten()
        bootstraps = torch.zeros_like(rewards)
        bootstraps[-1] = torch.where(ends[-1], 0, last_values)

        def in_time(flat: Tensor) -> Tensor:
            return flat.reshape(-1, len(rewards)).T

        def advantages(gae_lambda: float) -> Tensor:
            # Retrace with V in the place of Q: its target is then V + Â.
            v, traces = in_time(values), gae_lambda * in_time(weights)
            return (retrace(rewards, v, v, traces, ends, bootstraps, discounts.gamma) - v).T.flatten()

        policys = critics = advantages(discounts.gae_lambda)
        if discounts.critic_gae_lambda != discounts.gae_lambda:
            critics = advantages(discounts.critic_gae_lambda)
        returns = values + weights * critics
        return Batch(inputs, actions, policys, returns, values, behaviour_log_prob)


def _joined(first: Inputs, second: Inputs) -> Inputs:
    """By the method of their own class, which may hold more than observations."""
    return first.followed_by(second)
