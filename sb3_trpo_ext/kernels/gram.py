"""
Gauss-Newton directions found among the samples.

Every vector that the method of conjugate gradients for (JᵀJ/n + λI) x = g meets is a combination a g + Jᵀ y of the
right-hand side and the n gradients that are the rows of J. Where their Gram matrix K = J Jᵀ is known, the method needs
the n + 1 coordinates (a, y) alone: a step costs one product with a matrix of that size, and no pass through a network.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sb3_trpo_ext.kernels.chain import ChainLinearization
from sb3_trpo_ext.kernels.conjugate_gradient import CGResult, CGStop
from sb3_trpo_ext.kernels.linearize import Linearization

ROUNDING = torch.finfo(torch.float64).eps


def gram_matrix(chain: ChainLinearization, units: Sequence[float]) -> Tensor:
    """
    K = J diag(u)² Jᵀ of a chain of dense layers with one output. A sample's gradient in a layer's weight is the outer
    product of the cotangent d at the layer's affine map and of its input x, and d itself in the bias, and so

        K_ij = Σ_layers (d_i · d_j) (u_W² x_i · x_j + u_b²).

    :param chain: of w → V at n states, V of shape (n, 1)
    :param units: u > 0, one number for each weight and each bias, in the order of the parameters
    :return: shape (n, n)
    """
    V, n = chain.value[0], len(chain.value[0])
    K, of_inputs, of_cotangents = (V.new_zeros(n, n) for _ in range(3))
    for i, d in chain.activations.cotangents(torch.ones_like(V)):
        x, u_weight, u_bias = chain.activations.inputs[i], units[2 * i], units[2 * i + 1]
        d = u_weight * d  # whose square may not exist before
        torch.mm(x, x.t(), out=of_inputs)
        torch.mm(d, d.t(), out=of_cotangents)
        K.addcmul_(of_inputs.add_((u_bias / u_weight) ** 2), of_cotangents)
    return K


def conjugate_gradient_among_samples(
    K: Tensor, linearization: Linearization, g: Tensor, cg_damping: float, cg_max_steps: int, cg_tolerance: float
) -> CGResult:
    """
    What :func:`~sb3_trpo_ext.kernels.conjugate_gradient.conjugate_gradient` gives for (JᵀJ/n + λI) x = g, step by step,
    to rounding.

    A vector v is known by its coordinates and by M v, with

        M = ( gᵀg   (Jg)ᵀ )        so that vᵀM w is the inner product of two vectors,
            ( Jg    K     )        and (M v) without its first entry is J v.

    The letters are those of ``conjugate_gradient``. M is used in float64, on the CPU: a residual is the difference of
    terms as large as g, and its square can not be told from their rounding below some 1e-16 of theirs.

    :param K: J Jᵀ, shape (n, n)
    :param linearization: of w → V at the n states, whose Jacobian is J, shape (n, p)
    :param g: shape (p,)
    :param cg_damping: λ ≥ 0
    :param cg_max_steps: at most this many steps
    :param cg_tolerance: stop when ‖r‖ ≤ tolerance · ‖g‖; below 1e-8 it is taken as that
    :return: as ``conjugate_gradient``'s
    """
    n = len(K)
    Jg = linearization.jvp(g)[0].flatten()
    M = torch.empty(n + 1, n + 1, dtype=torch.float64)
    M[0, 0], M[0, 1:], M[1:, 0], M[1:, 1:] = g @ g, Jg, Jg, K

    def vector(coordinates: Tensor) -> Tensor:
        y = coordinates[1:].to(g).unsqueeze(1)
        return linearization.vjp((y,)).add_(g, alpha=float(coordinates[0]))

    x, r = torch.zeros(2, n + 1, dtype=torch.float64)
    r[0] = 1.0
    Mr, rr = M[0].clone(), float(M[0, 0])
    p, Mp, limit = r.clone(), Mr.clone(), max(cg_tolerance**2, ROUNDING) * rr
    if rr == 0:
        return CGResult(vector(x), g, 0, CGStop.ZERO_RIGHT_SIDE)
    for step in range(cg_max_steps):
        Ap = cg_damping * p
        Ap[1:] += Mp[1:] / n
        pAp = float(Mp @ Ap)
        if not (math.isfinite(pAp) and math.isfinite(rr)):
            return CGResult(vector(x), vector(r), step, CGStop.NOT_FINITE)
        if pAp <= 0 or rr <= 0:
            return CGResult(vector(x), vector(r), step, CGStop.NEGATIVE_CURVATURE)
        alpha = rr / pAp
        r_next, Mr_next = r - alpha * Ap, Mr - alpha * (M @ Ap)
        rr_next = float(r_next @ Mr_next)
        if not math.isfinite(rr_next):
            return CGResult(vector(x), vector(r), step, CGStop.NOT_FINITE)
        x += alpha * p
        r, Mr = r_next, Mr_next
        if abs(rr_next) <= limit:  # a square that rounding may make negative
            return CGResult(vector(x), vector(r), step + 1, CGStop.CONVERGED)
        p, Mp, rr = r + rr_next / rr * p, Mr + rr_next / rr * Mp, rr_next
    return CGResult(vector(x), vector(r), cg_max_steps, CGStop.STEP_LIMIT)
