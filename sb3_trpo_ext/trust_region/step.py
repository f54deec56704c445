"""
One policy update of Trust Region Policy Optimization, beside the paper.

Schulman et al. 2015, "Trust Region Policy Optimization", arXiv:1502.05477. With that
paper's symbols, but x for its direction s and F for its matrix A:

    maximise over θ   L(θ) = mean over (s, a) of  ρ(θ) Â,   ρ(θ) = π_θ(a|s) / π_old(a|s)             (14)
    subject to        D(θ_old, θ) = mean over s of  KL(π_old(·|s) ‖ π_θ(·|s))  ≤  δ

solved by a direction x ≈ F⁻¹g, the largest step √(2δ / xᵀFx) along it, and a backtracking line search (appendix C).
Two changes: an advantage Â stands in the place of the paper's Q, and F + λI in the place of F. Samples of earlier
policies may be among those of π_old: the denominator of ρ is then the behaviour policy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, nan, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from sb3_trpo_ext.common.laps import Laps
from sb3_trpo_ext.kernels.conjugate_gradient import CGResult, CGStop
from sb3_trpo_ext.kernels.families import Family, Gaussian
from sb3_trpo_ext.kernels.line_search import LineSearchResult, Trial
from sb3_trpo_ext.kernels.vector import assign, flatten, put_back_on_error
from sb3_trpo_ext.trust_region.actor import Actor, LinearizedPolicy
from sb3_trpo_ext.trust_region.batch import Batch
from sb3_trpo_ext.trust_region.direction import Direction, Search
from sb3_trpo_ext.trust_region.policy_step import PolicyStep, StepStatus
from sb3_trpo_ext.trust_region.region import TrustRegion

WIDEST = 1e9  # standard deviation; with a bonus for entropy and nothing else to gain it would grow without end


@dataclass(frozen=True)
class Surrogate:
    """
    The objective L as a function of the distributions at the sampled states, with an optional entropy term.

    :param batch: n samples
    :param old: π_old in their states
    :param actions: the actions taken there, as the family measures them
    :param ent_coef: weight of the mean entropy: above 0 a bonus, below 0 a cost
    """

    batch: Batch
    old: Family
    actions: Tensor
    ent_coef: float

    @cached_property
    def behaviour_log_prob(self) -> Tensor:
        """The logarithm of the ratio's denominator, shape (n,)."""
        log_prob = self.batch.behaviour_log_prob
        return self.old.log_prob(self.actions) if log_prob is None else log_prob

    def __call__(self, new: Family) -> Tensor:
        """L, a scalar tensor."""
        return self._mean_of(new, self.batch.mean)

    def gradient(self) -> tuple[Tensor, ...]:
        """∂L/∂φ at π_old, shaped like the family's statistics."""
        leaves = [tensor.detach().requires_grad_() for tensor in self.old.statistics]
        # The part of the mean that the samples of this process make up; `batch.linearization` adds the others'.
        n = self.batch.size
        objective = self._mean_of(self.old.with_statistics(leaves), lambda per_sample: per_sample.sum() / n)
        return torch.autograd.grad(objective, leaves, materialize_grads=True)

    def effective_sample_share(self) -> float:
        """(Σρ)² / nΣρ² at π_old."""
        if self.batch.behaviour_log_prob is None:
            return 1.0
        log_ratio = self.old.log_prob(self.actions) - self.behaviour_log_prob
        ratio = (log_ratio - self.batch.largest(log_ratio)).exp()  # the share has no scale, and so nothing overflows
        return float(self.batch.mean(ratio).square() / self.batch.mean(ratio.square()))

    def _mean_of(self, new: Family, mean: Callable[[Tensor], Tensor]) -> Tensor:
        ratio = (new.log_prob(self.actions) - self.behaviour_log_prob).exp()  # ρ(θ)
        objective = mean(ratio * self.batch.advantages)
        return objective + self.ent_coef * mean(new.entropy()) if self.ent_coef else objective


def trust_region_step(
    actor: Actor, batch: Batch, region: TrustRegion, direction: Direction, search: Search, ent_coef: float = 0.0
) -> PolicyStep:
    """
    Move θ once, by the practical algorithm (sections 5 and 6, appendix C), or leave it bit for bit as it was.

    :param actor: its parameters are changed if the status is ``ACCEPTED``, otherwise put back bit for bit
    :param batch: finite observations, actions and (normalised) advantages
    :param region: D ≤ δ, and the curvature of D
    :param direction: (F, g) → x ≈ F⁻¹g
    :param search: how much of the full step is taken
    :param ent_coef: weight of the mean entropy in the objective
    """
    laps = Laps()
    # 1. The objective and its gradient.
    start = linearized_objective(actor, batch, ent_coef)
    laps.end("gradient")
    # 2. The direction.
    solution = direction(region.curvature(actor, batch, start.linearized), start.gradient)
    laps.end("cg")
    # 3. The longest step along it, and 4. as much of that as holds what the model promised.
    step = longest_step(region, start, solution)
    end = line_search(actor, start, step, region, search)
    laps.end("line_search")
    return report(start, step, end, region, laps.seconds)


class Start(NamedTuple):
    """
    What is known at θ_old, before the step.

    :param theta: θ_old, shape (p,)
    :param linearized: π_old in the states of the samples, and how it changes with θ
    :param surrogate: L
    :param objective: L(θ_old)
    :param gradient: g = ∇_θ L at θ_old, shape (p,)
    """

    theta: Tensor
    linearized: LinearizedPolicy
    surrogate: Surrogate
    objective: float
    gradient: Tensor


