"""
One policy update of Trust Region Policy Optimization, beside the paper.

Schulman et al. 2015, "Trust Region Policy Optimization", arXiv:1502.05477. In the notation of that paper:

    maximise over θ   L(θ) = mean over (s, a) of  ρ(θ) Â,   ρ(θ) = π_θ(a|s) / π_old(a|s)             (14)
    subject to        D(θ_old, θ) = mean over s of  KL(π_old(·|s) ‖ π_θ(·|s))  ≤  δ

solved by a direction x ≈ F⁻¹g, the largest step √(2δ / xᵀFx) along it, and a backtracking line search (appendix C).
Two changes: an advantage Â stands in the place of the paper's Q, and F + λI in the place of F. Samples of earlier
policies may be among those of π_old: the denominator of ρ is then the policy that acted.
"""

import math
import time
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import torch
from torch import Tensor

from sb3_trpo_ext.common.actor import Actor
from sb3_trpo_ext.common.batch import Batch
from sb3_trpo_ext.common.observations import Observations, every
from sb3_trpo_ext.kernels.conjugate_gradient import CGResult, CGStop, Operator, conjugate_gradient
from sb3_trpo_ext.kernels.families import Family, Gaussian
from sb3_trpo_ext.kernels.fisher import Fisher, Identity
from sb3_trpo_ext.kernels.kfac import KroneckerPreconditioner
from sb3_trpo_ext.kernels.line_search import LineSearchResult, Trial, backtrack, full_step
from sb3_trpo_ext.kernels.linearize import Linearization
from sb3_trpo_ext.kernels.vector import assign, flatten


@dataclass(frozen=True)
class TrustRegion:
    """
    Settings of one update.

    :param max_kl: δ ≥ 0, in nats (for ``geometry="euclidean"``: of ½‖θ − θ_old‖²)
    :param geometry: "kl", or "euclidean" for the plain normalised gradient
    :param kl_reduction: "sum" over action dimensions (the paper's), or "mean"
    :param ent_coef: weight of the mean entropy in the objective; below 0 it is a price of entropy
    :param damping: λ ≥ 0, added to the diagonal of the Fisher matrix
    :param cg_max_steps: limit of the conjugate gradient's steps
    :param cg_tolerance: its relative residual at which it stops
    :param curvature_every: the Fisher matrix uses every k-th state, k ≥ 1
    :param shrink: factor of the line search, in (0, 1)
    :param max_trials: of the line search; 0 takes the full step unconditionally (natural policy gradient)
    :param preconditioner: "kfac", or None
    """

    max_kl: float
    geometry: str
    kl_reduction: str
    ent_coef: float
    damping: float
    cg_max_steps: int
    cg_tolerance: float
    curvature_every: int
    shrink: float
    max_trials: int
    preconditioner: str | None = None


class StepStatus(Enum):
    """How an update ended. The value says what it means and what to do."""

    ACCEPTED = "accepted"
    LINE_SEARCH_FAILED = "line search failed: parameters restored; if frequent, raise cg_damping or lower target_kl"
    ZERO_GRADIENT = "zero gradient: nothing to do; all advantages are equal"
    BAD_CURVATURE = "x'Fx or step not positive or not finite: parameters left alone; raise cg_damping"
    NO_REGION = "target_kl is not above 0: parameters left alone; its schedule has run out, or gives no number"


