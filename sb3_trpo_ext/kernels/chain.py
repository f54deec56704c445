"""
Plain feed-forward networks, differentiated by hand.

A chain of affine layers and elementwise activations needs no autograd: with the activations of one forward pass kept,
J v and Jᵀ c are a few matrix products each, into buffers that are allocated once.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from sb3_trpo_ext.kernels.vector import count, unflatten

_aten = torch.ops.aten
# t ← f'(z) t in place, where f' is known from the activation's output y = f(z).
_SCALE: dict[type[nn.Module], Callable[[Tensor, Tensor, Any], Tensor]] = {
    nn.Tanh: lambda t, y, _: _aten.tanh_backward.grad_input(t, y, grad_input=t),
    nn.ReLU: lambda t, y, _: _aten.threshold_backward.grad_input(t, y, 0, grad_input=t),
    nn.Sigmoid: lambda t, y, _: _aten.sigmoid_backward.grad_input(t, y, grad_input=t),
    nn.ELU: lambda t, y, module: _aten.elu_backward.grad_input(t, module.alpha, 1, 1, True, y, grad_input=t),
    nn.LeakyReLU: lambda t, y, module: _aten.leaky_relu_backward.grad_input(
        t, y, module.negative_slope, True, grad_input=t
    ),
}


class Dense:
    """
    y = f(W x + b) on rows.

    :param weight: W, shape (out, in)
    :param bias: b, shape (out,)
    """

    activation: nn.Module | None = None
    """f; None for the identity."""
    flatten = False
    """Whether the layer's output is flattened to rows."""

    def __init__(self, weight: Tensor, bias: Tensor):
        self.weight = weight
        self.bias = bias

    @property
    def parameters(self) -> tuple[Tensor, Tensor]:
        return self.weight, self.bias

    def detached(self) -> "Dense":
        """The same layer, sharing memory with its parameters, out of autograd's sight."""
        layer = copy(self)
        layer.weight, layer.bias = self.weight.detach(), self.bias.detach()
        return layer

    def affine(self, x: Tensor) -> Tensor:
        """W x + b."""
        return torch.addmm(self.bias, x, self.weight.t())

    def activate(self, z: Tensor) -> Tensor:
        """The layer's output, given the affine map's; may overwrite it."""
        if self.flatten:
            z = z.flatten(1)
        if type(self.activation) is nn.Tanh:
            return z.tanh_()
        return z if self.activation is None else self.activation(z)

    def scale(self, tensor: Tensor, y: Tensor) -> None:
        """Multiply by f' in place, where the layer's output is y; both of the same shape."""
        if self.activation is not None:
            _SCALE[type(self.activation)](tensor, y, self.activation)

    def push(self, x: Tensor, dx: Tensor | None, d_weight: Tensor, d_bias: Tensor, out: Tensor | None) -> Tensor:
        """d(W x + b) = dW x + db + W dx, where None stands for dx = 0; into ``out`` if given."""
        change = torch.addmm(d_bias, x, d_weight.t(), out=out)
        return change if dx is None else change.addmm_(dx, self.weight.t())

    def write_gradient(self, x: Tensor, force: Tensor, g_weight: Tensor, g_bias: Tensor) -> None:
        """The gradients of W and b, given the force on the affine map's output."""
        torch.mm(force.t(), x, out=g_weight)
        torch.sum(force, dim=0, out=g_bias)

    def pull(self, x: Tensor, force: Tensor, out: Tensor | None) -> Tensor:
        """The force on the input x; into ``out`` if given."""
        return torch.mm(force, self.weight, out=out)


