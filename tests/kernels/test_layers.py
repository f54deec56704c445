"""Single layers against autograd, in float64; and which modules make a chain of them."""

import pytest
import torch
from torch import nn

from sb3_trpo_ext.kernels.layers import Convolution, Dense, Layer, layers_of

EXACT = {"rtol": 1e-10, "atol": 1e-12}
# Name → modules that make one layer, and the shape of its input.
ONE_LAYER = {
    "dense": (lambda: [nn.Linear(3, 2)], (3,)),
    "dense, tanh": (lambda: [nn.Linear(3, 2), nn.Tanh()], (3,)),
    "convolution": (lambda: [nn.Conv2d(2, 3, (3, 2), stride=2, padding=(1, 0))], (2, 7, 6)),
    "convolution, flattened": (lambda: [nn.Conv2d(2, 4, 3, dilation=2, groups=2), nn.Flatten()], (2, 7, 6)),
    "convolution, flattened, tanh": (lambda: [nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Tanh()], (2, 7, 6)),
}
each_layer = pytest.mark.parametrize("make, shape", ONE_LAYER.values(), ids=ONE_LAYER.keys())


def build(make, shape, n=4):
    """Modules, the layer that they make, and its input."""
    modules = nn.Sequential(*make()).double()
    (layer,) = layers_of(list(modules))
    return modules, layer, torch.randn(n, *shape, dtype=torch.float64)


@each_layer
def test_value_is_that_of_the_modules(make, shape):
    modules, layer, x = build(make, shape)
    torch.testing.assert_close(layer.activate(layer.affine(x)), modules(x), **EXACT)


@each_layer
@pytest.mark.parametrize("given", [True, False], ids=["room given", "no room"])
def test_pull_and_write_gradient_are_autograds(make, shape, given):
    modules, layer, x = build(make, shape)
    live = x.clone().requires_grad_()
    y = modules(live)
    at_y = torch.randn_like(y)
    expected = torch.autograd.grad(y, [live, *modules.parameters()], at_y)
    layer = layer.detached()
    at_z = at_y.clone()
    layer.multiply_by_slope(at_z, y.detach())
    gradients = [torch.empty_like(parameter) for parameter in layer.parameters]
    layer.write_gradient(x, at_z, *gradients)
    pulled = layer.pull(x, at_z, torch.empty_like(x) if given else None)
    for found, true in zip([pulled, *gradients], expected, strict=True):
        torch.testing.assert_close(found, true, **EXACT)


@each_layer
@pytest.mark.parametrize("given", [True, False], ids=["room given", "no room"])
@pytest.mark.parametrize("moving", [True, False], ids=["input moves", "input stays"])
def test_push_is_the_slope_of_the_affine_map(make, shape, moving, given):
    _, layer, x = build(make, shape)
    layer = layer.detached()
    d_weight, d_bias = (torch.randn_like(parameter) for parameter in layer.parameters)
    dx = torch.randn_like(x) if moving else torch.zeros_like(x)
    z = layer.affine(x)
    ahead, behind = (_moved(layer, x, dx, d_weight, d_bias, size) for size in (0.5, -0.5))
    found = layer.push(x, dx if moving else None, d_weight, d_bias, torch.empty_like(z) if given else None)
    torch.testing.assert_close(found, ahead - behind, **EXACT)  # exact: the map is bilinear


def _moved(layer, x, dx, d_weight, d_bias, size):
    moved = layer.detached()
    moved.weight, moved.bias = layer.weight + size * d_weight, layer.bias + size * d_bias
    return moved.affine(x + size * dx)


@each_layer
def test_detached_shares_memory_and_hides_from_autograd(make, shape):
    modules, layer, _ = build(make, shape)
    detached = layer.detached()
    assert type(detached) is type(layer) and detached.activation is layer.activation
    for own, copied, parameter in zip(layer.parameters, detached.parameters, modules.parameters(), strict=True):
        assert own is parameter and copied.data_ptr() == parameter.data_ptr() and not copied.requires_grad


def test_what_a_layer_is():
    dense, convolution = (layers_of([module])[0] for module in (nn.Linear(3, 2), nn.Conv2d(2, 3, 3)))
    assert type(dense) is Dense and type(convolution) is Convolution
    assert isinstance(dense, Layer) and isinstance(convolution, Layer) and not isinstance(convolution, Dense)
    with pytest.raises(TypeError, match="abstract"):
        Layer(torch.zeros(2, 3), torch.zeros(2))


def test_modules_are_grouped_in_their_order():
    modules = [nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.Flatten(), nn.Linear(3, 2), nn.Linear(2, 1)]
    layers = layers_of(modules)
    assert [type(layer) for layer in layers] == [Convolution, Convolution, Dense, Dense]
    assert [layer.activation for layer in layers] == [modules[1], None, None, None]
    assert [layer.flattens for layer in layers[:2]] == [False, True]
    assert layers_of([]) == []


class Doubled(nn.Linear):
    def forward(self, inputs):
        return 2 * super().forward(inputs)


def hooked():
    layer = nn.Linear(3, 2)
    layer.register_forward_hook(lambda module, inputs, output: 2 * output)
    return layer


@pytest.mark.parametrize(
    "modules",
    [
        [Doubled(3, 2)],
        [hooked()],
        [nn.Linear(3, 2, bias=False)],
        [nn.Linear(3, 2), nn.Softplus()],
        [nn.Linear(3, 2), nn.Dropout()],
        [nn.Linear(3, 2), nn.LayerNorm(2)],
        [nn.Linear(3, 2), nn.Tanh(), nn.Tanh()],
        [nn.Tanh(), nn.Linear(3, 2)],
        [nn.Conv2d(2, 3, 3, padding_mode="circular", padding=1)],
        [nn.Conv2d(2, 3, 3, padding="same")],
        [nn.Conv2d(2, 3, 3), nn.Flatten(2)],
        [nn.Sequential(nn.Linear(3, 2))],
        [nn.utils.parametrizations.spectral_norm(nn.Linear(3, 2))],
        [nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))],
    ],
    ids=lambda modules: repr(modules[-1]).partition("\n")[0],
)
def test_what_is_not_such_a_chain_is_left_to_autograd(modules):
    assert layers_of(modules) is None
