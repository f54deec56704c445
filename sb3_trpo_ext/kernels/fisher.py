"""Curvature matrices as operators: objects that know their product with a vector and are never formed."""

from dataclasses import dataclass

from torch import Tensor

from sb3_trpo_ext.kernels.families import Family
from sb3_trpo_ext.kernels.linearize import Linearization


@dataclass(frozen=True, eq=False)
class Fisher:
    """
    The damped Fisher matrix of a policy,  F + λI  with  F = (s/n) Σ_i J_iᵀ M_i J_i,  where J_i = ∂φ(state i)/∂θ and
    M_i is the metric of the distribution family (Gauss-Newton form; Schulman et al. 2015, appendix C.1).

    F equals the Hessian of s · mean_i KL(π_old(·|state i) ‖ π_θ(·|state i)) at θ_old.

    :param linearization: θ → φ at n states
    :param family: the distributions at the same states, whose metric is M
    :param cg_damping: λ ≥ 0
    :param scale: s > 0; below 1 for a KL that is averaged over action dimensions
    :param size: n, where the products Jᵀc of the linearization are sums over more states than it has; None for its own
    """

    linearization: Linearization
    family: Family
    cg_damping: float
    scale: float = 1.0
    size: int | None = None

    def __matmul__(self, vector: Tensor) -> Tensor:
        """
        :param vector: v, shape (p,)
        :return: (F + λI) v, shape (p,)
        """
        change = self.linearization.jvp(vector)  # v → J v
        cotangent = self.family.metric(change)  # J v → M J v
        product = self.linearization.vjp(cotangent)  # M J v → Jᵀ M J v
        weight = self.scale / (self.size or self.family.statistics[0].shape[0])
        return product.mul_(weight).add_(vector, alpha=self.cg_damping)


@dataclass(frozen=True, eq=False)
class GaussNewton:
    """
    The damped Gauss-Newton matrix of a squared error,  H + λI  with  H = (1/n) Σ_i j_i j_iᵀ, where j_i = ∂V(state i)/∂w
    (Schulman et al. 2016, section 5).

    :param linearization: w → V at n states
    :param cg_damping: λ ≥ 0
    :param size: as :class:`Fisher`'s
    """

    linearization: Linearization
    cg_damping: float
    size: int | None = None

    def __matmul__(self, vector: Tensor) -> Tensor:
        """
        :param vector: v, shape (p,)
        :return: (H + λI) v, shape (p,)
        """
        product = self.linearization.vjp(self.linearization.jvp(vector))
        weight = 1 / (self.size or self.linearization.value[0].shape[0])
        return product.mul_(weight).add_(vector, alpha=self.cg_damping)


class Identity:
    """The curvature of the distance ½‖θ − θ_old‖²: the identity matrix."""

    def __matmul__(self, vector: Tensor) -> Tensor:
        return vector.clone()
