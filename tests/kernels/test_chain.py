"""Networks that are differentiated by hand, against the dense Jacobian of torch.func, in float64."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

from sb3_trpo_ext.kernels.chain import ChainLinearization, GaussianLinearization, forward
from sb3_trpo_ext.kernels.layers import layers_of
from tests.cases import flat

EXACT = {"rtol": 1e-10, "atol": 1e-12}
INPUTS = {"rows": (3,), "images": (2, 9, 9)}
CONVOLUTIONS = {
    "plain": {"kernel_size": 3},
    "stride and padding": {"kernel_size": (3, 2), "stride": 2, "padding": (1, 0)},
    "dilation": {"kernel_size": 3, "dilation": 2},
    "groups": {"kernel_size": 3, "groups": 2},
}


def mlp(*activations):
    modules, width = [], 3
    for activation in activations:
        modules += [nn.Linear(width, 5), activation]
        width = 5
    return [*modules, nn.Linear(width, 2)]


def head(*modules):
    """The convolutions given, and a dense layer behind them."""
    features = nn.Sequential(*modules)(torch.zeros(1, *INPUTS["images"])).shape[1]
    return [*modules, nn.Linear(features, 2)]


NETWORKS = {
    "one layer": ("rows", lambda: [nn.Linear(3, 2)]),
    "activation at the end": ("rows", lambda: [nn.Linear(3, 2), nn.Tanh()]),
    "two layers without activation": ("rows", lambda: [nn.Linear(3, 4), nn.Linear(4, 2)]),
    "deep": ("rows", lambda: mlp(*[nn.Tanh() for _ in range(4)])),
    "in place": ("rows", lambda: mlp(nn.ReLU(inplace=True), nn.ELU(inplace=True))),
    **{
        repr(activation): ("rows", lambda a=activation: mlp(a, a))
        for activation in (nn.Tanh(), nn.ReLU(), nn.Sigmoid(), nn.ELU(), nn.ELU(0.3), nn.LeakyReLU(), nn.LeakyReLU(0.4))
    },
    **{
        f"convolution, {name}": (
            "images",
            lambda options=options: head(nn.Conv2d(2, 4, **options), nn.ReLU(), nn.Flatten()),
        )
        for name, options in CONVOLUTIONS.items()
    },
    "two convolutions": (
        "images",
        lambda: head(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 4, 3, stride=2), nn.ELU(), nn.Flatten()),
    ),
    "flattened before the activation": ("images", lambda: head(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Tanh())),
    "ends in a convolution": ("images", lambda: [nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten()]),
}

each_network = pytest.mark.parametrize("name", NETWORKS.keys())


def build(name, n):
    kind, make = NETWORKS[name]
    network = nn.Sequential(*make()).double()
    inputs = torch.randn(n, *INPUTS[kind], dtype=torch.float64)
    names, parameters = zip(*network.named_parameters(), strict=True)

    def value(*theta):
        return functional_call(network, dict(zip(names, theta, strict=True)), (inputs,)).flatten()

    columns = jacrev(value, argnums=tuple(range(len(names))))(*[parameter.detach() for parameter in parameters])
    return network, inputs, torch.cat([column.reshape(column.shape[0], -1) for column in columns], dim=1)


@each_network
@pytest.mark.parametrize("n", [1, 5])
def test_products_agree_with_the_dense_jacobian(name, n):
    network, inputs, J = build(name, n)
    output = network(inputs).detach()
    layers = layers_of(list(network))
    linearization = ChainLinearization(layers, inputs)
    torch.testing.assert_close(linearization.value[0], output, **EXACT)
    torch.testing.assert_close(forward(layers, inputs).detach(), output, **EXACT)
    kept = []
    for _ in range(3):  # the buffers within are used again and again
        v, c = torch.randn(J.shape[1], dtype=torch.float64), torch.randn_like(output)
        before = v.clone(), c.clone()
        kept.append((linearization.jvp(v)[0], J @ v, linearization.vjp((c,)), J.T @ c.flatten()))
        assert torch.equal(v, before[0]) and torch.equal(c, before[1]), "products must not write into their arguments"
    for change, expected_change, gradient, expected_gradient in kept:  # nor into results handed out before
        torch.testing.assert_close(change.flatten(), expected_change, **EXACT)
        torch.testing.assert_close(gradient, expected_gradient, **EXACT)


def test_gaussian_with_a_width_of_its_own():
    network, inputs, J = build("deep", 4)
    log_std = torch.tensor([-0.5, 0.3], dtype=torch.float64)
    mean = ChainLinearization(layers_of(list(network)), inputs)
    linearization = GaussianLinearization(mean, log_std)
    d_std = torch.diag(log_std.exp()).repeat(4, 1)  # row by row of φ's second half, in the columns of log_std
    dense = torch.block_diag(d_std, J)
    dense = torch.cat([dense[d_std.shape[0] :], dense[: d_std.shape[0]]])  # φ = (mean, std), θ = (log std, the rest)
    v, c = torch.randn(dense.shape[1]).double(), [torch.randn(4, 2).double() for _ in range(2)]
    torch.testing.assert_close(flat(linearization.jvp(v)), dense @ v, **EXACT)
    torch.testing.assert_close(linearization.vjp(c), dense.T @ flat(c), **EXACT)
    torch.testing.assert_close(linearization.value[1], log_std.exp().expand(4, 2), **EXACT)
