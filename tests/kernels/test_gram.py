"""The Gram matrix against dense Jacobians, and conjugate gradients among samples against those among parameters."""

import pytest
import torch
from torch import nn

from sb3_trpo_ext.kernels.chain import ChainLinearization
from sb3_trpo_ext.kernels.conjugate_gradient import CGStop, conjugate_gradient
from sb3_trpo_ext.kernels.gram import conjugate_gradient_among_samples, gram_matrix
from sb3_trpo_ext.kernels.layers import layers_of
from sb3_trpo_ext.kernels.vector import flatten

EXACT = {"rtol": 1e-10, "atol": 1e-12}
DAMPING = 0.1
NETWORKS = {
    "linear": lambda: [nn.Linear(3, 1)],
    "one hidden layer": lambda: [nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)],
    "three layers": lambda: [nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.ELU(), nn.Linear(4, 1)],
    "activation at the end": lambda: [nn.Linear(3, 5), nn.Sigmoid(), nn.Linear(5, 1), nn.Tanh()],
}
each_network = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())
each_n = pytest.mark.parametrize("n", [1, 7, 60])


class InUnits:
    """J diag(u)."""

    def __init__(self, linearization, units):
        self.linearization, self.units, self.value = linearization, units, linearization.value

    def jvp(self, tangent):
        return self.linearization.jvp(self.units * tangent)

    def vjp(self, cotangent):
        return self.linearization.vjp(cotangent) * self.units


class Problem:
    """(JᵀJ/n + λI) x = g, with J diag(u) in J's place."""

    def __init__(self, network, n, dtype=torch.float64):
        modules = nn.Sequential(*network()).to(dtype)
        self.chain = ChainLinearization(layers_of(modules), torch.randn(n, 3, dtype=dtype))
        units = [0.2 + torch.rand(()).item() for _ in modules.parameters()]
        in_all = flatten([torch.full_like(w, unit) for w, unit in zip(modules.parameters(), units, strict=True)])
        self.linearization = InUnits(self.chain, in_all)
        self.g = torch.randn(len(in_all), dtype=dtype)
        self.J = torch.stack([self.linearization.vjp((row[:, None],)) for row in torch.eye(n, dtype=dtype)])
        self.A = self.J.T @ self.J / n + DAMPING * torch.eye(len(self.g), dtype=dtype)
        self.K = gram_matrix(self.chain, units)

    def solve(self, cg_max_steps, cg_tolerance, **changes):
        arguments = {"K": self.K, "linearization": self.linearization, "g": self.g, "cg_damping": DAMPING} | changes
        return conjugate_gradient_among_samples(
            *arguments.values(), cg_max_steps=cg_max_steps, cg_tolerance=cg_tolerance
        )


@each_network
@each_n
def test_the_gram_matrix_has_the_inner_products_of_all_gradients(network, n):
    problem = Problem(network, n)
    torch.testing.assert_close(problem.K, problem.J @ problem.J.T, **EXACT)


@each_network
@each_n
def test_a_converged_solution_is_the_direct_solvers(network, n):
    problem = Problem(network, n)
    result = problem.solve(200, 0.0)
    exact = torch.linalg.solve(problem.A, problem.g)
    assert result.stop is CGStop.CONVERGED
    assert torch.linalg.vector_norm(result.x - exact) <= 1e-7 / DAMPING * torch.linalg.vector_norm(problem.g)
    torch.testing.assert_close(result.residual, problem.g - problem.A @ result.x, rtol=0, atol=1e-8)
    assert result.quadratic_form(problem.g) == pytest.approx(float(result.x @ problem.A @ result.x), rel=1e-8)


@each_network
@pytest.mark.parametrize("steps", range(8))
def test_every_iterate_is_that_of_the_method_among_the_parameters(network, steps):
    problem = Problem(network, 60)
    result = problem.solve(steps, 1e-6)
    expected = conjugate_gradient(problem.A, problem.g, steps, cg_tolerance=1e-6)
    assert (result.steps, result.stop) == (expected.steps, expected.stop)
    torch.testing.assert_close(result.x, expected.x, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(result.residual, expected.residual, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("tolerance", [0.5, 1e-1, 1e-2, 1e-3])
def test_stops_where_the_method_among_the_parameters_does(tolerance):
    problem = Problem(NETWORKS["three layers"], 60)
    result = problem.solve(50, tolerance)
    expected = conjugate_gradient(problem.A, problem.g, 50, cg_tolerance=tolerance)
    assert (result.steps, result.stop) == (expected.steps, CGStop.CONVERGED)
    assert result.relative_residual(problem.g) <= tolerance


def test_float32_comes_as_close_to_the_solution_as_it_can():
    problem = Problem(NETWORKS["three layers"], 60, torch.float32)
    result = problem.solve(50, 1e-4)
    exact = torch.linalg.solve(problem.A.double(), problem.g.double())
    assert result.x.dtype is torch.float32
    assert torch.linalg.vector_norm(result.x - exact) <= 1e-3 * torch.linalg.vector_norm(exact)


def test_a_gradient_of_zero_has_the_solution_zero():
    problem = Problem(NETWORKS["three layers"], 7)
    result = problem.solve(10, 1e-3, g=torch.zeros_like(problem.g))
    assert (result.steps, result.stop) == (0, CGStop.ZERO_RIGHT_SIDE)
    assert not result.x.any() and result.quadratic_form(problem.g) == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_ends_the_method_with_a_finite_x(bad):
    problem = Problem(NETWORKS["three layers"], 7)
    K = problem.K.clone()
    K[2, 3] = bad
    result = problem.solve(10, 1e-3, K=K)
    assert result.stop is CGStop.NOT_FINITE and result.x.isfinite().all()
    g = problem.g.clone()
    g[1] = bad
    assert problem.solve(10, 1e-3, g=g).stop is CGStop.NOT_FINITE


def test_curvature_that_is_not_positive_is_reported():
    problem = Problem(NETWORKS["three layers"], 7)
    result = problem.solve(10, 1e-3, cg_damping=-1e6)
    assert (result.steps, result.stop) == (0, CGStop.NEGATIVE_CURVATURE)
    assert not result.x.any()
