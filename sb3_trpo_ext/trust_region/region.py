"""The trust region: how far it reaches, how it measures distance, and the curvature of that distance."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from sb3_trpo_ext.kernels.conjugate_gradient import Operator
from sb3_trpo_ext.kernels.families import Family
from sb3_trpo_ext.kernels.fisher import Fisher, Identity
from sb3_trpo_ext.trust_region.actor import Actor, LinearizedPolicy
from sb3_trpo_ext.trust_region.batch import Batch

CURVATURE_STATES = 1024  # that a Fisher matrix is made of at least; more for wide layers, see Batch.thinned_for


def summed(family: Family) -> float:
    """The weight of a KL that is summed over action dimensions, as the paper's."""
    return 1.0


def averaged(family: Family) -> float:
    """The weight of one that is averaged over them, as sb3-contrib's."""
    return 1.0 / family.averaged_dimensions


@dataclass(frozen=True)
class TrustRegion(ABC):
    """
    The policies whose distance D from π_old is at most δ.

    :param target_kl: δ ≥ 0, in the unit of D
    :param kl_reduction: over action dimensions, :func:`summed` or :func:`averaged`: a family → the weight of its KL
    :param cg_damping: λ ≥ 0, what is added to the diagonal of the curvature
    """

    target_kl: float
    kl_reduction: Callable[[Family], float]
    cg_damping: float

    @abstractmethod
    def curvature(self, actor: Actor, batch: Batch, old: LinearizedPolicy) -> Operator:
        """
        F + λI, where F is the matrix with D ≈ ½ ΔθᵀFΔθ.

        :param actor: at θ_old
        :param batch: the samples of the update
        :param old: π_old in their states
        """

    @abstractmethod
    def distance(self, batch: Batch, old: Family, new: Family, fraction: float) -> float:
        """
        D(θ_old, θ).

        :param batch: the samples of the update
        :param old: π_old in their states
        :param new: π there
        :param fraction: of the full step that leads from the one to the other
        """

    def kl(self, old: Family, new: Family) -> Tensor:
        """KL(π_old ‖ π) of each state, shape (n,)."""
        return self.kl_reduction(old) * old.kl(new)


@dataclass(frozen=True)
class KLRegion(TrustRegion):
    """
    D is the mean KL divergence, F the Fisher matrix plus λI.

    :param curvature_sampling_factor: F uses one state in k, k ≥ 1; "auto" for the largest k that leaves
        ``CURVATURE_STATES``, or more where layers are wide (:meth:`Batch.thinned_for`)
    """

    curvature_sampling_factor: int | Literal["auto"] = 1

    def curvature(self, actor: Actor, batch: Batch, old: LinearizedPolicy) -> Operator:
        k = self.curvature_sampling_factor
        thinned = batch.thinned_for(actor.parameters, CURVATURE_STATES) if k == "auto" else batch.one_in(k)
        if thinned is not batch:
            old = actor.linearize(thinned.inputs)
        linearization = thinned.linearization(old.linearization)
        return Fisher(linearization, old.family, self.cg_damping, self.kl_reduction(old.family), thinned.size)

    def distance(self, batch: Batch, old: Family, new: Family, fraction: float) -> float:
        return self.kl_reduction(old) * float(batch.mean(old.kl(new)))


@dataclass(frozen=True)
class EuclideanRegion(TrustRegion):
    """D is ½‖θ − θ_old‖², F the identity, and the step the normalised plain gradient: for comparison."""

    cg_damping: float = 0.0  # the identity needs none

    def curvature(self, actor: Actor, batch: Batch, old: LinearizedPolicy) -> Operator:
        return Identity()

    def distance(self, batch: Batch, old: Family, new: Family, fraction: float) -> float:
        # A full step has the length √(2δ) by construction.
        return self.target_kl * fraction**2
