"""Conjugate gradients against a direct solver, over matrices of chosen spectrum."""

import math

import pytest
import torch

from sb3_trpo_ext.kernels.conjugate_gradient import CGResult, CGStop, conjugate_gradient

SIZE = 30
SPECTRA = {
    "identity": [1.0] * SIZE,
    "well conditioned": torch.linspace(1, 10, SIZE).tolist(),
    "clustered": [1.0 + 1e-3 * i for i in range(SIZE - 3)] + [50.0, 100.0, 1000.0],
    "ill conditioned": torch.logspace(-4, 4, SIZE).tolist(),
    "damped Fisher": [0.1] * (SIZE - 5) + [0.1 + 10.0**i for i in range(-2, 3)],
}


class Counted:
    """A matrix that counts its products."""

    def __init__(self, matrix):
        self.matrix, self.products = matrix, 0

    def __matmul__(self, vector):
        self.products += 1
        return self.matrix @ vector


def matrix_of(spectrum):
    """A random symmetric matrix with these eigenvalues."""
    Q = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), dtype=torch.float64)).Q
    return Q @ torch.diag(torch.tensor(spectrum, dtype=torch.float64)) @ Q.T


def vector(size=SIZE):
    return torch.randn(size, dtype=torch.float64)


@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA.keys())
def test_agrees_with_a_direct_solver(spectrum):
    A, b = matrix_of(spectrum), vector()
    exact = torch.linalg.solve(A, b)
    result = conjugate_gradient(A, b, cg_max_steps=50 * SIZE, cg_tolerance=1e-12)
    condition = max(spectrum) / min(spectrum)
    assert result.stop is CGStop.CONVERGED
    assert torch.linalg.vector_norm(result.x - exact) <= 1e-12 * condition * torch.linalg.vector_norm(exact)
    # What rounding adds to the recurrence's residual (Greenbaum 1997): per step, the machine's epsilon times ‖A‖ ‖x‖.
    rounding = result.steps * torch.finfo(b.dtype).eps * max(spectrum) * torch.linalg.vector_norm(result.x)
    assert torch.linalg.vector_norm(b - A @ result.x) <= 1e-12 * torch.linalg.vector_norm(b) + rounding


@pytest.mark.parametrize("eigenvalues", [(3.0,), (1.0, 7.0), (0.5, 2.0, 9.0), (1.0, 2.0, 4.0, 8.0, 16.0)])
def test_needs_as_many_steps_as_there_are_distinct_eigenvalues(eigenvalues):
    k = len(eigenvalues)
    A, b = Counted(matrix_of([eigenvalues[i % k] for i in range(SIZE)])), vector()
    result = conjugate_gradient(A, b, cg_max_steps=SIZE, cg_tolerance=1e-10)
    assert (result.steps, result.stop) == (k, CGStop.CONVERGED)
    assert A.products == k, "one product per step and no other"


def test_each_step_is_the_best_in_its_krylov_space():
    """x_k minimises the A-norm of the error over span{b, Ab, …, A^(k−1) b}."""
    A, b = matrix_of(SPECTRA["well conditioned"]), vector()
    for k in range(1, 6):
        basis = torch.linalg.qr(torch.stack([torch.linalg.matrix_power(A, i) @ b for i in range(k)], dim=1)).Q
        best = basis @ torch.linalg.solve(basis.T @ A @ basis, basis.T @ b)
        torch.testing.assert_close(conjugate_gradient(A, b, k, 0.0).x, best, rtol=1e-8, atol=1e-10)