@dataclass(frozen=True)
class PolicyStep:
    """
    What one update did. Distances and objectives are measured on all samples; quantities after the step are those of
    the parameters that were kept.

    :param status: how it ended
    :param objective_before: L(θ_old)
    :param objective_after: L(θ)
    :param predicted_improvement: gᵀ(θ − θ_old), what the linear model promised for the kept fraction of the step
    :param kl_mean: D(θ_old, θ)
    :param kl_max: the largest KL of a single state
    :param kl_predicted: ½ (θ − θ_old)ᵀ F (θ − θ_old), without damping
    :param cg_steps: steps of the conjugate gradient
    :param cg_residual: ‖g − (F + λI) x‖ / ‖g‖
    :param cg_stop: why it stopped
    :param x_fisher_x: xᵀ(F + λI)x
    :param gradient_norm: ‖g‖
    :param step_norm: ‖θ − θ_old‖
    :param line_search: how the search went
    :param effective_sample_share: (Σρ)² / nΣρ² at θ_old, in (0, 1]: the share of the n samples that would say as much
        if they were π_old's own; 1 when they are
    :param entropy: mean over states, after the step
    :param std: mean standard deviation after the step, None unless Gaussian
    :param seconds: wall-clock time of the phases "gradient", "cg" and "line_search"
    """

    status: StepStatus
    objective_before: float
    objective_after: float
    predicted_improvement: float
    kl_mean: float
    kl_max: float
    kl_predicted: float
    cg_steps: int
    cg_residual: float
    cg_stop: CGStop
    x_fisher_x: float
    gradient_norm: float
    step_norm: float
    line_search: LineSearchResult
    effective_sample_share: float
    entropy: float
    std: float | None
    seconds: dict[str, float]

    def logged(self) -> dict[str, float | str]:
        improvement = self.objective_after - self.objective_before
        values: dict[str, float | str] = {
            "train/update_status": self.status.name.lower(),
            "train/policy_objective_before": self.objective_before,
            "train/policy_objective": self.objective_after,
            "train/predicted_improvement": self.predicted_improvement,
            "train/actual_improvement": improvement,
            "train/improvement_ratio": improvement / self.predicted_improvement
            if self.predicted_improvement
            else math.nan,
            "train/kl_divergence_loss": self.kl_mean,
            "train/kl_max": self.kl_max,
            "train/kl_predicted": self.kl_predicted,
            "train/cg_steps": self.cg_steps,
            "train/cg_residual": self.cg_residual,
            "train/cg_stop": self.cg_stop.name.lower(),
            "train/x_fisher_x": self.x_fisher_x,
            "train/gradient_norm": self.gradient_norm,
            "train/step_norm": self.step_norm,
            "train/line_search_trials": self.line_search.trials,
            "train/is_line_search_success": float(self.line_search.accepted),
            "train/effective_sample_share": self.effective_sample_share,
            "train/entropy": self.entropy,
        }
        if self.std is not None:
            values["train/std"] = self.std
        return values | {f"time/{phase}_seconds": seconds for phase, seconds in self.seconds.items()}


@dataclass(frozen=True)
class Surrogate:
    """
    The objective L as a function of the distributions at the sampled states, with an optional entropy term.

    :param old: π_old at the n states
    :param actions: the actions taken there
    :param advantages: Â, shape (n,)
    :param ent_coef: weight of the mean entropy, of either sign
    :param behaviour_log_prob: of the actions under the policies that took them, shape (n,); None when it was π_old
    """

    old: Family
    actions: Tensor
    advantages: Tensor
    ent_coef: float
    behaviour_log_prob: Tensor | None = None

    @cached_property
    def old_log_prob(self) -> Tensor:
        """The logarithm of the ratio's denominator, shape (n,)."""
        return self.old.log_prob(self.actions) if self.behaviour_log_prob is None else self.behaviour_log_prob

    def __call__(self, new: Family) -> Tensor:
        """L, a scalar tensor."""
        ratio = (new.log_prob(self.actions) - self.old_log_prob).exp()  # ρ(θ)
        objective = (ratio * self.advantages).mean()
        return objective + self.ent_coef * new.entropy().mean() if self.ent_coef else objective

    def effective_sample_share(self) -> float:
        """(Σρ)² / nΣρ² at π_old."""
        if self.behaviour_log_prob is None:
            return 1.0
        log_ratio = self.old.log_prob(self.actions) - self.behaviour_log_prob
        ratio = (log_ratio - log_ratio.max()).exp()  # the share has no scale, and so nothing overflows
        return float(ratio.sum().square() / (len(ratio) * ratio.square().sum()))

    def gradient(self) -> tuple[Tensor, ...]:
        """∂L/∂φ at π_old, shaped like the family's statistics."""
        leaves = [tensor.detach().requires_grad_() for tensor in self.old.statistics]
        return torch.autograd.grad(self(self.old.with_statistics(leaves)), leaves, materialize_grads=True)


