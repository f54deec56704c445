"""Jacobian products against the dense Jacobian of torch.func, in float64."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

from sb3_trpo_ext.kernels.linearize import AutogradLinearization
from tests.cases import OBSERVATION, POLICIES, StatisticsOf, flat, make_policy

EXACT = {"rtol": 1e-10, "atol": 1e-12}


class WithIdleParameters(nn.Module):
    """Two outputs; some parameters influence one of them, some none, one is used twice."""

    def __init__(self):
        super().__init__()
        self.idle_first = nn.Parameter(torch.randn(2))
        self.body = nn.Linear(OBSERVATION, 4)
        self.one, self.two = nn.Linear(4, 2), nn.Linear(4, 3)
        self.bias = nn.Parameter(torch.randn(2))
        self.idle_last = nn.Linear(2, 2)

    def forward(self, observations):
        hidden = torch.tanh(self.body(observations))
        return self.one(hidden) + self.bias, (self.two(hidden) + self.bias.prod()).exp()


class WithConstantOutput(nn.Module):
    """As a Gaussian policy whose width is fixed."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(OBSERVATION, 2)
        self.register_buffer("width", torch.ones(2))

    def forward(self, observations):
        return self.body(observations), self.width.expand(len(observations), 2)


class Single(nn.Module):
    """Wraps a network that returns one tensor."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, observations):
        return (self.layers(observations),)


def flat_states(n):
    return torch.randn(n, OBSERVATION, dtype=torch.float64)


def images(n):
    return torch.randn(n, 2, 6, 6, dtype=torch.float64)


MODULES = {
    "linear": (lambda: Single(nn.Linear(OBSERVATION, 2)), flat_states),
    "mlp": (
        lambda: Single(nn.Linear(OBSERVATION, 5), nn.Tanh(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)),
        flat_states,
    ),
    "idle parameters": (WithIdleParameters, flat_states),
    "constant output": (WithConstantOutput, flat_states),
    "conv": (
        lambda: Single(nn.Conv2d(2, 3, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3), nn.LayerNorm(3)),
        images,
    ),
    **{
        f"policy {name}": (lambda name=name: StatisticsOf(make_policy(name, precise=True)), flat_states)
        for name in POLICIES
    },
}


def build(name, n):
    """A linearization, its value's module output, and the dense Jacobian (numbers in φ, numbers in θ)."""
    make, draw = MODULES[name]
    module, states = make().double(), draw(n)
    names, parameters = zip(*module.named_parameters(), strict=True)

    def value(*theta):
        return flat(functional_call(module, dict(zip(names, theta, strict=True)), (states,)))

    columns = jacrev(value, argnums=tuple(range(len(names))))(*[parameter.detach() for parameter in parameters])
    J = torch.cat([column.reshape(column.shape[0], -1) for column in columns], dim=1)
    output = module(states)
    return AutogradLinearization(output, parameters), output, J


each_module = pytest.mark.parametrize("name", MODULES.keys())


@each_module
@pytest.mark.parametrize("n", [1, 4])
def test_products_agree_with_the_dense_jacobian(name, n):
    linearization, output, J = build(name, n)
    for _ in range(2):  # the graph must survive a product
        v, c = torch.randn(J.shape[1], dtype=torch.float64), [torch.randn_like(tensor) for tensor in output]
        change, gradient = linearization.jvp(v), linearization.vjp(c)
        assert [tensor.shape for tensor in change] == [tensor.shape for tensor in output]
        torch.testing.assert_close(flat(change), J @ v, **EXACT)
        torch.testing.assert_close(gradient, J.T @ flat(c), **EXACT)
        assert not gradient.requires_grad and not any(tensor.requires_grad for tensor in change)


@each_module
def test_value_is_the_output_without_its_graph(name):
    linearization, output, _ = build(name, 3)
    assert not any(tensor.requires_grad for tensor in linearization.value)
    assert all(torch.equal(a, b) for a, b in zip(linearization.value, output, strict=True))


def test_idle_parameters_have_zero_columns():
    linearization, output, J = build("idle parameters", 3)
    idle = (J == 0).all(dim=0)
    assert int(idle.sum()) == 2 + 6
    assert torch.equal(linearization.vjp([torch.ones_like(tensor) for tensor in output])[idle], torch.zeros(8).double())


def test_jvp_is_the_slope_of_the_output():
    """Against nothing but the network itself: a central difference."""
    module, states = MODULES["mlp"][0]().double(), flat_states(4)
    parameters = list(module.parameters())
    linearization = AutogradLinearization(module(states), parameters)
    v = torch.randn(sum(parameter.numel() for parameter in parameters), dtype=torch.float64)
    (slope,) = linearization.jvp(v)
    pieces = torch.split(v, [parameter.numel() for parameter in parameters])

    def moved(size):
        theta = {
            name: parameter + size * piece.view_as(parameter)
            for (name, parameter), piece in zip(module.named_parameters(), pieces, strict=True)
        }
        return functional_call(module, theta, (states,))[0]

    torch.testing.assert_close(slope, (moved(1e-6) - moved(-1e-6)) / 2e-6, rtol=1e-6, atol=1e-8)
