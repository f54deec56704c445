"""Directions beside dense solutions, and searches along a line that the test draws."""

import math

import pytest
import torch

from sb3_trpo_ext.kernels.conjugate_gradient import CGStop
from sb3_trpo_ext.kernels.fisher import Fisher, Identity
from sb3_trpo_ext.kernels.line_search import Trial
from sb3_trpo_ext.trust_region.direction import Backtracking, KfacNaturalGradient, NaturalGradient, Unsearched
from tests.cases import StatisticsOf, dense_fisher, kind_of, make_actor, make_batch, make_policy

KINDS = [NaturalGradient, KfacNaturalGradient]
each_kind = pytest.mark.parametrize("kind", KINDS)


def problem(name, damping, scale=1.0):
    """F + λI as an operator and as a matrix, and some g."""
    policy = make_policy(name, precise=True)
    actor, batch = make_actor(policy), make_batch(policy, 30)
    family, linearization = actor.linearize(batch.inputs)
    statistics = StatisticsOf(policy)(batch.inputs.observations)
    matrix = scale * dense_fisher(kind_of(name), statistics, actor.parameters)
    matrix += damping * torch.eye(len(matrix), dtype=matrix.dtype)
    return Fisher(linearization, family, damping, scale), matrix, torch.randn(len(matrix), dtype=matrix.dtype)


@each_kind
@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("name", ["box", "discrete", "multi_discrete", "multi_binary"])
def test_direction_is_the_dense_solution(name, scale, kind):
    F, matrix, g = problem(name, 0.1, scale)
    solution = kind(cg_max_steps=500, cg_tolerance=1e-12)(F, g)
    expected = torch.linalg.solve(matrix, g)
    torch.testing.assert_close(solution.x, expected, rtol=1e-8, atol=1e-10)
    assert solution.stop is CGStop.CONVERGED
    assert solution.quadratic_form(g) == pytest.approx(float(expected @ matrix @ expected), rel=1e-8)


@each_kind
@pytest.mark.parametrize("steps", [1, 3])
def test_no_more_steps_are_taken_than_allowed(steps, kind):
    F, _, g = problem("box", 0.01)
    solution = kind(cg_max_steps=steps, cg_tolerance=0.0)(F, g)
    assert (solution.steps, solution.stop is CGStop.CONVERGED) == (steps, False)


@each_kind
@pytest.mark.parametrize("tolerance", [1e-1, 1e-4])
def test_the_residual_is_within_the_tolerance_and_not_needlessly_small(tolerance, kind):
    F, matrix, g = problem("box", 0.01)

    def solved(**settings):
        torch.manual_seed(0)  # the preconditioner draws actions
        solution = kind(**settings)(F, g)
        return solution.steps, float(torch.linalg.vector_norm(g - matrix @ solution.x) / torch.linalg.vector_norm(g))

    steps, residual = solved(cg_max_steps=500, cg_tolerance=tolerance)
    assert residual <= tolerance * (1 + 1e-6)
    assert solved(cg_max_steps=steps - 1, cg_tolerance=0.0)[1] > tolerance


def test_in_a_flat_space_the_direction_is_the_gradient():
    g = torch.randn(7, dtype=torch.float64)
    solution = NaturalGradient(cg_max_steps=10, cg_tolerance=1e-10)(Identity(), g)
    torch.testing.assert_close(solution.x, g)
    assert solution.steps == 1


class Line:
    """A made-up line: at each fraction an objective and a distance; remembers where it was asked."""

    def __init__(self, objective=lambda fraction: fraction, kl=lambda fraction: fraction**2):
        self.objective, self.kl, self.asked = objective, kl, []

    def __call__(self, fraction):
        self.asked.append(fraction)
        return Trial(self.objective(fraction), self.kl(fraction))


def test_backtracking_stops_at_the_first_point_inside_the_region():
    line = Line()
    result = Backtracking(0.5, 10)(line, start=0.0, target_kl=0.1)
    assert line.asked == [1.0, 0.5, 0.25]
    assert (result.accepted, result.fraction, result.trials) == (True, 0.25, 3)
    assert result.trial == Trial(0.25, 0.0625)


def test_backtracking_goes_on_until_the_objective_rises_above_the_start():
    line = Line(objective=lambda fraction: fraction * (0.3 - fraction))
    result = Backtracking(0.5, 10)(line, start=0.0, target_kl=100.0)
    assert (result.accepted, result.fraction) == (True, 0.25)
    assert not Backtracking(0.5, 10)(line, start=0.1, target_kl=100.0).accepted


def test_backtracking_gives_up_after_its_last_trial():
    line = Line()
    result = Backtracking(0.5, 2)(line, start=0.0, target_kl=0.1)
    assert line.asked == [1.0, 0.5]
    assert (result.accepted, result.fraction, result.trials) == (False, 0.0, 2)


def test_unsearched_takes_the_full_step_however_far_and_bad():
    line = Line(objective=lambda fraction: -5.0, kl=lambda fraction: 100.0)
    result = Unsearched()(line, start=0.0, target_kl=0.1)
    assert (line.asked, result.accepted, result.fraction, result.trials) == ([1.0], True, 1.0, 1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("search", [Backtracking(0.5, 3), Unsearched()], ids=["backtracking", "unsearched"])
def test_nothing_that_is_not_finite_is_accepted(search, bad):
    for line in (Line(objective=lambda fraction: bad), Line(kl=lambda fraction: bad)):
        result = search(line, start=0.0, target_kl=1e300)
        assert (result.accepted, result.fraction) == (False, 0.0)
