"""The Fisher product against dense matrices, in float64, for every family and for SB3's policies."""

import pytest
import torch

from sb3_trpo_ext.common.inputs import Inputs
from sb3_trpo_ext.kernels.fisher import Fisher, GaussNewton, Identity
from sb3_trpo_ext.kernels.linearize import AutogradLinearization
from tests.cases import (
    OBSERVATION,
    POLICIES,
    StatisticsOf,
    by_hand,
    dense,
    dense_fisher,
    gradient,
    hessian,
    kind_of,
    make_actor,
    make_policy,
    reference_kl,
    torch_reference,
)

EXACT = {"rtol": 1e-8, "atol": 1e-11}
N = 6

each_policy = pytest.mark.parametrize("name", POLICIES.keys())
each_way = pytest.mark.parametrize("fast", [True, False], ids=["by hand", "autograd"])


class Example:
    """A policy in float64 at a few states, and its actor's parameters."""

    def __init__(self, name: str, n: int = N, fast: bool = True):
        self.policy = make_policy(name, precise=True)
        self.observations = torch.randn(n, OBSERVATION)
        self.actor = make_actor(self.policy, fast)
        assert (self.actor.network is not None) == (fast and by_hand(name))
        self.size = sum(parameter.numel() for parameter in self.actor.parameters)
        self.kind = kind_of(name)

    def fisher(self, cg_damping=0.0, scale=1.0):
        family, linearization = self.actor.linearize(Inputs(self.observations))
        return dense(Fisher(linearization, family, cg_damping, scale), self.size)

    def from_jacobians(self):
        return dense_fisher(self.kind, StatisticsOf(self.policy)(self.observations), self.actor.parameters)

    def from_divergence(self):
        with torch.no_grad():
            old = torch_reference(self.policy, self.observations)
        new = torch_reference(self.policy, self.observations)
        return hessian(reference_kl(old, new).mean(), self.actor.parameters)


@each_policy
@each_way
@pytest.mark.parametrize("n", [1, N])
def test_agrees_with_the_sum_over_states(name, n, fast):
    example = Example(name, n, fast)
    torch.testing.assert_close(example.fisher(), example.from_jacobians(), **EXACT)


@each_policy
def test_is_the_hessian_of_the_mean_divergence(name):
    example = Example(name)
    torch.testing.assert_close(example.fisher(), example.from_divergence(), **EXACT)


@each_policy
def test_symmetric_and_nowhere_negative(name):
    F = Example(name).fisher()
    torch.testing.assert_close(F, F.T, **EXACT)
    eigenvalues = torch.linalg.eigvalsh(F)
    assert float(eigenvalues.min()) > -1e-12 * float(eigenvalues.max())
    assert float(eigenvalues.max()) > 1e-3, "the example must not be trivial"


@each_policy
@pytest.mark.parametrize("cg_damping, scale", [(0.1, 1.0), (0.0, 0.25), (0.3, 1 / 3)])
def test_damping_is_added_after_scaling(name, cg_damping, scale):
    example = Example(name)
    expected = scale * example.from_jacobians() + cg_damping * torch.eye(example.size, dtype=torch.float64)
    torch.testing.assert_close(example.fisher(cg_damping, scale), expected, **EXACT)


@each_policy
@each_way
def test_does_not_write_into_the_vector(name, fast):
    example = Example(name, fast=fast)
    family, linearization = example.actor.linearize(Inputs(example.observations))
    vector = torch.randn(example.size, dtype=torch.float64)
    before = vector.clone()
    F = Fisher(linearization, family, 0.1)
    first = F @ vector
    assert torch.equal(vector, before)
    assert torch.equal(F @ vector, first), "a product must not change the next one"


def test_what_it_is_made_of_can_be_read_and_not_written():
    family, linearization = Example("box").actor.linearize(Inputs(torch.randn(N, OBSERVATION)))
    F = Fisher(linearization, family, cg_damping=0.1)
    assert F.linearization is linearization and F.family is family and (F.cg_damping, F.scale) == (0.1, 1.0)
    for name in ("linearization", "family", "cg_damping", "scale"):
        with pytest.raises(AttributeError):
            setattr(F, name, None)


@pytest.mark.parametrize("cg_damping", [0.0, 0.3])
def test_gauss_newton_is_the_mean_outer_product_of_the_gradients(cg_damping):
    network = torch.nn.Sequential(torch.nn.Linear(OBSERVATION, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()
    parameters = list(network.parameters())
    values = network(torch.randn(N, OBSERVATION, dtype=torch.float64))
    J = torch.stack([gradient(value, parameters) for value in values.flatten()])
    H = dense(GaussNewton(AutogradLinearization((values,), parameters), cg_damping), J.shape[1])
    expected = J.T @ J / N + cg_damping * torch.eye(J.shape[1], dtype=torch.float64)
    torch.testing.assert_close(H, expected, **EXACT)


def test_identity():
    vector = torch.randn(5)
    result = Identity() @ vector
    assert torch.equal(result, vector)
    assert result.data_ptr() != vector.data_ptr()
