"""
One gradient step of ACER on a batch of sequences.

Wang et al. 2017, "Sample Efficient Actor-Critic with Experience Replay", arXiv:1611.01224, algorithms 2 (Discrete
actions) and 3 (Box actions): the critic's targets and the policy gradient ĝ in the statistics φ are estimated; ĝ is
projected onto the trust region around the average policy; the projection z* is carried back to the weights, and the
average policy follows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from sb3_trpo_ext.acer.batch import SequenceBatch
from sb3_trpo_ext.acer.gradients import entropy_gradient, kl_gradient
from sb3_trpo_ext.acer.learner import Learner
from sb3_trpo_ext.acer.losses import (
    discrete_policy_gradient,
    duelling,
    duelling_loss,
    gaussian_policy_gradient,
    importance_weights,
    project,
    q_loss,
    slope,
)
from sb3_trpo_ext.acer.policies import ActionFamily, Evaluation, MlpPolicy
from sb3_trpo_ext.acer.updates import Update
from sb3_trpo_ext.kernels.families import Categorical, Gaussian
from sb3_trpo_ext.kernels.retrace import retrace, uncorrected


@dataclass(frozen=True)
class Settings:
    """
    :param gamma: discount
    :param importance_clip: c, the limit of the importance weights
    :param bias_correction: whether what the limit cuts off is made up for by the critic
    :param trust_region_delta: δ, the limit of the trust region; None for no trust region
    :param average_policy_decay: α of the average policy
    :param ent_coef: weight of the entropy
    :param q_coef: weight of the critic's loss
    :param max_grad_norm: limit of the gradient's norm
    :param n_action_samples: actions over which the duelling critic averages
    :param learn_std: whether the standard deviation of Box actions is learned
    """

    gamma: float
    importance_clip: float
    bias_correction: bool
    trust_region_delta: float | None
    average_policy_decay: float
    ent_coef: float
    q_coef: float
    max_grad_norm: float
    n_action_samples: int
    learn_std: bool


class Estimates(NamedTuple):
    """
    What algorithms 2 and 3 estimate at the N states of a batch, for m numbers that describe one distribution.

    :param gradient: ĝ, shape (N, m)
    :param critic_loss: with its graph
    :param weights: ρ, shape (N,)
    :param targets: Q^ret, shape (N,)
    """

    gradient: Tensor
    critic_loss: Tensor
    weights: Tensor
    targets: Tensor

    def figures(self, importance_clip: float) -> dict[str, Tensor]:
        """
        What :class:`Update` says about them.

        :param importance_clip: c, the limit of the importance weights
        """
        return {
            "weight_mean": self.weights.mean(),
            "weight_max": self.weights.max(),
            "truncated_share": (self.weights > importance_clip).float().mean(),
            "target_mean": self.targets.mean(),
            "critic_loss": self.critic_loss.detach(),
        }


def acer_step(learner: Learner, batch: SequenceBatch, settings: Settings) -> Update:
    """
    Improve actor and critic by one gradient step, and let the average policy follow.

    :param learner: policy and average policy
    :param batch: of sequences, on-policy or replayed
    :param settings: of the algorithm
    """
    everywhere = learner.policy.evaluate(batch.observations)
    with torch.no_grad():
        bootstraps = batch.bootstraps(everywhere.values)
    now = _first(everywhere, batch.size)
    if isinstance(now.family, Categorical):
        estimates = _algorithm_2(now, batch, bootstraps, settings)
    else:
        estimates = _algorithm_3(learner.policy, now, batch, bootstraps, settings)

    with torch.no_grad():
        entropy = now.family.entropy().mean()
        gradient = estimates.gradient
        if settings.ent_coef:
            gradient = gradient + settings.ent_coef * _moving(entropy_gradient(now.family), settings)
        direction, about_region = _within_trust_region(learner.average, now.family, batch, gradient, settings)

    # φ carries z* back to θ: the gradient of this inner product in θ is (∂φ/∂θ)ᵀ z*.
    ascent = (direction * _moving(now.family.statistics, settings)).sum() / batch.size
    loss = settings.q_coef * estimates.critic_loss - ascent
    norm = learner.descend(loss, settings.max_grad_norm, settings.average_policy_decay)

    figures = estimates.figures(settings.importance_clip) | about_region | {"entropy": entropy, "gradient_norm": norm}
    numbers = torch.stack(list(figures.values())).tolist()  # all at once: each would be a wait for the device
    return Update(applied=bool(norm.isfinite()), **dict(zip(figures, numbers, strict=True)))


@torch.no_grad()
def average_kl(learner: Learner, batch: SequenceBatch) -> float:
    """
    KL(π_avg ‖ π), whose growth the trust region limits, averaged over a batch's states.

    :param learner: policy and average policy
    :param batch: of N states
    """
    centre: Any = learner.average.family(batch.states)
    return float(centre.kl(learner.policy.family(batch.states)).mean())


def _algorithm_2(now: Evaluation, batch: SequenceBatch, bootstraps: Tensor, settings: Settings) -> Estimates:
    """Discrete actions: the critic knows Q(x, ·) of all of them."""
    family, behaviour = cast(Categorical, now.family), cast(Categorical, batch.behaviour)
    q_values, actions = now.head, batch.actions
    q_taken = q_values.gather(1, actions.long().unsqueeze(1)).squeeze(1)
    with torch.no_grad():
        values = (family.logits.softmax(dim=1) * q_values).sum(dim=1)
        weights = importance_weights(family, behaviour, actions)
        q, v, traces = (batch.over_time(rows) for rows in (q_taken, values, weights.clamp(max=1)))
        targets = retrace(batch.rewards, q, v, traces, batch.dones, bootstraps, settings.gamma).view(-1)
        gradient = discrete_policy_gradient(
            family, behaviour, actions, targets, q_values, settings.importance_clip, settings.bias_correction
        )
    return Estimates(gradient, q_loss(q_taken, targets), weights, targets)


def _algorithm_3(
    policy: MlpPolicy, now: Evaluation, batch: SequenceBatch, bootstraps: Tensor, settings: Settings
) -> Estimates:
    """Box actions: a stochastic duelling critic."""
    family, behaviour = cast(Gaussian, now.family), cast(Gaussian, batch.behaviour)
    values, actions = now.head, batch.actions
    k, d = settings.n_action_samples, actions.shape[1]
    with torch.no_grad():
        noise = torch.randn(k + 1, *actions.shape, device=actions.device)
        drawn = family.mean + family.std * noise  # the last one is a', the others are u_1 … u_k
        weights = importance_weights(family, behaviour, actions)
    advantages = policy.advantages(now.latent, torch.cat([actions.unsqueeze(0), drawn]))
    q_taken = duelling(values, advantages[0], advantages[1:-1])
    with torch.no_grad():
        q_own = duelling(values, advantages[-1], advantages[1:-1])
        q, v, traces = (batch.over_time(rows) for rows in (q_taken, values, weights.pow(1 / d).clamp(max=1)))
        targets = retrace(batch.rewards, q, v, traces, batch.dones, bootstraps, settings.gamma).view(-1)
        opc = uncorrected(batch.rewards, q, v, batch.dones, bootstraps, settings.gamma).view(-1)
        gradient = gaussian_policy_gradient(
            family,
            behaviour,
            actions,
            opc - values,
            drawn[-1],
            q_own - values,
            settings.importance_clip,
            settings.bias_correction,
        )
    gradient = gradient if settings.learn_std else gradient[:, :d]
    return Estimates(gradient, duelling_loss(q_taken, values, targets, weights), weights, targets)


def _within_trust_region(
    average: MlpPolicy, family: ActionFamily, batch: SequenceBatch, gradient: Tensor, settings: Settings
) -> tuple[Tensor, dict[str, Tensor]]:
    """z*, and what :class:`Update` says about it."""
    if settings.trust_region_delta is None:
        unknown = gradient.new_tensor(float("nan"))
        figures = dict.fromkeys(("average_kl", "slope_before", "slope_after"), unknown)
        return gradient, figures | {"projected_share": torch.zeros_like(unknown)}
    centre: Any = average.family(batch.states)
    k = _moving(kl_gradient(family, centre), settings)
    direction = project(gradient, k, settings.trust_region_delta)
    before = slope(gradient, k)
    return direction, {
        "average_kl": centre.kl(family).mean(),
        "slope_before": before.mean(),
        "slope_after": slope(direction, k).mean(),
        "projected_share": (before > settings.trust_region_delta).float().mean(),
    }


def _moving(statistics: Sequence[Tensor], settings: Settings) -> Tensor:
    """The part of φ that is learned, side by side: a fixed standard deviation takes no part in the trust region."""
    if len(statistics) == 1 or not settings.learn_std:
        return statistics[0]
    return torch.cat(list(statistics), dim=1)


def _first(evaluation: Evaluation, n: int) -> Evaluation:
    """Of the first n states alone."""
    statistics = [part[:n] for part in evaluation.family.statistics]
    return Evaluation(evaluation.family.with_statistics(statistics), evaluation.head[:n], evaluation.latent[:n])
