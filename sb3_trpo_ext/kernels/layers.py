"""The layers of plain feed-forward networks, each with its derivatives by hand."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

SelfLayer = TypeVar("SelfLayer", bound="Layer")

_aten = torch.ops.aten
# t ← f'(z) t in place, where f' is known from the activation's output y = f(z).
_TIMES_SLOPE: dict[type[nn.Module], Callable[[Tensor, Tensor, Any], Tensor]] = {
    nn.Tanh: lambda t, y, _: _aten.tanh_backward.grad_input(t, y, grad_input=t),
    nn.ReLU: lambda t, y, _: _aten.threshold_backward.grad_input(t, y, 0, grad_input=t),
    nn.Sigmoid: lambda t, y, _: _aten.sigmoid_backward.grad_input(t, y, grad_input=t),
    nn.ELU: lambda t, y, module: _aten.elu_backward.grad_input(t, module.alpha, 1, 1, True, y, grad_input=t),
    nn.LeakyReLU: lambda t, y, module: _aten.leaky_relu_backward.grad_input(
        t, y, module.negative_slope, True, grad_input=t
    ),
}


class Layer(ABC):
    """
    y = f(z): an affine map z of the input x, given by a weight W and a bias b, and an elementwise activation f.

    The first dimension of x, y and z is the batch's n. The derivative of a scalar in one of them is the cotangent
    there, of the same shape.

    :param weight: W
    :param bias: b
    """

    activation: nn.Module | None = None
    """f; None for the identity."""

    def __init__(self, weight: Tensor, bias: Tensor):
        self.weight = weight
        self.bias = bias

    @property
    def parameters(self) -> tuple[Tensor, Tensor]:
        """W and b."""
        return self.weight, self.bias

    def detached(self: SelfLayer) -> SelfLayer:
        """The same layer, sharing memory with its parameters, out of autograd's sight."""
        layer = copy(self)
        layer.weight, layer.bias = self.weight.detach(), self.bias.detach()
        return layer

    def activate(self, z: Tensor) -> Tensor:
        """
        :param z: what :meth:`affine` gave; it may be overwritten
        :return: y = f(z)
        """
        if type(self.activation) is nn.Tanh:
            return tanh_(z)
        return z if self.activation is None else self.activation(z)

    def multiply_by_slope(self, tensor: Tensor, y: Tensor) -> None:
        """
        Multiply by f'(z), in place: a change of z becomes one of y, a cotangent at y one at z.

        :param tensor: shaped like y
        :param y: the layer's output
        """
        if self.activation is not None:
            _TIMES_SLOPE[type(self.activation)](tensor, y, self.activation)

    @abstractmethod
    def affine(self, x: Tensor) -> Tensor:
        """
        :param x: shape (n, …)
        :return: z, in new memory
        """

    @abstractmethod
    def push(self, x: Tensor, dx: Tensor | None, d_weight: Tensor, d_bias: Tensor, out: Tensor | None) -> Tensor:
        """
        How z changes when x, W and b do, to first order.

        :param x: the layer's input, shape (n, …)
        :param dx: its change; None stands for 0
        :param d_weight: shaped like W
        :param d_bias: shaped like b
        :param out: room for the result, where the layer can use it
        :return: shaped like z
        """

    @abstractmethod
    def write_gradient(self, x: Tensor, cotangent: Tensor, g_weight: Tensor, g_bias: Tensor) -> None:
        """
        The gradients of W and b.

        :param x: the layer's input, shape (n, …)
        :param cotangent: at z
        :param g_weight: written to, shaped like W
        :param g_bias: written to, shaped like b
        """

    @abstractmethod
    def pull(self, x: Tensor, cotangent: Tensor, out: Tensor | None) -> Tensor:
        """
        :param x: the layer's input, shape (n, …)
        :param cotangent: at z
        :param out: room for the result, where the layer can use it
        :return: the cotangent at x
        """


class Dense(Layer):
    """
    y = f(W x + b) on rows x of shape (n, in).

    :param weight: W, shape (out, in)
    :param bias: b, shape (out,)
    """

    def affine(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight.t())

    def push(self, x: Tensor, dx: Tensor | None, d_weight: Tensor, d_bias: Tensor, out: Tensor | None) -> Tensor:
        change = torch.addmm(d_bias, x, d_weight.t(), out=out)  # dW x + db
        return change if dx is None else change.addmm_(dx, self.weight.t())

    def write_gradient(self, x: Tensor, cotangent: Tensor, g_weight: Tensor, g_bias: Tensor) -> None:
        torch.mm(cotangent.t(), x, out=g_weight)
        torch.sum(cotangent, dim=0, out=g_bias)

    def pull(self, x: Tensor, cotangent: Tensor, out: Tensor | None) -> Tensor:
        return torch.mm(cotangent, self.weight, out=out)


