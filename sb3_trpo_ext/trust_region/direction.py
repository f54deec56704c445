"""Which way an update goes, and how far along it: what ``trust_region_step`` is told to do, as objects."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from sb3_trpo_ext.kernels.conjugate_gradient import CGResult, Operator, conjugate_gradient
from sb3_trpo_ext.kernels.fisher import Fisher
from sb3_trpo_ext.kernels.kfac import KroneckerPreconditioner
from sb3_trpo_ext.kernels.line_search import LineSearchResult, TrialT, backtrack, full_step
from sb3_trpo_ext.trust_region.batch import SummedOverRanks


class Direction(Protocol):
    """The gradient turned by the curvature of the trust region."""

    def __call__(self, F: Operator, g: Tensor) -> CGResult:
        """
        :param F: F + λI, symmetric positive definite, shape (p, p)
        :param g: the objective's gradient, shape (p,)
        :return: x ≈ (F + λI)⁻¹ g
        """
        ...


@dataclass(frozen=True)
class NaturalGradient:
    """
    By conjugate gradients.

    :param cg_max_steps: limit of the steps
    :param cg_tolerance: relative residual at which they stop
    """

    cg_max_steps: int
    cg_tolerance: float

    def __call__(self, F: Operator, g: Tensor) -> CGResult:
        return conjugate_gradient(F, g, self.cg_max_steps, self.cg_tolerance)


@dataclass(frozen=True)
class KfacNaturalGradient:
    """
    By conjugate gradients with a Kronecker-factored preconditioner, which takes fewer steps to the same residual.

    :param cg_max_steps: limit of the steps
    :param cg_tolerance: relative residual at which they stop
    """

    cg_max_steps: int
    cg_tolerance: float

    def __call__(self, F: Operator, g: Tensor) -> CGResult:
        assert isinstance(F, Fisher)  # trpo/settings.py takes this direction with a KL region only
        if isinstance(over_ranks := F.linearization, SummedOverRanks):
            preconditioner = KroneckerPreconditioner(replace(F, linearization=over_ranks.local), over_ranks.ranks.sum)
        else:
            preconditioner = KroneckerPreconditioner(F)
        return conjugate_gradient(F, g, self.cg_max_steps, self.cg_tolerance, preconditioner)


class Search(Protocol):
    """How much of the full step is taken."""

    def __call__(self, evaluate: Callable[[float], TrialT], start: float, target_kl: float) -> LineSearchResult[TrialT]:
        """
        :param evaluate: fraction of the full step → trial; the last call is the accepted one
        :param start: the objective at fraction 0
        :param target_kl: δ
        """
        ...


@dataclass(frozen=True)
class Backtracking:
    """
    The first of a falling sequence of fractions that improves the objective inside the region.

    :param line_search_shrinking_factor: ratio of each fraction to the one before, in (0, 1)
    :param line_search_max_iter: limit of the trials
    """

    line_search_shrinking_factor: float
    line_search_max_iter: int

    def __call__(self, evaluate: Callable[[float], TrialT], start: float, target_kl: float) -> LineSearchResult[TrialT]:
        return backtrack(evaluate, start, target_kl, self.line_search_shrinking_factor, self.line_search_max_iter)


class Unsearched:
    """All of it, as natural policy gradient does."""

    def __call__(self, evaluate: Callable[[float], TrialT], start: float, target_kl: float) -> LineSearchResult[TrialT]:
        return full_step(evaluate)
