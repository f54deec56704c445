"""What the gradient steps of ACER did, and what the logger is told of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Update:
    """
    What one gradient step did. All but ``applied`` are means over the batch, unless they say otherwise.

    :param applied: False if the gradient was not finite, so that nothing was changed
    :param weight_mean: importance weights ρ
    :param weight_max: the largest ρ
    :param truncated_share: of the weights that were above c
    :param average_kl: KL(π_avg ‖ π) before the step; NaN without a trust region
    :param advantage_square: of Q^ret − V, with Box actions of Q^opc − V, in units of the return scale
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
    advantage_square: float
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
    :param average_kl_after: KL(π_avg ‖ π) after all of them, where the on-policy one was; None without a trust region
    """

    all: Sequence[Update]
    average_kl_after: float | None

    def logged(self) -> Mapping[str, float]:
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