class Convolution(Layer):
    """
    y = f(W ∗ x + b) on images x of shape (n, channels, height, width).

    :param module: with a bias, and zero padding given as numbers
    """

    flattens = False
    """Whether z is flattened to rows."""

    def __init__(self, module: nn.Conv2d):
        assert module.bias is not None
        super().__init__(module.weight, module.bias)
        self._geometry: tuple[Any, Any, Any, int] = (module.stride, module.padding, module.dilation, module.groups)

    def affine(self, x: Tensor) -> Tensor:
        z = self._convolve(x, self.weight, self.bias)
        return z.flatten(1) if self.flattens else z

    def push(self, x: Tensor, dx: Tensor | None, d_weight: Tensor, d_bias: Tensor, out: Tensor | None) -> Tensor:
        change = self._convolve(x, d_weight, d_bias)
        if dx is not None:
            change += self._convolve(dx, self.weight, None)
        return change.flatten(1) if self.flattens else change

    def write_gradient(self, x: Tensor, cotangent: Tensor, g_weight: Tensor, g_bias: Tensor) -> None:
        _, weight, bias = self._backward(x, cotangent, [False, True, True])
        g_weight.copy_(weight)
        g_bias.copy_(bias)

    def pull(self, x: Tensor, cotangent: Tensor, out: Tensor | None) -> Tensor:
        return self._backward(x, cotangent, [True, False, False])[0]

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return conv2d(x, weight, bias, *self._geometry)

    def _backward(self, x: Tensor, cotangent: Tensor, wanted: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of x, W and b, of which those not wanted are undefined."""
        stride, padding, dilation, groups = self._geometry
        if self.flattens:
            sizes = zip(x.shape[2:], padding, dilation, self.weight.shape[2:], stride, strict=True)
            shape = [(size + 2 * p - d * (kernel - 1) - 1) // s + 1 for size, p, d, kernel, s in sizes]
            cotangent = cotangent.view(len(x), len(self.weight), *shape)
        return torch.ops.aten.convolution_backward(  # type: ignore[no-any-return]
            cotangent, x, self.weight, [len(self.weight)], stride, padding, dilation, False, [0, 0], groups, wanted
        )


def tanh_(z: Tensor) -> Tensor:
    """
    The hyperbolic tangent, in place.

    :param z: of any type, on any device
    """
    if z.requires_grad or not z.is_cpu or z.dtype not in (torch.float32, torch.float64):
        return z.tanh_()
    array = z.numpy()
    np.tanh(array, out=array)  # six times as fast as torch's on one thread, where that took half of a forward pass
    return z


def layers_of(modules: Sequence[nn.Module]) -> list[Layer] | None:
    """
    Group modules, applied one after the other, into layers.

    :param modules: Linear, Conv2d, activations with a cheap derivative, Flatten
    :return: layers that hold the modules' own parameters; None when a module is of another kind, is a subclass with
        behaviour of its own, has no bias, or has hooks, or an activation's slope does not follow from its output
    """
    layers: list[Layer] = []
    for module in modules:
        kind = type(module)
        last = layers[-1] if layers else None
        if not does_only_its_kinds(module):
            return None
        if kind is nn.Linear and module.bias is not None:
            layers.append(Dense(module.weight, module.bias))  # type: ignore[arg-type]
        elif _is_plain_convolution(module):
            layers.append(Convolution(module))  # type: ignore[arg-type]
        elif kind is nn.Flatten and module.start_dim == 1 and module.end_dim == -1 and isinstance(last, Convolution):
            last.flattens = True
        elif kind in _TIMES_SLOPE and last is not None and last.activation is None and _is_known_by_output(module):
            last.activation = module
        else:
            return None
    return layers


def hooks_of(module: nn.Module) -> list[Any]:
    """What was attached to a module, or put in the place of one of its methods: what makes it more than its kind."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    shadowed = [value for name, value in vars(module).items() if callable(getattr(type(module), name, None))]
    return [*(tuple(one) for one in hooks if one), *shadowed]


def does_only_its_kinds(module: nn.Module) -> bool:
    """Whether calling a module does what its kind does, and nothing else."""
    everywhere = nn.modules.module
    return not (hooks_of(module) or everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks)


def _is_known_by_output(module: nn.Module) -> bool:
    """Whether an activation's derivative follows from its output, which has to tell the input's sign."""
    return getattr(module, "negative_slope", 0.0) >= 0 and getattr(module, "alpha", 0.0) >= 0


def _is_plain_convolution(module: nn.Module) -> bool:
    if type(module) is not nn.Conv2d or module.bias is None:
        return False
    return module.padding_mode == "zeros" and not isinstance(module.padding, str)
