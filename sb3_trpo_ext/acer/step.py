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
from sb3_trpo_ext.acer.gradients import entropy_gradient, inverse_metric, kl_gradient, score
from sb3_trpo_ext.acer.learner import Learner
from sb3_trpo_ext.acer.losses import (
    discrete_policy_gradient,
    duelling,
    duelling_loss,
    duelling_loss_gradient,
    importance_weights,
    project,
    q_loss,
    q_loss_gradient,
    sampled_policy_gradient,
    slope,
    summed,
)
from sb3_trpo_ext.acer.networks import Cotangents, Pass
from sb3_trpo_ext.acer.policies import ActionFamily, Evaluation
from sb3_trpo_ext.acer.updates import Update
from sb3_trpo_ext.kernels.families import Categorical, Gaussian, MultiCategorical
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
    :param return_scale: σ > 0, the unit of the critic: it predicts returns divided by it
    :param advantage_scale: > 0, the unit of the policy gradient, in which δ and the entropy's weight are measured; in
        units of σ itself
    :param fisher_metric: whether the trust region measures in the Fisher metric; False is Euclidean in φ
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
    return_scale: float = 1.0
    advantage_scale: float = 1.0
    fisher_metric: bool = True


class Estimates(NamedTuple):
    """
    What algorithms 2 and 3 estimate at the N states of a batch, for m numbers that describe one distribution.

    :param gradient: ĝ, shape (N, m)
    :param advantages: Q^ret − V, or Q^opc − V, shape (N,)
    :param weights: ρ, shape (N,)
    :param targets: Q^ret, shape (N,)
    :param critic_loss: whose mean is the loss, before it is weighted, shape (N,)
    :param at_head: the gradient of that mean in the critic's head, of its shape
    :param at_advantages: in the A(x, a) of algorithm 3, shape (2 + k, N)
    """

    gradient: Tensor
    advantages: Tensor
    weights: Tensor
    targets: Tensor
    critic_loss: Tensor
    at_head: Tensor
    at_advantages: Tensor | None = None

    def figures(self, settings: Settings) -> dict[str, Tensor]:
        """What the means of :class:`Update` are taken over, by name."""
        return {
            "weight_mean": self.weights,
            "truncated_share": (self.weights > settings.importance_clip).float(),
            "advantage_square": self.advantages.square(),
            "target_mean": self.targets * settings.return_scale,
            "critic_loss": self.critic_loss,
        }


@torch.no_grad()
def acer_step(learner: Learner, batch: SequenceBatch, settings: Settings) -> Update:
    """
    Improve actor and critic by one gradient step, and let the average policy follow.

    :param learner: policy and average policy
    :param batch: of sequences, on-policy or replayed
    :param settings: of the algorithm
    """
    batch = batch._replace(rewards=batch.rewards / settings.return_scale)
    networks = learner.networks.run(batch.observations)
    bootstraps = batch.bootstraps(networks.evaluation.values)
    now = networks.evaluation.first(batch.size)
    if isinstance(now.family, Categorical):
        estimates = _algorithm_2(now, batch, bootstraps, settings)
    elif isinstance(now.family, MultiCategorical):
        estimates = _algorithm_2_sampled(now, batch, bootstraps, settings)
    else:
        estimates = _algorithm_3(networks, now, batch, bootstraps, settings)

    gradient = estimates.gradient / settings.advantage_scale
    if settings.ent_coef and (settings.learn_std or not isinstance(now.family, Gaussian)):
        gradient = gradient + settings.ent_coef * _moving(entropy_gradient(now.family), settings)
    direction, about_region = _within_trust_region(networks, now.family, gradient, settings)

    # φ carries z* back to θ by (∂φ/∂θ)ᵀ z*, and the critic's heads their part of the loss. The optimizer descends.
    ascent = -direction / batch.size
    cotangents = Cotangents(
        statistics=_parts(ascent, now.family),
        head=settings.q_coef * estimates.at_head,
        advantages=None if estimates.at_advantages is None else settings.q_coef * estimates.at_advantages,
    )
    norm = learner.descend(
        lambda: networks.write_gradients(cotangents), settings.max_grad_norm, settings.average_policy_decay
    )

    figures = estimates.figures(settings) | about_region | {"entropy": now.family.entropy()}
    means = torch.stack(list(figures.values())).mean(dim=1)
    numbers = torch.cat([means, torch.stack([estimates.weights.max(), norm])])
    named = zip([*figures, "weight_max", "gradient_norm"], numbers.tolist(), strict=True)  # one wait for the device
    return Update(applied=bool(norm.isfinite()), **dict(named))


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
    q_values, values, chosen = now.head, now.values, batch.actions.long().unsqueeze(1)
    q_taken = q_values.gather(1, chosen).squeeze(1)
    weights = importance_weights(family, behaviour, batch.actions)
    q, v, traces = (batch.over_time(rows) for rows in (q_taken, values, weights.clamp(max=1)))
    targets = retrace(batch.rewards, q, v, traces, batch.dones, bootstraps, settings.gamma).view(-1)
    gradient = discrete_policy_gradient(
        family, behaviour, batch.actions, weights, targets, q_values, settings.importance_clip, settings.bias_correction
    )
    at_head = torch.zeros_like(q_values).scatter_(1, chosen, q_loss_gradient(q_taken, targets).unsqueeze(1))
    return Estimates(gradient, targets - values, weights, targets, q_loss(q_taken, targets), at_head)


