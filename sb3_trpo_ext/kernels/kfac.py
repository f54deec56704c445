"""
Kronecker-factored approximation of the Fisher matrix, as a preconditioner for the conjugate gradient.

Martens and Grosse 2015, "Optimizing Neural Networks with Kronecker-factored Approximate Curvature", arXiv:1503.05671;
for policies Wu et al. 2017, arXiv:1708.05144.
"""

import math

import torch
from torch import Tensor

from sb3_trpo_ext.kernels.chain import ChainLinearization, GaussianLinearization
from sb3_trpo_ext.kernels.families import Family


class KroneckerPreconditioner:
    """
    An approximation of (F + λI)⁻¹ for a chain of dense layers, one block per layer.

    With a the layer's input, extended by 1 for the bias, and d the gradient of log π at its affine map's output, for
    actions drawn from π itself, the layer's block of F is approximated by A ⊗ G, A = E[a aᵀ] and G = E[d dᵀ]. The
    damping is shared out between the factors (section 6.3 of the paper):
    (A ⊗ G + λI)⁻¹ ≈ (A + π√λ I)⁻¹ ⊗ (G + √λ/π I)⁻¹, π² = (tr A / dim A) / (tr G / dim G).
    The block of a state-independent log std is exact: 2 s I.

    :param linearization: of a chain of dense layers, at n states; with or without a log std of its own
    :param family: the distributions at the same states
    :param damping: λ > 0
    :param scale: s, as in :class:`sb3_trpo_ext.kernels.fisher.Fisher`
    """

    def __init__(
        self,
        linearization: ChainLinearization | GaussianLinearization,
        family: Family,
        damping: float,
        scale: float = 1.0,
    ):
        gaussian = isinstance(linearization, GaussianLinearization)
        chain = linearization.mean if isinstance(linearization, GaussianLinearization) else linearization
        self._n_log_std = family.statistics[1].shape[1] if gaussian else 0
        self._log_std_inverse = 1 / (2 * scale + damping)
        self._shapes = [layer.weight.shape for layer in chain.layers]
        factors: dict[int, tuple[Tensor, Tensor]] = {}
        for i, cotangent in chain.activations.cotangents(family.sample_score()[0]):
            factors[i] = _damped_inverses(chain.activations.inputs[i], cotangent, damping, scale)
        self._inverses = [factors[i] for i in range(len(factors))]

    def __matmul__(self, vector: Tensor) -> Tensor:
        """
        :param vector: shape (p,)
        :return: shape (p,)
        """
        start = self._n_log_std
        pieces = [vector[:start] * self._log_std_inverse]
        for (out, into), (A_inverse, G_inverse) in zip(self._shapes, self._inverses, strict=True):
            end = start + out * (into + 1)
            weight, bias = vector[start : end - out].view(out, into), vector[end - out : end]
            solved = G_inverse @ torch.column_stack([weight, bias]) @ A_inverse
            pieces += [solved[:, :-1].reshape(-1), solved[:, -1]]
            start = end
        return torch.cat(pieces)


def _damped_inverses(x: Tensor, cotangent: Tensor, damping: float, scale: float) -> tuple[Tensor, Tensor]:
    """(A + π√λ I)⁻¹ and (G + √λ/π I)⁻¹ from a layer's inputs (n, in) and the cotangents at its outputs (n, out)."""
    n = len(x)
    a = torch.column_stack([x, x.new_ones(n)]).double()
    d = cotangent.double()
    A, G = a.T @ a / n, scale * (d.T @ d) / n
    pi = math.sqrt(float((A.trace() / len(A)) / (G.trace() / len(G)).clamp(min=torch.finfo(x.dtype).tiny)))
    identity_A, identity_G = (torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device) for matrix in (A, G))
    A_inverse = torch.linalg.inv(A + pi * math.sqrt(damping) * identity_A)
    G_inverse = torch.linalg.inv(G + math.sqrt(damping) / pi * identity_G)
    return A_inverse.to(x.dtype), G_inverse.to(x.dtype)