def trust_region_step(actor: Actor, batch: Batch, region: TrustRegion) -> PolicyStep:
    """
    Move θ once, by the practical algorithm (sections 5 and 6, appendix C), or leave it bit for bit as it was.

    :param actor: its parameters are written when, and only when, the status is ``ACCEPTED``
    :param batch: finite observations, actions and (normalised) advantages
    :param region: settings
    """
    started = time.perf_counter()
    theta_old = flatten(actor.parameters)
    old, linearization = actor.linearize(batch.observations)
    actions = actor.family_actions(batch.actions)
    surrogate = Surrogate(old, actions, batch.advantages, region.ent_coef, batch.old_log_prob)
    start = float(surrogate(old))  # L(θ_old)
    g = linearization.vjp(surrogate.gradient())  # g = ∇_θ L(θ) at θ_old
    have_gradient = time.perf_counter()

    scale = 1.0 / old.averaged_dimensions if region.kl_reduction == "mean" else 1.0
    damping = region.damping if region.geometry == "kl" else 0.0
    F, P = _curvature(actor, old, linearization, batch.observations, region, scale)
    solution = conjugate_gradient(F, g, region.cg_max_steps, region.cg_tolerance, preconditioner=P)  # F x ≈ g
    x, xFx = solution.x, solution.quadratic_form(g)
    have_direction = time.perf_counter()

    status = _check(region, solution, xFx)
    beta = math.sqrt(2 * region.max_kl / xFx) if status is StepStatus.ACCEPTED else 0.0
    step = beta * x  # the longest step with ½ stepᵀ (F + λI) step ≤ δ
    step_norm = float(torch.linalg.vector_norm(step))
    if not math.isfinite(step_norm):  # parameters without a say in the batch would become NaN unseen
        status, beta, step_norm = StepStatus.BAD_CURVATURE, 0.0, 0.0
    new = old
    search = LineSearchResult(False, 0.0, None, 0)

    @torch.no_grad()
    def evaluate(fraction: float) -> Trial:
        nonlocal new
        assign(actor.parameters, theta_old + fraction * step)
        new = actor.family(batch.observations)
        # A Euclidean step has the length √(2δ) by construction.
        distance = scale * float(old.kl(new).mean()) if region.geometry == "kl" else region.max_kl * fraction**2
        return Trial(float(surrogate(new)), distance)

    if status is StepStatus.ACCEPTED:
        if region.max_trials == 0:
            search = full_step(evaluate)
        else:
            search = backtrack(evaluate, start, region.max_kl, region.shrink, region.max_trials)
        if not search.accepted:
            status, new = StepStatus.LINE_SEARCH_FAILED, old
            assign(actor.parameters, theta_old)

    have_step = time.perf_counter()
    kl = scale * old.kl(new)
    kept = search.fraction * beta
    return PolicyStep(
        status=status,
        objective_before=start,
        objective_after=search.trial.objective if search.accepted and search.trial else start,
        predicted_improvement=kept * float(g @ x),
        kl_mean=float(kl.mean()),
        kl_max=float(kl.max()),
        kl_predicted=0.5 * kept**2 * (xFx - damping * float(x @ x)),
        cg_steps=solution.steps,
        cg_residual=solution.relative_residual(g),
        cg_stop=solution.stop,
        x_fisher_x=xFx,
        gradient_norm=float(torch.linalg.vector_norm(g)),
        step_norm=search.fraction * step_norm,
        line_search=search,
        effective_sample_share=surrogate.effective_sample_share(),
        entropy=float(new.entropy().mean()),
        std=float(new.std.mean()) if isinstance(new, Gaussian) else None,
        seconds={
            "gradient": have_gradient - started,
            "cg": have_direction - have_gradient,
            "line_search": have_step - have_direction,
        },
    )


def _curvature(
    actor: Actor,
    old: Family,
    linearization: Linearization,
    observations: Observations,
    region: TrustRegion,
    scale: float,
) -> tuple[Operator, Operator | None]:
    """
    The matrix of the trust region (F + λI, on every k-th state if asked for, or the identity) and the preconditioner.
    """
    if region.geometry == "euclidean":
        return Identity(), None
    if region.curvature_every > 1:
        old, linearization = actor.linearize(every(observations, region.curvature_every))
    fisher = Fisher(linearization, old, region.damping, scale)
    if region.preconditioner is None:
        return fisher, None
    return fisher, KroneckerPreconditioner(fisher)


def _check(region: TrustRegion, solution: CGResult, xFx: float) -> StepStatus:
    """Whether the direction can be scaled to the trust region."""
    if not region.max_kl > 0:
        return StepStatus.NO_REGION
    if solution.stop is CGStop.ZERO_RIGHT_SIDE:
        return StepStatus.ZERO_GRADIENT
    if not (math.isfinite(xFx) and xFx > 0):
        return StepStatus.BAD_CURVATURE
    return StepStatus.ACCEPTED