class FullStep(NamedTuple):
    """
    The longest step inside the region, before the line search.

    :param status: whether it can be taken
    :param solution: its direction x
    :param x_fisher_x: xᵀ(F + λI)x
    :param scale: β, by which x is multiplied
    :param vector: βx, the longest step with ½ stepᵀ(F + λI)step ≤ δ, shape (p,)
    :param norm: ‖βx‖
    """

    status: StepStatus
    solution: CGResult
    x_fisher_x: float
    scale: float
    vector: Tensor
    norm: float


@dataclass(frozen=True)
class Candidate(Trial):
    """
    A trial that remembers its policy.

    :param family: π in the states of the samples
    :param is_too_wide: whether its noise has grown beyond all use
    """

    family: Family
    is_too_wide: bool = False


class End(NamedTuple):
    """
    Where the update ended.

    :param status: how the update ended
    :param family: π in the states of the samples, at the parameters that were kept
    :param search: how it was found
    """

    status: StepStatus
    family: Family
    search: LineSearchResult[Candidate]


def linearized_objective(actor: Actor, batch: Batch, ent_coef: float) -> Start:
    """L and its gradient at θ_old."""
    policy = batch.linearized or actor.linearize(batch.inputs)
    surrogate = Surrogate(batch, policy.family, actor.family_actions(batch.actions), ent_coef)
    objective = float(surrogate(policy.family))
    gradient = batch.linearization(policy.linearization).vjp(surrogate.gradient())
    return Start(flatten(actor.parameters), policy, surrogate, objective, gradient)


def longest_step(region: TrustRegion, start: Start, solution: CGResult) -> FullStep:
    """The direction scaled to the border of the region, or nothing where it can not be."""
    x, xFx = solution.x, solution.quadratic_form(start.gradient)
    status = StepStatus.ACCEPTED
    if not len(x):
        status = StepStatus.FROZEN
    elif not region.target_kl > 0:
        status = StepStatus.NO_REGION
    elif solution.stop is CGStop.ZERO_RIGHT_SIDE:
        status = StepStatus.ZERO_GRADIENT
    elif not (isfinite(xFx) and xFx > 0):
        status = StepStatus.BAD_CURVATURE
    scale = sqrt(2 * region.target_kl / xFx) if status is StepStatus.ACCEPTED else 0.0  # β
    vector = scale * x
    norm = float(torch.linalg.vector_norm(vector))
    if not isfinite(norm):  # parameters without a say in the batch would become NaN unseen
        status, scale, norm = StepStatus.BAD_CURVATURE, 0.0, 0.0
    return FullStep(status, solution, xFx, scale, vector, norm)


def line_search(actor: Actor, start: Start, step: FullStep, region: TrustRegion, search: Search) -> End:
    """θ moved along the full step as far as the search goes; θ_old where nothing is found."""
    old, batch = start.linearized.family, start.surrogate.batch
    nothing = LineSearchResult[Candidate](False, 0.0, None, 0)
    if step.status is not StepStatus.ACCEPTED:
        return End(step.status, old, nothing)

    @torch.no_grad()
    def evaluate(fraction: float) -> Candidate:
        assign(actor.parameters, start.theta + fraction * step.vector)
        try:
            new = actor.family(batch.inputs)
        except ValueError:  # torch's distributions refuse parameters that are not finite
            new = None
        if batch.ranks.any(new is None):  # the trial has failed
            return Candidate(nan, nan, old)
        assert new is not None
        if batch.ranks.any(is_too_wide(new, old)):
            return Candidate(nan, nan, new, is_too_wide=True)
        distance = region.distance(batch, old, new, fraction)
        return Candidate(float(start.surrogate(new)), distance, new)

    with put_back_on_error(actor.parameters, start.theta):
        result = search(evaluate, start.objective, region.target_kl)
        if not result.accepted:
            assign(actor.parameters, start.theta)
    if not result.accepted or result.trial is None:
        is_wide = result.trial is not None and result.trial.is_too_wide
        return End(StepStatus.NOISE_LIMIT if is_wide else StepStatus.LINE_SEARCH_FAILED, old, result)
    return End(StepStatus.ACCEPTED, result.trial.family, result)


def is_too_wide(new: Family, old: Family) -> bool:
    """Whether the noise of a Gaussian has grown beyond all use, and towards numbers that float32 does not hold."""
    if not (isinstance(new, Gaussian) and isinstance(old, Gaussian)):
        return False
    widest = float(new.std.max())
    return widest > WIDEST and widest > float(old.std.max())


def report(start: Start, step: FullStep, end: End, region: TrustRegion, seconds: dict[str, float]) -> PolicyStep:
    """What there is to say about an update."""
    batch, g, x = start.surrogate.batch, start.gradient, step.solution.x
    kept = end.search.fraction * step.scale
    accepted = end.search.trial if end.search.accepted else None
    kl = region.kl(start.linearized.family, end.family)
    return PolicyStep(
        status=end.status,
        objective_before=start.objective,
        objective_after=start.objective if accepted is None else accepted.objective,
        predicted_improvement=kept * float(g @ x),
        kl_mean=float(batch.mean(kl)),
        kl_max=float(batch.largest(kl)),
        kl_predicted=0.5 * kept**2 * (step.x_fisher_x - region.cg_damping * float(x @ x)),
        cg_steps=step.solution.steps,
        cg_residual=step.solution.relative_residual(g),
        cg_stop=step.solution.stop,
        x_fisher_x=step.x_fisher_x,
        gradient_norm=float(torch.linalg.vector_norm(g)),
        step_norm=end.search.fraction * step.norm,
        line_search=end.search,
        effective_sample_share=start.surrogate.effective_sample_share(),
        entropy=float(batch.mean(end.family.entropy())),
        std=float(batch.mean(end.family.std)) if isinstance(end.family, Gaussian) else None,
        seconds=seconds,
    )