def test_zero_right_side():
    A = Counted(matrix_of(SPECTRA["identity"]))
    b = torch.zeros(SIZE, dtype=torch.float64)
    result = conjugate_gradient(A, b, 10, 1e-10)
    assert (result.steps, result.stop, A.products) == (0, CGStop.ZERO_RIGHT_SIDE, 0)
    assert torch.equal(result.x, b)
    assert result.quadratic_form(b) == result.relative_residual(b) == 0


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_right_side_that_is_not_finite(bad):
    A, b = Counted(matrix_of(SPECTRA["identity"])), vector()
    b[3] = bad
    result = conjugate_gradient(A, b, 10, 1e-10)
    assert (result.steps, result.stop, A.products) == (0, CGStop.NOT_FINITE, 0)
    assert torch.equal(result.x, torch.zeros_like(b))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_matrix_that_is_not_finite(bad):
    A, b = matrix_of(SPECTRA["well conditioned"]), vector()
    A[3, 4] = A[4, 3] = bad
    result = conjugate_gradient(A, b, 10, 1e-10)
    assert (result.steps, result.stop) == (0, CGStop.NOT_FINITE)
    assert torch.equal(result.x, torch.zeros_like(b))


@pytest.mark.parametrize("last", [torch.nan, torch.inf, 1e308])
def test_products_that_turn_bad_keep_what_was_known(last):
    A, b = matrix_of(SPECTRA["well conditioned"]), vector()

    class TurnsBad(Counted):
        def __matmul__(self, v):
            return super().__matmul__(v) * (last if self.products > 2 else 1)

    result = conjugate_gradient(TurnsBad(A), b, 10, 1e-10)
    two = conjugate_gradient(A, b, 2, 0.0)
    assert (result.steps, result.stop) == (2, CGStop.NOT_FINITE)
    assert torch.equal(result.x, two.x)
    assert torch.equal(result.residual, two.residual)


@pytest.mark.parametrize("spectrum", [[-1.0] * SIZE, [0.0] * SIZE], ids=["negative definite", "zero"])
def test_curvature_that_is_not_positive_at_once(spectrum):
    b = vector()
    result = conjugate_gradient(matrix_of(spectrum), b, 10, 1e-10)
    assert result.x.isfinite().all()
    if spectrum[0] < 0:
        assert (result.steps, result.stop) == (0, CGStop.NEGATIVE_CURVATURE)
        assert torch.equal(result.x, torch.zeros_like(b))
        assert result.quadratic_form(b) == 0


def test_exactly_zero_curvature():
    b = vector()
    result = conjugate_gradient(torch.zeros(SIZE, SIZE, dtype=torch.float64), b, 10, 1e-10)
    assert (result.steps, result.stop) == (0, CGStop.NEGATIVE_CURVATURE)


