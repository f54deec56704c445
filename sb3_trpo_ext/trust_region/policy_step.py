"""What one update of a policy did, and under which keys it is logged."""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sb3_trpo_ext.kernels.conjugate_gradient import CGStop
from sb3_trpo_ext.kernels.line_search import LineSearchResult


class StepStatus(Enum):
    """How an update ended. The value says what it means and what to do; ``code`` is what is logged."""

    ACCEPTED = "accepted"
    LINE_SEARCH_FAILED = "line search failed: parameters restored; if frequent, lower target_kl or raise cg_damping"
    ZERO_GRADIENT = "zero gradient: nothing to do; all advantages are equal"
    BAD_CURVATURE = "x'Fx or step not positive or not finite: parameters left alone; raise cg_damping"
    NO_REGION = "target_kl is not above 0: parameters left alone; its schedule has run out, or gives no number"
    FROZEN = "frozen actor: none of its parameters has requires_grad=True; the critic goes on learning"
    SKIPPED = "skipped: the rollout held NaN or infinity; wrap the environment in VecCheckNan to find the source"
    NOISE_LIMIT = "noise limit: the standard deviation would exceed 1e9: parameters restored; lower ent_coef"

    @property
    def code(self) -> int:
        """0, 1, … in the order above."""
        return list(StepStatus).index(self)


@dataclass(frozen=True)
class PolicyStep:
    """
    What one update did. Distances and objectives are measured on all samples; quantities after the step are those of
    the parameters that were kept.

    :param status: how it ended
    :param objective_before: L(θ_old)
    :param objective_after: L(θ)
    :param predicted_improvement: gᵀ(θ − θ_old), what the linear model promised for the kept fraction of the step
    :param kl_mean: mean over states of KL(π_old ‖ π_θ)
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
    line_search: LineSearchResult[Any]
    effective_sample_share: float
    entropy: float
    std: float | None
    seconds: dict[str, float]

    def logged(self) -> dict[str, float]:
        improvement = self.objective_after - self.objective_before
        values: dict[str, float] = {
            "train/update_status": self.status.code,
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
            "train/cg_stop": self.cg_stop.code,
            "train/x_fisher_x": self.x_fisher_x,
            "train/gradient_norm": self.gradient_norm,
            "train/step_norm": self.step_norm,
            "train/line_search_trials": self.line_search.trials,
            "train/line_search_kl": math.nan if self.line_search.trial is None else self.line_search.trial.kl,
            "train/is_line_search_success": float(self.line_search.accepted),
            "train/effective_sample_share": self.effective_sample_share,
            "train/entropy": self.entropy,
        }
        if self.std is not None:
            values["train/std"] = self.std
        return values | {f"time/{phase}_seconds": seconds for phase, seconds in self.seconds.items()}
