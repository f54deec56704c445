"""The region's curvature beside dense Fisher matrices, its distance beside torch's divergence."""

import pytest
import torch

from sb3_trpo_ext.common.inputs import one_in
from sb3_trpo_ext.trust_region.region import EuclideanRegion, KLRegion, averaged, summed
from tests.cases import (
    DIM,
    POLICIES,
    SIZES,
    StatisticsOf,
    dense,
    dense_fisher,
    kind_of,
    make_actor,
    make_batch,
    make_policy,
    reference_kl,
    torch_reference,
)

N = 12
DELTA = 0.3
each_policy = pytest.mark.parametrize("name", POLICIES)
each_reduction = pytest.mark.parametrize("reduction", [summed, averaged])
each_way = pytest.mark.parametrize("fast", [True, False], ids=["by hand", "autograd"])


def dimensions(name):
    """Over how many an averaged divergence is averaged."""
    return 1 if name in ("discrete", "multi_discrete") else DIM


class Case:
    def __init__(self, name, fast=True):
        self.name, self.policy = name, make_policy(name, precise=True)
        self.actor, self.batch = make_actor(self.policy, fast), make_batch(self.policy, N)
        self.old = self.actor.linearize(self.batch.inputs)
        self.size = sum(parameter.numel() for parameter in self.actor.parameters)

    def fisher(self, k=1):
        """Undamped, of one state in k."""
        statistics = StatisticsOf(self.policy)(self.batch.inputs.observations[one_in(k, N)])
        return dense_fisher(kind_of(self.name), statistics, self.actor.parameters)

    def moved(self):
        """Families before and after a step, and the same of torch."""
        observations = self.batch.inputs.observations
        old, old_reference = self.actor.family(self.batch.inputs), torch_reference(self.policy, observations)
        with torch.no_grad():
            for parameter in self.actor.parameters:
                parameter.add_(0.1 * torch.randn_like(parameter))
        new, new_reference = self.actor.family(self.batch.inputs), torch_reference(self.policy, observations)
        return old, new, reference_kl(old_reference, new_reference).detach()


@each_policy
@each_way
@each_reduction
@pytest.mark.parametrize("k", [1, 3])
def test_curvature_is_the_dense_fisher_matrix_of_one_state_in_k(name, fast, reduction, k):
    case = Case(name, fast)
    operator = KLRegion(DELTA, reduction, 0.2, k).curvature(case.actor, case.batch, case.old)
    weight = 1 / dimensions(name) if reduction is averaged else 1
    expected = weight * case.fisher(k) + 0.2 * torch.eye(case.size, dtype=torch.float64)
    torch.testing.assert_close(dense(operator, case.size), expected, rtol=1e-7, atol=1e-9)


def test_thinning_is_not_trivial():
    case = Case("box")
    assert not torch.allclose(case.fisher(), case.fisher(3), rtol=0.01)


@each_policy
@each_reduction
def test_distance_is_the_mean_divergence_and_kl_that_of_each_state(name, reduction):
    case = Case(name)
    region = KLRegion(DELTA, reduction, 0.1)
    old, new, expected = case.moved()
    expected = expected / dimensions(name) if reduction is averaged else expected
    assert float(expected.min()) > 0
    torch.testing.assert_close(region.kl(old, new), expected)
    # How much of the full step was taken is not asked.
    for fraction in (1.0, 0.25):
        assert region.distance(case.batch, old, new, fraction) == pytest.approx(float(expected.mean()))
    torch.testing.assert_close(EuclideanRegion(DELTA, reduction).kl(old, new), expected)


@each_policy
def test_curvature_is_that_of_the_distance(name):
    """½ΔθᵀFΔθ approaches D as the step becomes small, with the region's own weight."""
    case = Case(name)
    case.policy.action_dist.learn_features = True  # gSDE hides from autograd that its std depends on the features
    region = KLRegion(DELTA, averaged, 0.0)
    old = case.actor.linearize(case.batch.inputs)
    F = region.curvature(case.actor, case.batch, old)
    direction, errors = torch.randn(case.size, dtype=torch.float64), []
    theta = torch.nn.utils.parameters_to_vector(case.actor.parameters).detach()
    for size in (1e-2, 1e-3):
        torch.nn.utils.vector_to_parameters(theta + size * direction, case.actor.parameters)
        distance = region.distance(case.batch, old.family, case.actor.family(case.batch.inputs), 1.0)
        errors.append(abs(0.5 * size**2 * float(direction @ (F @ direction)) / distance - 1))
    assert errors[1] < 0.02 and errors[1] < errors[0] / 3


@each_reduction
def test_euclidean_curvature_is_the_identity_without_damping(reduction):
    case = Case("box")
    region = EuclideanRegion(DELTA, reduction)
    operator = region.curvature(case.actor, case.batch, case.old)
    assert torch.equal(dense(operator, case.size), torch.eye(case.size, dtype=torch.float64))
    assert region.cg_damping == 0


@pytest.mark.parametrize("fraction", [1.0, 0.5, 0.1])
def test_euclidean_distance_is_half_the_squared_length_of_the_step(fraction):
    """Of a full step that ends on the border."""
    case = Case("box")
    old, new, _ = case.moved()
    step = torch.zeros(5, dtype=torch.float64)
    step[0] = (2 * DELTA) ** 0.5
    expected = 0.5 * float((fraction * step).square().sum())
    assert EuclideanRegion(DELTA, summed).distance(case.batch, old, new, fraction) == pytest.approx(expected)


def test_weights_of_the_two_reductions():
    families = {name: Case(name).old.family for name in POLICIES}
    assert all(summed(family) == 1 for family in families.values())
    assert averaged(families["box"]) == averaged(families["multi_binary"]) == averaged(families["gsde"]) == 1 / DIM
    assert averaged(families["discrete"]) == averaged(families["multi_discrete"]) == 1 and len(SIZES) > 1
