"""
Kronecker-factored approximation of the Fisher matrix, as a preconditioner for the conjugate gradient.

Martens and Grosse 2015, "Optimizing Neural Networks with Kronecker-factored Approximate Curvature", arXiv:1503.05671;
for policies Wu et al. 2017, arXiv:1708.05144.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sb3_trpo_ext.kernels.chain import ChainLinearization, GaussianLinearization, is_dense_chain
from sb3_trpo_ext.kernels.fisher import Fisher
from sb3_trpo_ext.kernels.linearize import Linearization


class KroneckerPreconditioner:
    """
    An approximation of (F + λI)⁻¹ for a chain of dense layers, one block per layer.

    With a the layer's input, extended by 1 for the bias, and d the gradient of log π at its affine map's output, for
    actions drawn from π itself, the layer's block of F is approximated by A ⊗ G, A = E[a aᵀ] and G = E[d dᵀ]. The
    damping is shared out between the factors (section 6.3 of the paper):
    (A ⊗ G + λI)⁻¹ ≈ (A + π√λ I)⁻¹ ⊗ (G + √λ/π I)⁻¹, π² = (tr A / dim A) / (tr G / dim G).
    The block of a state-independent log std is exact: 2 s I.

    :param fisher: F + λI with λ > 0, of a chain of dense layers at n states, with or without a log std of its own
    :param total: sums a matrix over the states of other processes too, where ``fisher.size`` counts them
    :raises ValueError: when it is of another network
    """

    def __init__(self, fisher: Fisher, total: Callable[[Tensor], Tensor] = lambda matrix: matrix):
        chain = _dense_chain(fisher.linearization)
        own_std = isinstance(fisher.linearization, GaussianLinearization)
        self._n_log_std = fisher.family.statistics[1].shape[1] if own_std else 0
        self._log_std_inverse = 1 / (2 * fisher.scale + fisher.cg_damping)
        self._shapes = [layer.weight.shape for layer in chain.layers]
        factors: dict[int, tuple[Tensor, Tensor]] = {}
        for i, cotangent in chain.activations.cotangents(fisher.family.sample_score()[0]):
            factors[i] = _damped_inverses(chain.activations.inputs[i], cotangent, fisher, total)
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


def _dense_chain(linearization: Linearization) -> ChainLinearization:
    """The chain from observations to means or logits."""
    chain = linearization.mean if isinstance(linearization, GaussianLinearization) else linearization
    if not is_dense_chain(chain):
        raise ValueError(
            "KroneckerPreconditioner(fisher=...) must be of a chain of dense layers, differentiated by hand, got "
            f"{_described(chain)}. Set cg_preconditioner=None."
        )
    return chain


def _described(linearization: Linearization) -> str:
    if not isinstance(linearization, ChainLinearization):
        return f"an object of class {type(linearization).__name__}"
    return f"a chain of the layers {', '.join(type(layer).__name__ for layer in linearization.layers)}"


def _damped_inverses(
    x: Tensor, cotangent: Tensor, fisher: Fisher, total: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """(A + π√λ I)⁻¹ and (G + √λ/π I)⁻¹ from a layer's inputs (n, in) and the cotangents at its outputs (n, out)."""
    n, cg_damping = fisher.size or len(x), fisher.cg_damping
    a = torch.column_stack([x, x.new_ones(len(x))]).double()
    d = cotangent.double()
    A, G = total(a.T @ a) / n, fisher.scale * total(d.T @ d) / n
    pi = math.sqrt(float((A.trace() / len(A)) / (G.trace() / len(G)).clamp(min=torch.finfo(x.dtype).tiny)))
    identity_A, identity_G = (torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device) for matrix in (A, G))
    A_inverse = torch.linalg.inv(A + pi * math.sqrt(cg_damping) * identity_A)
    G_inverse = torch.linalg.inv(G + math.sqrt(cg_damping) / pi * identity_G)
    return A_inverse.to(x.dtype), G_inverse.to(x.dtype)
