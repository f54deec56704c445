"""Backtracking line search over a callable; it owns no parameters and knows no policy."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar


@dataclass(frozen=True)
class Trial:
    """
    What one candidate is worth.

    :param objective: the quantity to be raised
    :param kl: distance from where the search started, ≥ 0
    """

    objective: float
    kl: float


TrialT = TypeVar("TrialT", bound=Trial)


@dataclass(frozen=True)
class LineSearchResult(Generic[TrialT]):
    """
    :param accepted: whether a trial met all conditions
    :param fraction: of the full step, in (0, 1]; 0 when none was accepted
    :param trial: the accepted trial, else the last one; None when there was none
    :param trials: how many were evaluated
    """

    accepted: bool
    fraction: float
    trial: TrialT | None
    trials: int


def backtrack(
    evaluate: Callable[[float], TrialT],
    start: float,
    target_kl: float,
    line_search_shrinking_factor: float,
    line_search_max_iter: int,
) -> LineSearchResult[TrialT]:
    """
    The largest of the fractions 1, s, s², … of the full step that raises the objective, stays within the trust region
    and is finite (Schulman et al. 2015, appendix C).

    :param evaluate: fraction of the full step → trial; the last call is the accepted one
    :param start: the objective at fraction 0
    :param target_kl: δ; a trial with ``kl`` = δ is inside
    :param line_search_shrinking_factor: s, in (0, 1)
    :param line_search_max_iter: at most this many trials, ≥ 0
    """
    trial = None
    for i in range(line_search_max_iter):
        fraction = line_search_shrinking_factor**i
        trial = evaluate(fraction)
        finite = math.isfinite(trial.objective) and math.isfinite(trial.kl)
        if finite and trial.objective > start and trial.kl <= target_kl:
            return LineSearchResult(True, fraction, trial, i + 1)
    return LineSearchResult(False, 0.0, trial, line_search_max_iter)


def full_step(evaluate: Callable[[float], TrialT]) -> LineSearchResult[TrialT]:
    """
    No search: the whole step, refused only when the outcome is not finite (natural policy gradient).

    :param evaluate: fraction of the full step → trial
    """
    trial = evaluate(1.0)
    finite = math.isfinite(trial.objective) and math.isfinite(trial.kl)
    return LineSearchResult(finite, 1.0 if finite else 0.0, trial, 1)