def test_negative_curvature_met_later_keeps_an_ascent_direction():
    A, b = matrix_of([*torch.linspace(1, 10, SIZE - 1).tolist(), -5.0]), vector()
    result = conjugate_gradient(A, b, 200, 1e-12)
    assert result.stop is CGStop.NEGATIVE_CURVATURE
    assert result.steps > 0
    assert result.quadratic_form(b) > 0
    assert float(result.x @ b) > 0
    torch.testing.assert_close(result.residual, b - A @ result.x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_step_limit(steps):
    A, b = Counted(matrix_of(SPECTRA["ill conditioned"])), vector()
    result = conjugate_gradient(A, b, steps, 1e-12)
    assert (result.steps, result.stop, A.products) == (steps, CGStop.STEP_LIMIT, steps)


@pytest.mark.parametrize("scale_b", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("scale_A", [1e-12, 1.0, 1e12])
def test_tolerance_is_relative(scale_A, scale_b):
    A, b = matrix_of(SPECTRA["well conditioned"]), vector()
    plain = conjugate_gradient(A, b, 100, 1e-3)
    scaled = conjugate_gradient(scale_A * A, scale_b * b, 100, 1e-3)
    assert plain.stop is scaled.stop is CGStop.CONVERGED
    assert 0 < plain.steps == scaled.steps < SIZE
    torch.testing.assert_close(scaled.x * (scale_A / scale_b), plain.x, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tolerance", [0.5, 1e-2, 1e-6])
def test_stops_at_the_first_residual_below_the_tolerance(tolerance):
    A, b = matrix_of(SPECTRA["well conditioned"]), vector()
    result = conjugate_gradient(A, b, 100, tolerance)
    assert result.relative_residual(b) <= tolerance
    assert conjugate_gradient(A, b, result.steps - 1, 0.0).relative_residual(b) > tolerance


@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA.keys())
@pytest.mark.parametrize("steps", [1, 5])
def test_quadratic_form_and_residual_need_no_further_product(spectrum, steps):
    A, b = matrix_of(spectrum), vector()
    result = conjugate_gradient(A, b, steps, 0.0)
    residual = b - A @ result.x
    torch.testing.assert_close(result.residual, residual, rtol=1e-8, atol=1e-10)
    assert result.quadratic_form(b) == pytest.approx(float(result.x @ A @ result.x), rel=1e-9)
    relative = float(torch.linalg.vector_norm(residual) / torch.linalg.vector_norm(b))
    assert result.relative_residual(b) == pytest.approx(relative, rel=1e-6, abs=1e-12)


def test_quadratic_form_of_any_point():
    """Also of one whose residual is not orthogonal to it, as rounding makes them."""
    A, b, x = matrix_of(SPECTRA["ill conditioned"]), vector(), vector()
    result = CGResult(x, b - A @ x, 1, CGStop.STEP_LIMIT)
    assert result.quadratic_form(b) == pytest.approx(float(x @ A @ x), rel=1e-9)


def test_exact_inverse_as_preconditioner_needs_one_step():
    A, b = matrix_of(SPECTRA["ill conditioned"]), vector()
    result = conjugate_gradient(A, b, 10, 1e-6, preconditioner=torch.linalg.inv(A))
    assert (result.steps, result.stop) == (1, CGStop.CONVERGED)
    torch.testing.assert_close(result.x, torch.linalg.solve(A, b), rtol=1e-4, atol=1e-6)


def test_diagonal_preconditioner_undoes_bad_scaling():
    scaling = torch.diag(torch.logspace(-3, 3, SIZE, dtype=torch.float64))
    A, b = scaling @ matrix_of(SPECTRA["well conditioned"]) @ scaling, vector()
    inverse_diagonal = torch.diag(1 / torch.diag(A))
    plain = conjugate_gradient(A, b, 2000, 1e-8)
    helped = conjugate_gradient(A, b, 2000, 1e-8, preconditioner=inverse_diagonal)
    assert helped.stop is CGStop.CONVERGED
    assert helped.steps < plain.steps / 2
    torch.testing.assert_close(A @ helped.x, b, rtol=1e-5, atol=1e-5)
    assert helped.quadratic_form(b) == pytest.approx(float(helped.x @ A @ helped.x), rel=1e-6)


def test_identity_as_preconditioner_changes_nothing():
    A, b = matrix_of(SPECTRA["well conditioned"]), vector()
    eye = torch.eye(SIZE, dtype=torch.float64)
    assert torch.equal(conjugate_gradient(A, b, 5, 0.0, preconditioner=eye).x, conjugate_gradient(A, b, 5, 0.0).x)


def test_leaves_its_inputs_alone_and_repeats_itself():
    A, b = matrix_of(SPECTRA["well conditioned"]), vector()
    before = A.clone(), b.clone()
    first, second = (conjugate_gradient(A, b, 5, 0.0) for _ in range(2))
    assert torch.equal(first.x, second.x)
    assert torch.equal(A, before[0]) and torch.equal(b, before[1])


def test_follows_the_type_of_its_input():
    A, b = matrix_of(SPECTRA["well conditioned"]).float(), vector().float()
    result = conjugate_gradient(A, b, 100, 1e-4)
    assert result.x.dtype == result.residual.dtype == torch.float32
    assert result.stop is CGStop.CONVERGED
    assert math.isclose(result.relative_residual(b), 0, abs_tol=1e-4)