def _algorithm_2_sampled(now: Evaluation, batch: SequenceBatch, bootstraps: Tensor, settings: Settings) -> Estimates:
    """MultiDiscrete actions, too many to rate one by one: advantages add up, and a' ~ π stands for the sum over all."""
    family, behaviour = cast(MultiCategorical, now.family), cast(MultiCategorical, batch.behaviour)
    values, advantages = now.values, now.head[:, 1:]
    own_actions = torch.stack([choice.p.multinomial(1).squeeze(1) for choice in family.choices], dim=1)
    (taken,), (own,) = score(family, batch.actions), score(family, own_actions)
    q_taken, q_own = summed(values, advantages, taken), summed(values, advantages, own)
    weights = importance_weights(family, behaviour, batch.actions)
    q, v, traces = (batch.over_time(rows) for rows in (q_taken, values, weights.clamp(max=1)))
    targets = retrace(batch.rewards, q, v, traces, batch.dones, bootstraps, settings.gamma).view(-1)
    gradient = sampled_policy_gradient(
        family,
        behaviour,
        batch.actions,
        weights,
        targets - values,
        own_actions,
        q_own - values,
        settings.importance_clip,
        settings.bias_correction,
    )
    errors = q_loss_gradient(q_taken, targets).unsqueeze(1)
    at_head = torch.cat([errors, errors * taken], dim=1)
    return Estimates(gradient, targets - values, weights, targets, q_loss(q_taken, targets), at_head)


def _algorithm_3(
    networks: Pass, now: Evaluation, batch: SequenceBatch, bootstraps: Tensor, settings: Settings
) -> Estimates:
    """Box actions: a stochastic duelling critic."""
    family, behaviour = cast(Gaussian, now.family), cast(Gaussian, batch.behaviour)
    values, actions = now.head, batch.actions
    k, d = settings.n_action_samples, actions.shape[1]
    noise = torch.randn(k + 1, *actions.shape, device=actions.device)
    drawn = family.mean + family.std * noise  # the last one is a', the others are u_1 … u_k
    advantages = networks.advantages(torch.cat([actions.unsqueeze(0), drawn]))
    q_taken, q_own = (duelling(values, advantages[i], advantages[1:-1]) for i in (0, -1))
    weights = importance_weights(family, behaviour, actions)
    q, v, traces = (batch.over_time(rows) for rows in (q_taken, values, weights.pow(1 / d).clamp(max=1)))
    targets = retrace(batch.rewards, q, v, traces, batch.dones, bootstraps, settings.gamma).view(-1)
    opc = uncorrected(batch.rewards, q, v, batch.dones, bootstraps, settings.gamma).view(-1)
    gradient = sampled_policy_gradient(
        family,
        behaviour,
        actions,
        weights,
        opc - values,
        drawn[-1],
        q_own - values,
        settings.importance_clip,
        settings.bias_correction,
    )
    gradient = gradient if settings.learn_std else gradient[:, :d]
    at_values, at_advantages = duelling_loss_gradient(q_taken, values, targets, weights, k)
    at_own = torch.zeros_like(at_values).unsqueeze(0)  # a' has no part in the loss
    loss = duelling_loss(q_taken, values, targets, weights)
    return Estimates(gradient, opc - values, weights, targets, loss, at_values, torch.cat([at_advantages, at_own]))


def _within_trust_region(
    networks: Pass, family: ActionFamily, gradient: Tensor, settings: Settings
) -> tuple[Tensor, dict[str, Tensor]]:
    """z*, and what the means of :class:`Update` about it are taken over."""
    if settings.trust_region_delta is None:
        unknown = torch.full_like(gradient[:, 0], float("nan"))
        figures = dict.fromkeys(("average_kl", "slope_before", "slope_after"), unknown)
        return gradient, figures | {"projected_share": torch.zeros_like(unknown)}
    centre: Any = networks.centre(len(gradient))
    k = _moving(kl_gradient(family, centre), settings)
    metric = _moving(inverse_metric(family), settings) if settings.fisher_metric else None
    direction = project(gradient, k, settings.trust_region_delta, metric)
    before = slope(gradient, k, metric)
    return direction, {
        "average_kl": centre.kl(family),
        "slope_before": before,
        "slope_after": slope(direction, k, metric),
        "projected_share": (before > settings.trust_region_delta).float(),
    }


def _moving(statistics: Sequence[Tensor], settings: Settings) -> Tensor:
    """The part of φ that is learned, side by side: a fixed standard deviation takes no part in the trust region."""
    if len(statistics) == 1 or not settings.learn_std:
        return statistics[0]
    return torch.cat(list(statistics), dim=1)


def _parts(direction: Tensor, family: ActionFamily) -> tuple[Tensor, ...]:
    """The reverse of :func:`_moving`."""
    m = family.statistics[0].shape[1]
    return (direction,) if direction.shape[1] == m else (direction[:, :m], direction[:, m:])
