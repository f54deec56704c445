"""One gradient step of ACER on a batch of sequences (Wang et al. 2017, algorithms 2 and 3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from sb3_trpo_ext.acer.buffer import Sequences
from sb3_trpo_ext.acer.gradients import entropy_gradient, kl_gradient
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
from sb3_trpo_ext.common.inputs import Observations, each
from sb3_trpo_ext.kernels.families import Categorical, Gaussian
from sb3_trpo_ext.kernels.retrace import retrace, uncorrected
from sb3_trpo_ext.kernels.vector import count


@dataclass(frozen=True)
class Settings:
    """
    :param gamma: discount
    :param clip: c, the limit of the importance weights
    :param correct_bias: whether what the limit cuts off is made up for by the critic
    :param delta: δ, the limit of the trust region; None for no trust region
    :param decay: α of the average policy
    :param ent_coef: weight of the entropy
    :param q_coef: weight of the critic's loss
    :param max_grad_norm: limit of the gradient's norm
    :param n_action_samples: actions over which the duelling critic averages
    :param learn_std: whether the standard deviation of Box actions is learned
    """

    gamma: float
    clip: float
    correct_bias: bool
    delta: float | None
    decay: float
    ent_coef: float
    q_coef: float
    max_grad_norm: float
    n_action_samples: int
    learn_std: bool


class Batch(NamedTuple):
    """
    Sequences as tensors. N = T · B rows, one time step of all environments after the other.

    :param observations: the N states, the B states after the sequences, then those where time limits struck
    :param actions: shape (N,) for Discrete, (N, d) for Box
    :param rewards: shape (T, B)
    :param behaviour: μ at the N states
    :param dones: whether an episode ended with the step, shape (T, B)
    :param timeouts: steps and environments of the time limits
    """

    observations: Observations
    actions: Tensor
    rewards: Tensor
    behaviour: ActionFamily
    dones: Tensor
    timeouts: tuple[list[int], list[int]]

    @property
    def size(self) -> int:
        """N."""
        return self.rewards.numel()


class Estimates(NamedTuple):
    """
    :param gradient: ĝ, shape (N, m)
    :param critic_loss: with its graph
    :param weights: ρ, shape (N,)
    :param targets: Q^ret, shape (N,)
    """

    gradient: Tensor
    critic_loss: Tensor
    weights: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Update:
    """
    What one gradient step did. All but ``applied`` are means over the batch, unless they say otherwise.

    :param applied: False if the gradient was not finite, so that nothing was changed
    :param weight_mean: importance weights ρ
    :param weight_max: the largest ρ
    :param truncated_share: of the weights that were above c
    :param average_kl: KL(π_avg ‖ π) before the step; NaN without a trust region
    :param slope_before: kᵀĝ, the growth of that KL along the gradient
    :param slope_after: kᵀz*, along the projected gradient
    :param projected_share: of the states where the projection acted
    :param target_mean: Q^ret
    :param entropy: of π
    :param critic_loss: before it is weighted
    :param gradient_norm: before it is clipped
    """

    applied: bool
    weight_mean: float
    weight_max: float
    truncated_share: float
    average_kl: float
    slope_before: float
    slope_after: float
    projected_share: float
    target_mean: float
    entropy: float
    critic_loss: float
    gradient_norm: float


@dataclass(frozen=True)
class Updates:
    """
    All gradient steps of one iteration.

    :param all: the on-policy one first
    :param average_kl_after: :func:`average_kl` of the on-policy batch after all of them; None without a trust region
    """

    all: Sequence[Update]
    average_kl_after: float | None

    def logged(self) -> Mapping[str, float | str]:
        def mean(name: str) -> float:
            return float(np.mean([getattr(update, name) for update in self.all]))

        region: dict[str, float] = (
            {}
            if self.average_kl_after is None
            else {
                "train/average_policy_kl_before": self.all[0].average_kl,
                "train/average_policy_kl_after": self.average_kl_after,
                "train/kl_slope_before_projection": mean("slope_before"),
                "train/kl_slope_after_projection": mean("slope_after"),
                "train/projected_share": mean("projected_share"),
            }
        )
        return {
            "train/importance_weight_mean": mean("weight_mean"),
            "train/importance_weight_max": max(update.weight_max for update in self.all),
            "train/importance_weight_truncated": mean("truncated_share"),
            **region,
            "train/q_retrace_mean": mean("target_mean"),
            "train/entropy": mean("entropy"),
            "train/critic_loss": mean("critic_loss"),
            "train/gradient_norm": mean("gradient_norm"),
        }


def as_batch(sequences: Sequences, policy: MlpPolicy) -> Batch:
    """
    :param sequences: normalised
    :param policy: that takes the observations; its device is used
    """
    device = policy.device
    statistics = torch.as_tensor(_rows(sequences.statistics), device=device)
    actions = torch.as_tensor(_rows(sequences.actions), device=device)
    discrete = isinstance(policy.action_space, spaces.Discrete)
    d = statistics.shape[1] // 2
    timeouts = sequences.timeouts
    return Batch(
        observations=_observations(sequences, policy),
        actions=actions if discrete else actions.reshape(len(actions), -1).float(),
        rewards=torch.as_tensor(np.ascontiguousarray(sequences.rewards), device=device),
        behaviour=Categorical(statistics) if discrete else Gaussian(statistics[:, :d], statistics[:, d:]),
        dones=torch.as_tensor(np.ascontiguousarray(sequences.dones), device=device),
        timeouts=([timeout.step for timeout in timeouts], [timeout.env for timeout in timeouts]),
    )


class Learner:
    """
    What is learned. Going through modules in search of their parameters would cost as much as a small network's
    gradient, so they are looked for once.

    :param policy: in evaluation mode; changed by its optimizer
    :param average: the average policy, of the same structure, in evaluation mode
    """

    def __init__(self, policy: MlpPolicy, average: MlpPolicy):
        self.policy, self.average = policy, average
        self.parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        trained = zip(average.parameters(), policy.parameters(), strict=True)
        self._averages = [mean.detach() for mean, parameter in trained if parameter.requires_grad]
        self._present = [parameter.detach() for parameter in self.parameters]
        self.n_parameters = count(self.parameters)

    def descend(self, loss: Tensor, max_grad_norm: float, decay: float) -> Tensor:
        """
        One step of the optimizer, then θ_avg ← α θ_avg + (1 − α) θ. Nothing is changed if the gradient is not finite.

        :param loss: with its graph
        :param max_grad_norm: limit of the gradient's norm
        :param decay: α, in [0, 1]
        :return: the norm of the gradient before it was clipped
        """
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.parameters, max_grad_norm, foreach=True)
        if norm.isfinite():
            self.policy.optimizer.step()
            get_ema_multi_avg_fn(decay)(self._averages, self._present, None)  # type: ignore[no-untyped-call]
        return norm


def acer_step(learner: Learner, batch: Batch, settings: Settings) -> Update:
    """
    Improve actor and critic by one gradient step, and let the average policy follow.

    :param learner: policy and average policy
    :param batch: of sequences, on-policy or replayed
    :param settings: of the algorithm
    """
    policy = learner.policy
    now = policy.evaluate(batch.observations)
    family = now.family.with_statistics([part[: batch.size] for part in now.family.statistics])
    with torch.no_grad():
        bootstraps = _bootstraps(now.values.detach(), batch)
    estimate = _discrete if isinstance(family, Categorical) else _box
    estimates = estimate(policy, now, family, batch, bootstraps, settings)

    with torch.no_grad():
        entropy = family.entropy().mean()
        gradient = estimates.gradient
        if settings.ent_coef:
            gradient = gradient + settings.ent_coef * _moving(entropy_gradient(family), settings)
        direction, about_region = _within_trust_region(learner.average, family, batch, gradient, settings)

    # φ carries z* back to θ: the gradient of this inner product in θ is (∂φ/∂θ)ᵀ z*.
    ascent = (direction * _moving(family.statistics, settings)).sum() / batch.size
    loss = settings.q_coef * estimates.critic_loss - ascent
    norm = learner.descend(loss, settings.max_grad_norm, settings.decay)
    weights = estimates.weights
    truncated = (weights > settings.clip).float().mean()
    figures = [weights.mean(), weights.max(), truncated, *about_region, estimates.targets.mean(), entropy]
    figures += [estimates.critic_loss.detach(), norm]
    return Update(bool(norm.isfinite()), *torch.stack(figures).tolist())


@torch.no_grad()
def average_kl(learner: Learner, batch: Batch) -> float:
    """
    KL(π_avg ‖ π), whose growth the trust region limits, averaged over a batch's states.

    :param learner: policy and average policy
    :param batch: of N states
    """
    observations = each(lambda part: part[: batch.size], batch.observations)
    middle: Any = learner.average.family(observations)
    return float(middle.kl(learner.policy.family(observations)).mean())


def _discrete(
    policy: MlpPolicy, now: Evaluation, family: Any, batch: Batch, bootstraps: Tensor, settings: Settings
) -> Estimates:
    """Algorithm 2: the critic knows Q(x, ·) of all actions."""
    behaviour = cast(Categorical, batch.behaviour)
    q_values = now.head[: batch.size]
    q_taken = q_values.gather(1, batch.actions.long().unsqueeze(1)).squeeze(1)
    with torch.no_grad():
        values = (family.logits.softmax(dim=1) * q_values).sum(dim=1)
        weights = importance_weights(family, batch.behaviour, batch.actions)
        targets = _over_time(retrace, batch, q_taken, values, weights.clamp(max=1), bootstraps, settings.gamma)
        gradient = discrete_policy_gradient(
            family, behaviour, batch.actions, targets, q_values, settings.clip, settings.correct_bias
        )
    return Estimates(gradient, q_loss(q_taken, targets), weights, targets)


def _box(
    policy: MlpPolicy, now: Evaluation, family: Any, batch: Batch, bootstraps: Tensor, settings: Settings
) -> Estimates:
    """Algorithm 3: a stochastic duelling critic."""
    values, actions, behaviour = now.head[: batch.size], batch.actions, cast(Gaussian, batch.behaviour)
    k, d = settings.n_action_samples, actions.shape[1]
    with torch.no_grad():
        noise = torch.randn(k + 1, *actions.shape, device=actions.device)
        drawn = family.mean + family.std * noise  # the last one is a', the others are u_1 … u_k
        weights = importance_weights(family, batch.behaviour, actions)
    advantages = policy.advantages(now.latent[: batch.size], torch.cat([actions.unsqueeze(0), drawn]))
    q_taken = duelling(values, advantages[0], advantages[1:-1])
    with torch.no_grad():
        q_own = duelling(values, advantages[-1], advantages[1:-1])
        traces = weights.pow(1 / d).clamp(max=1)
        targets = _over_time(retrace, batch, q_taken, values, traces, bootstraps, settings.gamma)
        opc = _over_time(uncorrected, batch, q_taken, values, None, bootstraps, settings.gamma)
        gradient = gaussian_policy_gradient(
            family,
            behaviour,
            actions,
            opc - values,
            drawn[-1],
            q_own - values,
            settings.clip,
            settings.correct_bias,
        )
    gradient = gradient if settings.learn_std else gradient[:, :d]
    return Estimates(gradient, duelling_loss(q_taken, values, targets, weights), weights, targets)


def _within_trust_region(
    average: Any, family: Any, batch: Batch, gradient: Tensor, settings: Settings
) -> tuple[Tensor, list[Tensor]]:
    """z*, and what there is to say about it: KL, kᵀĝ, kᵀz*, share of the states where they differ."""
    if settings.delta is None:
        nothing = gradient.new_tensor(float("nan"))
        return gradient, [nothing, nothing, nothing, torch.zeros_like(nothing)]
    middle = average.family(each(lambda part: part[: batch.size], batch.observations))
    k = _moving(kl_gradient(family, middle), settings)
    direction = project(gradient, k, settings.delta)
    before, after = slope(gradient, k), slope(direction, k)
    acted = (before > settings.delta).float()
    return direction, [middle.kl(family).mean(), before.mean(), after.mean(), acted.mean()]


def _moving(statistics: Sequence[Tensor], settings: Settings) -> Tensor:
    """The part of φ that is learned, side by side: a fixed standard deviation takes no part in the geometry."""
    if len(statistics) == 1 or not settings.learn_std:
        return statistics[0]
    return torch.cat(list(statistics), dim=1)


def _over_time(
    returns: Any, batch: Batch, q: Tensor, values: Tensor, traces: Tensor | None, bootstraps: Tensor, gamma: float
) -> Tensor:
    """Call :func:`retrace` or :func:`uncorrected` with rows folded to (T, B); the result is rows again, shape (N,)."""
    shape = batch.rewards.shape
    folded = [part.view(shape) for part in (q, values, traces) if part is not None]
    targets: Tensor = returns(batch.rewards, *folded, batch.dones, bootstraps, gamma)
    return targets.view(-1)


def _bootstraps(values: Tensor, batch: Batch) -> Tensor:
    """What the state after each step is worth where the sequence does not go on, shape (T, B)."""
    n, envs = batch.size, batch.rewards.shape[1]
    bootstraps = torch.zeros_like(batch.rewards)
    bootstraps[-1] = torch.where(batch.dones[-1], 0.0, values[n : n + envs])
    if batch.timeouts[0]:
        bootstraps[batch.timeouts[0], batch.timeouts[1]] = values[n + envs :]
    return bootstraps


def _rows(array: Any) -> Any:
    """From (T, B, …) to (T · B, …), in one piece of memory."""
    return np.ascontiguousarray(array).reshape(-1, *array.shape[2:])


def _observations(sequences: Sequences, policy: MlpPolicy) -> Observations:
    def joined(array: Any, final: list[Any]) -> Any:
        rows = _rows(array)
        return np.concatenate([rows, np.stack(final).astype(rows.dtype)]) if final else rows

    final = [timeout.observation for timeout in sequences.timeouts]
    arrays: Any = (
        {key: joined(array, [last[key] for last in final]) for key, array in sequences.observations.items()}
        if isinstance(sequences.observations, dict)
        else joined(sequences.observations, final)
    )
    observations: Observations = obs_as_tensor(arrays, policy.device)
    return observations