class Convolution(Dense):
    """
    y = f(W ∗ x + b) on images.

    :param module: with zero padding given as numbers
    """

    def __init__(self, module: nn.Conv2d):
        assert module.bias is not None
        super().__init__(module.weight, module.bias)
        self._geometry: tuple[Any, Any, Any, int] = (module.stride, module.padding, module.dilation, module.groups)

    def affine(self, x: Tensor) -> Tensor:
        return self._convolve(x, self.weight, self.bias)

    def push(self, x: Tensor, dx: Tensor | None, d_weight: Tensor, d_bias: Tensor, out: Tensor | None) -> Tensor:
        change = self._convolve(x, d_weight, d_bias)
        if dx is not None:
            change += self._convolve(dx, self.weight, None)
        return change.flatten(1) if self.flatten else change

    def write_gradient(self, x: Tensor, force: Tensor, g_weight: Tensor, g_bias: Tensor) -> None:
        _, weight, bias = self._backward(x, force, [False, True, True])
        g_weight.copy_(weight)
        g_bias.copy_(bias)

    def pull(self, x: Tensor, force: Tensor, out: Tensor | None) -> Tensor:
        return self._backward(x, force, [True, False, False])[0]

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return conv2d(x, weight, bias, *self._geometry)

    def _backward(self, x: Tensor, force: Tensor, wanted: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
        stride, padding, dilation, groups = self._geometry
        if self.flatten:
            sizes = zip(x.shape[2:], padding, dilation, self.weight.shape[2:], stride, strict=True)
            shape = [(size + 2 * p - d * (kernel - 1) - 1) // s + 1 for size, p, d, kernel, s in sizes]
            force = force.view(len(x), len(self.weight), *shape)
        return torch.ops.aten.convolution_backward(  # type: ignore[no-any-return]
            force, x, self.weight, [len(self.weight)], stride, padding, dilation, False, [0, 0], groups, wanted
        )


def layers_of(modules: Sequence[nn.Module]) -> list[Dense] | None:
    """
    Group modules, applied one after the other, into layers.

    :param modules: Linear, Conv2d, activations with a cheap derivative, Flatten
    :return: layers that hold the modules' own parameters; None when a module is of another kind, is a subclass with
        behaviour of its own, has no bias, or has hooks
    """
    layers: list[Dense] = []
    for module in modules:
        kind = type(module)
        last = layers[-1] if layers else None
        if _has_hooks(module):
            return None
        if kind is nn.Linear and module.bias is not None:
            layers.append(Dense(module.weight, module.bias))  # type: ignore[arg-type]
        elif _is_plain_convolution(module):
            layers.append(Convolution(module))  # type: ignore[arg-type]
        elif kind is nn.Flatten and module.start_dim == 1 and module.end_dim == -1 and isinstance(last, Convolution):
            last.flatten = True
        elif kind in _SCALE and last is not None and last.activation is None:
            last.activation = module
        else:
            return None
    return layers


def _has_hooks(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)


def _is_plain_convolution(module: nn.Module) -> bool:
    if type(module) is not nn.Conv2d or module.bias is None:
        return False
    return module.padding_mode == "zeros" and not isinstance(module.padding, str)


def forward(layers: Sequence[Dense], x: Tensor) -> Tensor:
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

    def __init__(self, layers: Sequence[Dense], inputs: Tensor):
        self.layers = layers
        self.inputs: list[Tensor] = []  # of each layer
        x = inputs
        for layer in layers:
            self.inputs.append(x)
            x = layer.activate(layer.affine(x))
        self.outputs = [*self.inputs[1:], x]

    def forces(self, force: Tensor, buffers: Sequence[Tensor | None] | None = None) -> Iterator[tuple[int, Tensor]]:
        """
        Back-propagate, without gradients.

        :param force: on the chain's output, of the same shape; it is overwritten
        :param buffers: room for the force on each layer's output but the last
        :return: from the last layer to the first, its index and the force on its affine map's output, which is valid
            until the next is asked for
        """
        for i in reversed(range(len(self.layers))):
            self.layers[i].scale(force, self.outputs[i])
            yield i, force
            if i > 0:
                force = self.layers[i].pull(self.inputs[i], force, buffers[i - 1] if buffers else None)


class ChainLinearization:
    """
    Linearization of a chain of layers at a batch of inputs. θ is the layers' weights and biases, in order.

    :param layers: at least one
    :param inputs: shape (n, …), constant in θ
    """

    value: tuple[Tensor, ...]

    def __init__(self, layers: Sequence[Dense], inputs: Tensor):
        self.layers = [layer.detached() for layer in layers]
        self.activations = Activations(self.layers, inputs)
        self.value = (self.activations.outputs[-1],)
        self._parameters = [parameter for layer in self.layers for parameter in layer.parameters]
        self._size = count(self._parameters)
        # Room for what flows through each layer's output but the last, in either direction; convolutions need none.
        self._buffers = [
            None if type(layer) is Convolution else torch.empty_like(y)
            for layer, y in zip(self.layers[1:], self.activations.outputs, strict=False)
        ]

    def jvp(self, tangent: Tensor) -> tuple[Tensor, ...]:
        pieces = unflatten(tangent, self._parameters)
        outputs = [*self._buffers, torch.empty_like(self.value[0])]
        change: Tensor | None = None  # of the layer's input; None stands for zero
        for i, layer in enumerate(self.layers):
            change = layer.push(self.activations.inputs[i], change, pieces[2 * i], pieces[2 * i + 1], outputs[i])
            layer.scale(change, self.activations.outputs[i])
        assert change is not None
        return (change,)

    def vjp(self, cotangent: Sequence[Tensor]) -> Tensor:
        gradient = self.value[0].new_empty(self._size)
        pieces = unflatten(gradient, self._parameters)
        for i, force in self.activations.forces(cotangent[0].clone(), self._buffers):
            self.layers[i].write_gradient(self.activations.inputs[i], force, *pieces[2 * i : 2 * i + 2])
        return gradient


class GaussianLinearization:
    """
    Linearization of θ → (mean, std) where the mean is a chain's output and the std a parameter vector of its own:
    θ = (log std, the chain's parameters).

    :param mean: of the means, shape (n, d)
    :param log_std: shape (d,)
    """

    value: tuple[Tensor, ...]

    def __init__(self, mean: ChainLinearization, log_std: Tensor):
        self.mean = mean
        self._std = log_std.detach().exp()
        self.value = (*mean.value, self._std.expand_as(mean.value[0]))

    def jvp(self, tangent: Tensor) -> tuple[Tensor, ...]:
        d = len(self._std)
        (change,) = self.mean.jvp(tangent[d:])
        return change, (self._std * tangent[:d]).expand_as(change)

    def vjp(self, cotangent: Sequence[Tensor]) -> Tensor:
        return torch.cat([self._std * cotangent[1].sum(dim=0), self.mean.vjp(cotangent[:1])])
