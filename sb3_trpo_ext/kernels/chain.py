"""
Plain feed-forward networks, differentiated by hand.

A chain of affine layers and elementwise activations needs no autograd: with the activations of one forward pass kept,
J v and Jᵀ c are a few matrix products each, into buffers that are allocated once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from sb3_trpo_ext.kernels.vector import unflatten

# Derivative of an activation, given its output y and (for leaky ones) its slope below zero.
_DERIVATIVES: dict[type[nn.Module], Callable[[Tensor, Any], Tensor]] = {
    nn.Tanh: lambda y, _: 1 - y * y,
    nn.ReLU: lambda y, _: (y > 0).to(y.dtype),
    nn.Sigmoid: lambda y, _: y * (1 - y),
    nn.ELU: lambda y, module: torch.where(y > 0, 1.0, y + module.alpha),
    nn.LeakyReLU: lambda y, module: torch.where(y > 0, torch.ones_like(y), module.negative_slope),
}


@dataclass(frozen=True)
class Layer:
    """
    y = f(affine(x)), flattened to rows if ``flatten``.

    :param affine: an ``nn.Linear`` or ``nn.Conv2d`` with bias
    :param activation: f, one of those with a cheap derivative
    :param flatten: whether the output is flattened from (n, channels, height, width) to (n, features)
    """

    affine: nn.Linear | nn.Conv2d
    activation: nn.Module
    flatten: bool

    @property
    def parameters(self) -> tuple[Tensor, Tensor]:
        return self.affine.weight, self.affine.bias  # type: ignore[return-value]

    @property
    def geometry(self) -> tuple[Any, Any, Any, int]:
        """Stride, padding, dilation and groups of a convolution."""
        affine = self.affine
        return affine.stride, affine.padding, affine.dilation, affine.groups  # type: ignore[return-value]

    def activate(self, z: Tensor) -> Tensor:
        """The layer's output, given the affine map's."""
        y: Tensor = self.activation(z)
        return y.flatten(1) if self.flatten else y

    def slope(self, y: Tensor) -> Tensor | None:
        """f' where the layer's output is y, shaped like y; None when it is 1 everywhere."""
        kind = type(self.activation)
        return None if kind is nn.Identity else _DERIVATIVES[kind](y, self.activation)


def layers_of(modules: Sequence[nn.Module]) -> list[Layer] | None:
    """
    Group modules, applied one after the other, into layers.

    :param modules: Linear, Conv2d, activations, Flatten
    :return: None when a module is of another kind, is a subclass with behaviour of its own, or has hooks
    """
    layers: list[Layer] = []
    for module in modules:
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
            return None
        kind = type(module)
        if (kind is nn.Linear or _is_plain_convolution(module)) and module.bias is not None:
            layers.append(Layer(module, nn.Identity(), False))  # type: ignore[arg-type]
        elif (
            kind is nn.Flatten and layers and not layers[-1].flatten and module.start_dim == 1 and module.end_dim == -1
        ):
            layers[-1] = Layer(layers[-1].affine, layers[-1].activation, True)
        elif kind in _DERIVATIVES and layers and type(layers[-1].activation) is nn.Identity:
            layers[-1] = Layer(layers[-1].affine, module, layers[-1].flatten)
        else:
            return None
    return layers


def _is_plain_convolution(module: nn.Module) -> bool:
    return type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str)


def _flattens_rows(module: nn.Module) -> bool:
    return type(module) is nn.Flatten and module.start_dim == 1 and module.end_dim == -1


class ChainLinearization:
    """
    Linearization of a chain of layers at a batch of inputs. θ is the layers' weights and biases, in order.

    :param layers: at least one
    :param inputs: shape (n, …), constant in θ
    """

    @torch.no_grad()
    def __init__(self, layers: Sequence[Layer], inputs: Tensor):
        self._layers = layers
        self._parameters = [parameter.detach() for layer in layers for parameter in layer.parameters]
        self._size = sum(parameter.numel() for parameter in self._parameters)
        self._inputs: list[Tensor] = []  # of each layer
        self._slopes: list[Tensor | None] = []  # f' at each layer's output; None for the identity
        self._shapes: list[torch.Size] = []  # of the affine map's outputs, before any flattening
        for layer in layers:
            self._inputs.append(inputs)
            z = layer.affine(inputs)
            self._shapes.append(z.shape)
            inputs = layer.activate(z)
            self._slopes.append(layer.slope(inputs))
        self.value: tuple[Tensor, ...] = (inputs,)
        # Room for what flows through the input of each dense layer but the first, in either direction.
        self._buffers = [
            torch.empty_like(x) if isinstance(layer.affine, nn.Linear) else x.new_empty(0)
            for layer, x in zip(layers[1:], self._inputs[1:], strict=True)
        ]

    def jvp(self, tangent: Tensor) -> tuple[Tensor, ...]:
        pieces = unflatten(tangent, self._parameters)
        change: Tensor | None = None  # of the layer's input; None stands for zero
        for i, slope in enumerate(self._slopes):
            change = self._push(i, change, *pieces[2 * i : 2 * i + 2])
            if slope is not None:
                change.mul_(slope)
        assert change is not None
        return (change,)

    def vjp(self, cotangent: Sequence[Tensor]) -> Tensor:
        gradient = self.value[0].new_empty(self._size)
        pieces = unflatten(gradient, self._parameters)
        force = cotangent[0].clone()  # on the layer's output
        for i in reversed(range(len(self._layers))):
            slope = self._slopes[i]
            if slope is not None:
                force.mul_(slope)
            force = self._pull(i, force, *pieces[2 * i : 2 * i + 2])
        return gradient

    def _push(self, i: int, change: Tensor | None, d_weight: Tensor, d_bias: Tensor) -> Tensor:
        """d(W x + b) = dW x + db + W dx, for layer i."""
        layer, x, weight = self._layers[i], self._inputs[i], self._parameters[2 * i]
        if isinstance(layer.affine, nn.Conv2d):
            out = conv2d(x, d_weight, d_bias, *layer.geometry)
            if change is not None:
                out += conv2d(change.view_as(x), weight, None, *layer.geometry)
            return out.flatten(1) if layer.flatten else out
        last = i == len(self._layers) - 1
        out = x.new_empty(self._shapes[i]) if last else self._buffers[i]
        torch.addmm(d_bias, x, d_weight.t(), out=out)
        return out if change is None else out.addmm_(change, weight.t())

    def _pull(self, i: int, force: Tensor, g_weight: Tensor, g_bias: Tensor) -> Tensor:
        """Write the gradients of layer i's weight and bias, and return the force on its input."""
        layer, x, weight = self._layers[i], self._inputs[i], self._parameters[2 * i]
        if isinstance(layer.affine, nn.Conv2d):
            stride, padding, dilation, groups = layer.geometry
            g_x, g_w, g_b = torch.ops.aten.convolution_backward(
                force.view(self._shapes[i]),
                x, weight, [len(weight)], stride, padding, dilation, False, [0, 0], groups, [i > 0, True, True],
            )  # fmt: skip
            g_weight.copy_(g_w)
            g_bias.copy_(g_b)
            return g_x  # type: ignore[no-any-return]
        torch.mm(force.t(), x, out=g_weight)
        torch.sum(force, dim=0, out=g_bias)
        return torch.mm(force, weight, out=self._buffers[i - 1]) if i > 0 else force


class GaussianLinearization:
    """
    Linearization of θ → (mean, std) where the mean is a chain's output and the std a parameter vector of its own:
    θ = (log std, the chain's parameters).

    :param mean: of the means, shape (n, d)
    :param log_std: shape (d,)
    """

    def __init__(self, mean: ChainLinearization, log_std: Tensor):
        self._mean = mean
        self._std = log_std.detach().exp()
        self.value: tuple[Tensor, ...] = (*mean.value, self._std.expand_as(mean.value[0]))

    def jvp(self, tangent: Tensor) -> tuple[Tensor, ...]:
        d = len(self._std)
        (change,) = self._mean.jvp(tangent[d:])
        return change, (self._std * tangent[:d]).expand_as(change)

    def vjp(self, cotangent: Sequence[Tensor]) -> Tensor:
        return torch.cat([self._std * cotangent[1].sum(dim=0), self._mean.vjp(cotangent[:1])])


def forward(layers: Sequence[Layer], inputs: Tensor) -> Tensor:
    """
    :param inputs: shape (n, …)
    :return: the chain's output, shape (n, k)
    """
    for layer in layers:
        inputs = layer.activate(layer.affine(inputs))
    return inputs
