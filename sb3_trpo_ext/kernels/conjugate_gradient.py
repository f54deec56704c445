"""The method of conjugate gradients for A x = b, where A is symmetric positive definite and known by its products."""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import torch
from torch import Tensor


class Operator(Protocol):
    """A square matrix that is known only by its products."""

    def __matmul__(self, vector: Tensor, /) -> Tensor: ...


class CGStop(Enum):
    """Why the iteration ended. The value says what it means and what to do; ``code`` is what is logged."""

    CONVERGED = "converged: the residual is below the tolerance"
    STEP_LIMIT = "step limit: the usual end; raise cg_max_steps for a more exact direction"
    ZERO_RIGHT_SIDE = "zero right-hand side: x = 0 is the solution; the gradient vanished"
    NEGATIVE_CURVATURE = "curvature not positive along a direction: kept what was known before; raise cg_damping"
    NOT_FINITE = "a value was not finite: kept what was known before; look for NaN or huge numbers in the data"

    @property
    def code(self) -> int:
        """0, 1, … in the order above."""
        return list(CGStop).index(self)


@dataclass(frozen=True)
class CGResult:
    """
    :param x: approximate solution, shape (p,), always finite when b is
    :param residual: b − A x as the recurrence knows it, shape (p,)
    :param steps: number of steps that x is made of
    :param stop: why the iteration ended
    """

    x: Tensor
    residual: Tensor
    steps: int
    stop: CGStop

    def quadratic_form(self, b: Tensor) -> float:
        """xᵀAx = xᵀ(b − residual), without another product. Shape of ``b``: (p,)."""
        return float(self.x @ (b - self.residual))

    def relative_residual(self, b: Tensor) -> float:
        """‖b − A x‖ / ‖b‖, and 0 for b = 0. Shape of ``b``: (p,)."""
        norm = float(torch.linalg.vector_norm(b))
        return float(torch.linalg.vector_norm(self.residual)) / norm if norm > 0 else 0.0


def conjugate_gradient(
    A: Operator, b: Tensor, cg_max_steps: int, cg_tolerance: float, preconditioner: Operator | None = None
) -> CGResult:
    """
    Preconditioned conjugate gradients from x = 0 (Hestenes and Stiefel 1952; Saad 2003, algorithm 9.1).

    Letters: r the residual, z = P r the preconditioned residual, p the search direction, α the step along it,
    β what the next direction keeps of the last.

    :param A: symmetric positive definite, shape (p, p); ``A @ v`` is called once per step
    :param b: shape (p,)
    :param cg_max_steps: at most this many steps
    :param cg_tolerance: stop when ‖r‖ ≤ tolerance · ‖b‖
    :param preconditioner: P ≈ A⁻¹, symmetric positive definite; None for the identity
    :return: the best x so far, also when the curvature is not positive or a number is not finite
    """
    x, r = torch.zeros_like(b), b
    b_norm = float(torch.linalg.vector_norm(b))
    if b_norm == 0:
        return CGResult(x, r, 0, CGStop.ZERO_RIGHT_SIDE)
    if not math.isfinite(b_norm):
        return CGResult(x, r, 0, CGStop.NOT_FINITE)
    z = r if preconditioner is None else preconditioner @ r
    p, rz = z.clone(), float(r @ z)
    for step in range(cg_max_steps):
        Ap = A @ p
        pAp = float(p @ Ap)
        if not (math.isfinite(pAp) and math.isfinite(rz)):
            return CGResult(x, r, step, CGStop.NOT_FINITE)
        if pAp <= 0 or rz <= 0:  # also where a square is below the smallest number
            return CGResult(x, r, step, CGStop.NEGATIVE_CURVATURE)
        alpha = rz / pAp
        r_next = torch.sub(r, Ap, alpha=alpha)
        r_norm = float(torch.linalg.vector_norm(r_next))
        if not math.isfinite(r_norm):
            return CGResult(x, r, step, CGStop.NOT_FINITE)
        x.add_(p, alpha=alpha)
        r = r_next
        if r_norm <= cg_tolerance * b_norm:
            return CGResult(x, r, step + 1, CGStop.CONVERGED)
        z = r if preconditioner is None else preconditioner @ r
        rz_next = float(r @ z)
        p.mul_(rz_next / rz).add_(z)  # β = r'ᵀz' / rᵀz
        rz = rz_next
    return CGResult(x, r, cg_max_steps, CGStop.STEP_LIMIT)
