"""
The map θ → φ (weights to distribution parameters, at a batch of states) and its first derivatives as products.

Everything that a trust-region method needs of a network is here: the value φ, J v and Jᵀ c, with J = ∂φ/∂θ.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from sb3_trpo_ext.kernels.vector import flatten, unflatten


class Linearization(Protocol):
    """
    θ → φ linearized at one θ. Products are valid until the parameters are next written.

    ``value``: φ, a tuple of tensors whose first dimension is the number of states.
    """

    value: tuple[Tensor, ...]

    def jvp(self, tangent: Tensor) -> tuple[Tensor, ...]:
        """
        J v: how φ changes when θ moves along v.

        :param tangent: v, shape (p,)
        :return: tensors shaped like ``value``
        """
        ...

    def vjp(self, cotangent: Sequence[Tensor]) -> Tensor:
        """
        Jᵀ c: the gradient in θ of the inner product ⟨φ, c⟩.

        :param cotangent: c, tensors shaped like ``value``
        :return: shape (p,)
        """
        ...


class ConstantLinearization:
    """
    Linearization of what no parameter has a say in: p = 0.

    :param value: φ
    """

    def __init__(self, value: Sequence[Tensor]):
        self.value = tuple(tensor.detach() for tensor in value)

    def jvp(self, tangent: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.zeros_like(tensor) for tensor in self.value)

    def vjp(self, cotangent: Sequence[Tensor]) -> Tensor:
        return self.value[0].new_zeros(0)


class AutogradLinearization:
    """
    Linearization of any differentiable module.

    J v comes from differentiating Jᵀ u, which is linear in u, with respect to u: (∂(Jᵀ u)/∂u)ᵀ v = J v. The graph of
    Jᵀ u is built once, so that a product J v costs one backward pass and repeats no forward pass. Measured against
    forward-mode differentiation, this is twice as fast on small networks and needs no functional form of the policy.

    :param value: φ with its autograd graph
    :param parameters: θ, in the order of the flat vectors of length p
    """

    def __init__(self, value: Sequence[Tensor], parameters: Sequence[Tensor]):
        # A part of φ that nothing influences, such as a fixed std, stands in the graph as a leaf of its own.
        self._graph = tuple(part if part.requires_grad else part.detach().requires_grad_() for part in value)
        self._parameters = tuple(parameters)
        self.value = tuple(tensor.detach() for tensor in value)
        self._dummies = tuple(torch.zeros_like(tensor, requires_grad=True) for tensor in self.value)
        self._pullback = torch.autograd.grad(
            self._graph, self._parameters, self._dummies, create_graph=True, materialize_grads=True
        )

    def jvp(self, tangent: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            self._pullback,
            self._dummies,
            unflatten(tangent, self._parameters),
            retain_graph=True,
            materialize_grads=True,
        )

    def vjp(self, cotangent: Sequence[Tensor]) -> Tensor:
        gradients = torch.autograd.grad(
            self._graph, self._parameters, tuple(cotangent), retain_graph=True, materialize_grads=True
        )
        return flatten(gradients)
