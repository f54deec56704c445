"""
Plain feed-forward networks, differentiated by hand.

A chain of affine layers and elementwise activations needs no autograd: with the activations of one forward pass kept,
J v and Jᵀ c are a few matrix products each, into buffers that are allocated once.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from typing import TypeGuard

import torch
from torch import Tensor

from sb3_trpo_ext.kernels.layers import Convolution, Dense, Layer
from sb3_trpo_ext.kernels.linearize import Linearization
from sb3_trpo_ext.kernels.vector import count, unflatten


def forward(layers: Sequence[Layer], x: Tensor) -> Tensor:
    """
    :param x: shape (n, …)
    :return: the chain's output, shape (n, k)
    """
    for layer in layers:
        x = layer.activate(layer.affine(x))
    return x


class Activations:
    """
    One forward pass through a chain, kept for what goes back through it.

    :param layers: at least one, detached
    :param inputs: shape (n, …)
    """

    def __init__(self, layers: Sequence[Layer], inputs: Tensor):
        self.layers = layers
        self.inputs: list[Tensor] = []  # of each layer
        x = inputs
        for layer in layers:
            self.inputs.append(x)
            x = layer.activate(layer.affine(x))
        self.outputs = [*self.inputs[1:], x]

    def first(self, n: int) -> "Activations":
        """
        Of the first rows alone.

        :param n: how many
        """
        part = copy(self)
        part.inputs, part.outputs = [x[:n] for x in self.inputs], [y[:n] for y in self.outputs]
        return part

    def cotangents(
        self, cotangent: Tensor, buffers: Sequence[Tensor | None] | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """
        Back-propagate, without gradients.

        :param cotangent: at the chain's output, of the same shape; it is overwritten
        :param buffers: room for the cotangent at each layer's output but the last
        :return: from the last layer to the first, its index and the cotangent at its affine map's output, which is
            valid until the next is asked for
        """
        for i in reversed(range(len(self.layers))):
            self.layers[i].multiply_by_slope(cotangent, self.outputs[i])
            yield i, cotangent
            if i > 0:
                cotangent = self.layers[i].pull(self.inputs[i], cotangent, buffers[i - 1] if buffers else None)


class ChainLinearization:
    """
    Linearization of a chain of layers at a batch of inputs. θ is the layers' weights and biases, in order.

    :param layers: at least one
    :param inputs: shape (n, …), constant in θ
    """

    value: tuple[Tensor, ...]

    def __init__(self, layers: Sequence[Layer], inputs: Tensor):
        self.layers = [layer.detached() for layer in layers]
        self.activations = Activations(self.layers, inputs)
        self.value = (self.activations.outputs[-1],)
        self.parameters = [parameter for layer in self.layers for parameter in layer.parameters]
        self._size = count(self.parameters)
        # Room for what flows through each layer's output but the last, in either direction; convolutions need none.
        self._buffers = [
            None if isinstance(layer, Convolution) else torch.empty_like(y)
            for layer, y in zip(self.layers[1:], self.activations.outputs, strict=False)
        ]

    def jvp(self, tangent: Tensor, change: Tensor | None = None) -> tuple[Tensor, ...]:
        """
        :param tangent: v
        :param change: of the inputs besides; None stands for zero
        """
        pieces = unflatten(tangent, self.parameters)
        outputs = [*self._buffers, torch.empty_like(self.value[0])]
        for i, layer in enumerate(self.layers):
            change = layer.push(self.activations.inputs[i], change, pieces[2 * i], pieces[2 * i + 1], outputs[i])
            layer.multiply_by_slope(change, self.activations.outputs[i])
        assert change is not None
        return (change,)

    def vjp(self, cotangent: Sequence[Tensor]) -> Tensor:
        return self._pull_to_first(cotangent[0].clone())[0]

    def vjp_and_pull(self, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """
        :param cotangent: c; it is overwritten
        :return: Jᵀ c, and the cotangent at the inputs
        """
        gradient, at_first = self._pull_to_first(cotangent)
        return gradient, self.layers[0].pull(self.activations.inputs[0], at_first, None)

    def _pull_to_first(self, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """Jᵀ c, and the cotangent at the first layer's affine map."""
        gradient = self.value[0].new_empty(self._size)
        pieces = unflatten(gradient, self.parameters)
        for i, at_affine in self.activations.cotangents(cotangent, self._buffers):
            self.layers[i].write_gradient(self.activations.inputs[i], at_affine, *pieces[2 * i : 2 * i + 2])
        return gradient, at_affine


def is_dense_chain(linearization: Linearization) -> TypeGuard[ChainLinearization]:
    """Whether it is of a chain, all of whose layers are dense."""
    return isinstance(linearization, ChainLinearization) and all(
        isinstance(layer, Dense) for layer in linearization.layers
    )


class GaussianLinearization:
    """
    Linearization of θ → (mean, std) where the mean is a network's output and the std a parameter vector of its own:
    θ = (log std, the network's parameters).

    :param mean: of the means, shape (n, d)
    :param log_std: shape (d,)
    """

    value: tuple[Tensor, ...]

    def __init__(self, mean: Linearization, log_std: Tensor):
        self.mean = mean
        self._std = log_std.detach().exp()
        self.value = (*mean.value, self._std.expand_as(mean.value[0]))

    def jvp(self, tangent: Tensor) -> tuple[Tensor, ...]:
        d = len(self._std)
        (change,) = self.mean.jvp(tangent[d:])
        return change, (self._std * tangent[:d]).expand_as(change)

    def vjp(self, cotangent: Sequence[Tensor]) -> Tensor:
        return torch.cat([self._std * cotangent[1].sum(dim=0), self.mean.vjp(cotangent[:1])])
