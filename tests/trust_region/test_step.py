"""
One policy update, against the same computed with dense matrices and torch.distributions in float64.

The batches are made by hand: the policy's own actions in random states, with random advantages.
"""

import math
from dataclasses import dataclass, replace

import pytest
import torch

from sb3_trpo_ext.common.inputs import Inputs, one_in
from sb3_trpo_ext.kernels.conjugate_gradient import CGStop
from sb3_trpo_ext.trust_region import batch, region
from sb3_trpo_ext.trust_region.direction import Backtracking, KfacNaturalGradient, NaturalGradient, Unsearched
from sb3_trpo_ext.trust_region.policy_step import StepStatus
from sb3_trpo_ext.trust_region.region import EuclideanRegion, KLRegion, averaged, summed
from sb3_trpo_ext.trust_region.step import trust_region_step
from tests.cases import (
    DIM,
    POLICIES,
    StatisticsOf,
    by_hand,
    dense_fisher,
    flat,
    gradient,
    identical,
    kind_of,
    make_actor,
    make_batch,
    make_policy,
    reference_entropy,
    reference_kl,
    reference_log_prob,
    snapshot,
    torch_reference,
)

N = 40
DELTA = 0.01
EXACT_CG = {"cg_max_steps": 500, "cg_tolerance": 1e-11}

# The region is so large and the damping so small that the quadratic model leaves it: the search has work to do.
BEYOND = {"target_kl": 1.0, "cg_damping": 1e-4, "cg_max_steps": 500}

each_policy = pytest.mark.parametrize("name", POLICIES.keys())
each_way = pytest.mark.parametrize("fast", [True, False], ids=["by hand", "autograd"])


@dataclass(frozen=True)
class Settings:
    """Of an update, by the names of TRPO's arguments."""

    target_kl: float = DELTA
    trust_region: str = "kl"
    kl_reduction: str = "sum"
    ent_coef: float = 0.0
    cg_damping: float = 0.1
    cg_max_steps: int = 15
    cg_tolerance: float = 1e-4
    cg_preconditioner: str | None = None
    curvature_sampling_factor: int = 1
    line_search_shrinking_factor: float = 0.8
    line_search_max_iter: int = 10

    @property
    def region(self):
        reduction = {"sum": summed, "mean": averaged}[self.kl_reduction]
        if self.trust_region == "euclidean":
            return EuclideanRegion(self.target_kl, reduction)
        return KLRegion(self.target_kl, reduction, self.cg_damping, self.curvature_sampling_factor)

    @property
    def direction(self):
        kind = {None: NaturalGradient, "kfac": KfacNaturalGradient}[self.cg_preconditioner]
        return kind(self.cg_max_steps, self.cg_tolerance)

    @property
    def search(self):
        if self.line_search_max_iter == 0:
            return Unsearched()
        return Backtracking(self.line_search_shrinking_factor, self.line_search_max_iter)


class Case:
    """A policy with a batch, and everything about the update that torch.distributions and dense algebra tell."""

    def __init__(self, name, fast=True, precise=True, n=N, seed=0):
        self.policy = make_policy(name, precise=precise, seed=seed)
        self.batch = make_batch(self.policy, n, seed=seed + 1)
        self.actor = make_actor(self.policy, fast)
        assert (self.actor.network is not None) == (fast and by_hand(name))
        self.name, self.kind = name, kind_of(name)
        self.dimensions = DIM if name not in ("discrete", "multi_discrete") else 1
        actions = self.batch.actions
        if name == "discrete":
            actions = actions.long().flatten()
        elif name == "gsde_squashed":
            actions = torch.atanh(actions)
        self.actions = actions
        with torch.no_grad():
            self.old = self.distributions()
        self.before = snapshot(self.policy)
        self.theta = flat(self.actor.parameters).detach().clone()

    def distributions(self):
        return torch_reference(self.policy, self.batch.inputs.observations)

    def objective(self, ent_coef=0.0):
        new = self.distributions()
        ratio = (reference_log_prob(new, self.actions) - reference_log_prob(self.old, self.actions)).exp()
        return (ratio * self.batch.advantages).mean() + ent_coef * reference_entropy(new).mean()

    def kl(self):
        return reference_kl(self.old, self.distributions()).detach()

    def g(self, ent_coef=0.0):
        return gradient(self.objective(ent_coef), self.actor.parameters)

    def F(self, k=1):
        observations = self.batch.inputs.observations[one_in(k, self.batch.size)]
        return dense_fisher(self.kind, StatisticsOf(self.policy)(observations), self.actor.parameters)

    def step(self, **changes):
        settings = Settings(**changes)
        return trust_region_step(
            self.actor, self.batch, settings.region, settings.direction, settings.search, settings.ent_coef
        )

    def moved_by(self):
        return flat(self.actor.parameters).detach() - self.theta

    def untouched(self):
        return identical(snapshot(self.policy), self.before)


def learn_features(case):
    """SB3's gSDE hides from autograd that the std depends on the features, so slopes would not be the true ones."""
    case.policy.action_dist.learn_features = True
    return case


@each_policy
@each_way
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_accepted_step_rises_within_the_region(name, fast, reduction):
    case = Case(name, fast)
    start = case.objective().item()
    step = case.step(kl_reduction=reduction)
    scale = 1 / case.dimensions if reduction == "mean" else 1
    assert step.status is StepStatus.ACCEPTED
    assert float(scale * case.kl().mean()) <= DELTA * (1 + 1e-12)
    assert case.objective().item() > start
    assert step.kl_mean == pytest.approx(float(scale * case.kl().mean()), rel=1e-9)
    assert step.kl_max == pytest.approx(float(scale * case.kl().max()), rel=1e-9)
    assert step.objective_before == pytest.approx(start, rel=1e-9)
    assert step.objective_after == pytest.approx(case.objective().item(), rel=1e-9)
    assert step.kl_mean > DELTA / 20, "the step must not be needlessly short"


@each_policy
@each_way
def test_single_precision_stays_within_the_region(name, fast):
    case = Case(name, fast, precise=False, n=200)
    start = case.objective().item()
    step = case.step()
    assert step.status is StepStatus.ACCEPTED
    assert float(case.kl().mean()) <= DELTA * (1 + 1e-4)
    assert case.objective().item() > start
    assert all(parameter.dtype == torch.float32 for parameter in case.actor.parameters)


@each_policy
@each_way
def test_nothing_but_theta_moves(name, fast):
    case = Case(name, fast)
    case.step()
    own = {id(parameter) for parameter in case.actor.parameters}
    old = dict(zip(case.policy.state_dict(), case.before, strict=True))
    for key, parameter in case.policy.named_parameters():
        assert torch.equal(parameter, old[key]) == (id(parameter) not in own), key
        assert parameter.grad is None


@each_policy
@each_way
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kl_reduction": "mean"},
        {"ent_coef": 0.3},
        {"ent_coef": -0.3},
        {"cg_damping": 0.01},
        {"curvature_sampling_factor": 3},
        {"curvature_sampling_factor": 7, "kl_reduction": "mean", "ent_coef": 0.1},
        {"line_search_max_iter": 0},
        {"target_kl": 0.3, "line_search_shrinking_factor": 0.5, "cg_damping": 1e-3},
    ],
    ids=str,
)
def test_step_is_the_one_of_dense_algebra(name, fast, changes):
    """θ_new − θ_old = line_search_shrinking_factor^i √(2δ / xᵀ(F + λI)x) x, where (F + λI) x = g."""
    case = Case(name, fast)
    settings = Settings(**changes)
    g = case.g(settings.ent_coef)
    scale = 1 / case.dimensions if settings.kl_reduction == "mean" else 1.0
    F = scale * case.F(settings.curvature_sampling_factor)
    A = F + settings.cg_damping * torch.eye(len(g), dtype=g.dtype)
    x = torch.linalg.solve(A, g)
    full = math.sqrt(2 * settings.target_kl / float(x @ A @ x)) * x

    step = case.step(**changes, **EXACT_CG)
    assert step.status is StepStatus.ACCEPTED
    fraction = settings.line_search_shrinking_factor ** max(step.line_search.trials - 1, 0)
    delta = fraction * full
    torch.testing.assert_close(case.moved_by(), delta, rtol=1e-6, atol=1e-9)
    assert step.line_search.fraction == pytest.approx(fraction)
    assert step.predicted_improvement == pytest.approx(float(g @ delta), rel=1e-6)
    assert step.kl_predicted == pytest.approx(float(0.5 * delta @ F @ delta), rel=1e-6)
    assert step.x_fisher_x == pytest.approx(float(x @ A @ x), rel=1e-6)
    assert step.gradient_norm == pytest.approx(float(torch.linalg.vector_norm(g)), rel=1e-9)
    assert step.step_norm == pytest.approx(float(torch.linalg.vector_norm(delta)), rel=1e-6)
    assert step.cg_stop is CGStop.CONVERGED and step.cg_residual <= EXACT_CG["cg_tolerance"]


@pytest.mark.parametrize("k", [1, 3])
def test_auto_leaves_the_fisher_matrix_enough_states(k, monkeypatch):
    """That it then is the matrix of one state in k is said above."""
    monkeypatch.setattr(region, "CURVATURE_STATES", N // k)
    monkeypatch.setattr(batch, "STATES_PER_INPUT", 0)
    auto, by_hand = Case("box"), Case("box")
    auto.step(curvature_sampling_factor="auto")
    by_hand.step(curvature_sampling_factor=k)
    assert torch.equal(auto.moved_by(), by_hand.moved_by())


def test_auto_counts_the_inputs_of_the_policys_layers(monkeypatch):
    monkeypatch.setattr(region, "CURVATURE_STATES", 1)
    monkeypatch.setattr(batch, "STATES_PER_INPUT", N)
    auto, by_hand = Case("box"), Case("box")
    auto.step(curvature_sampling_factor="auto")
    by_hand.step(curvature_sampling_factor=1)
    assert torch.equal(auto.moved_by(), by_hand.moved_by())


@pytest.mark.parametrize("name", ["box", "discrete", "multi_discrete", "multi_binary"])
@pytest.mark.parametrize("changes", [{}, {"kl_reduction": "mean"}, {"curvature_sampling_factor": 3}], ids=str)
def test_preconditioner_changes_the_way_and_not_the_step(name, changes):
    plain, preconditioned = Case(name), Case(name)
    plain.step(**changes, **EXACT_CG)
    step = preconditioned.step(**changes, **EXACT_CG, cg_preconditioner="kfac")
    assert step.cg_stop is CGStop.CONVERGED
    torch.testing.assert_close(preconditioned.moved_by(), plain.moved_by(), rtol=1e-6, atol=1e-9)


@each_policy
def test_line_search_takes_the_first_point_that_will_do(name):
    """Each larger fraction of the step, tried by hand, is outside the region or no improvement."""
    case = Case(name)
    start = case.objective().item()
    step = case.step(**BEYOND, line_search_shrinking_factor=0.7, line_search_max_iter=30)
    taken = case.moved_by()
    assert step.status is StepStatus.ACCEPTED
    assert step.line_search.trials > 1, "the example must not be trivial"
    for i in range(step.line_search.trials):
        fraction = 0.7 ** (i - step.line_search.trials + 1)
        torch.nn.utils.vector_to_parameters(case.theta + fraction * taken, case.actor.parameters)
        inside = float(case.kl().mean()) <= BEYOND["target_kl"] and case.objective().item() > start
        assert inside == (i == step.line_search.trials - 1)


@each_policy
@each_way
def test_linear_and_quadratic_model_are_exact_in_the_limit(name, fast):
    improvement, divergence = [], []
    for delta in (1e-2, 1e-4, 1e-6, 1e-8):
        step = learn_features(Case(name, fast)).step(target_kl=delta)
        improvement.append(abs((step.objective_after - step.objective_before) / step.predicted_improvement - 1))
        divergence.append(abs(step.kl_mean / step.kl_predicted - 1))
    for errors in (improvement, divergence):
        assert errors[-1] < 1e-3
        assert errors[-1] < errors[-2] < errors[-3], "and they line_search_shrinking_factor with the step"


@each_policy
@each_way
@pytest.mark.parametrize("line_search_max_iter", [0, 1, 4])
def test_refused_step_leaves_no_trace(name, fast, line_search_max_iter, monkeypatch):
    case = Case(name, fast, precise=False)
    true_family, moved = case.actor.family, []

    def broken(observations):
        moved.append(not torch.equal(flat(case.actor.parameters), case.theta))
        family = true_family(observations)
        return family.with_statistics([torch.full_like(tensor, torch.nan) for tensor in family.statistics])

    monkeypatch.setattr(case.actor, "family", broken)
    step = case.step(line_search_max_iter=line_search_max_iter)
    assert moved == [True] * max(line_search_max_iter, 1), "each trial must have been at another θ"
    assert step.status is StepStatus.LINE_SEARCH_FAILED
    assert case.untouched()
    assert (step.kl_mean, step.kl_max, step.kl_predicted, step.step_norm, step.predicted_improvement) == (0, 0, 0, 0, 0)
    assert step.objective_after == step.objective_before
    assert not step.line_search.accepted


@pytest.mark.parametrize("trust_region", ["kl", "euclidean"])
def test_step_that_does_not_improve_is_refused(trust_region):
    """So far away no action of the batch is likely any more: the objective falls from the mean advantage to 0."""
    case = Case("box", precise=False)
    case.batch = replace(case.batch, advantages=case.batch.advantages.abs())
    step = case.step(target_kl=30.0, line_search_max_iter=1, trust_region=trust_region)
    assert step.status is StepStatus.LINE_SEARCH_FAILED
    assert 0 < step.line_search.trial.objective < 0.1 < step.objective_before
    assert case.untouched()


@each_policy
@pytest.mark.parametrize("trust_region", ["kl", "euclidean"])
def test_zero_advantages_leave_no_trace(name, trust_region):
    case = Case(name, precise=False)
    case.batch = replace(case.batch, advantages=torch.zeros(N))
    step = case.step(trust_region=trust_region)
    assert (step.status, step.cg_stop) == (StepStatus.ZERO_GRADIENT, CGStop.ZERO_RIGHT_SIDE)
    assert case.untouched()
    assert math.isnan(step.logged()["train/improvement_ratio"])


@each_policy
@pytest.mark.parametrize("damping", [-1e6, math.nan])
def test_bad_curvature_leaves_no_trace(name, damping):
    case = Case(name, precise=False)
    step = case.step(cg_damping=damping)
    assert step.status is StepStatus.BAD_CURVATURE
    assert case.untouched()


@each_way
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_gradient_that_is_not_finite_leaves_no_trace(bad, fast):
    case = Case("box", fast, precise=False)
    case.batch.advantages[3] = bad
    step = case.step()
    assert (step.status, step.cg_stop) == (StepStatus.BAD_CURVATURE, CGStop.NOT_FINITE)
    assert case.untouched()


@each_policy
@pytest.mark.parametrize("trust_region", ["kl", "euclidean"])
def test_no_region_leaves_no_trace(name, trust_region):
    case = Case(name, precise=False)
    assert case.step(target_kl=0.0, trust_region=trust_region).status is StepStatus.NO_REGION
    assert case.untouched()


@each_policy
@each_way
@pytest.mark.parametrize("line_search_max_iter", [0, 10])
def test_euclidean_step_has_its_length_along_the_gradient(name, fast, line_search_max_iter):
    case = Case(name, fast)
    g = case.g()
    step = case.step(trust_region="euclidean", target_kl=0.005, line_search_max_iter=line_search_max_iter)
    assert step.status is StepStatus.ACCEPTED
    length = step.line_search.fraction * math.sqrt(2 * 0.005)
    torch.testing.assert_close(case.moved_by(), length * g / torch.linalg.vector_norm(g), rtol=1e-8, atol=1e-12)
    assert step.step_norm == pytest.approx(length, rel=1e-9)
    # ½‖Δθ‖²: the curvature is the identity, without damping.
    assert step.kl_predicted == pytest.approx(0.5 * float(case.moved_by().square().sum()), rel=1e-9)
    assert step.kl_mean == pytest.approx(float(case.kl().mean()), rel=1e-8)


@each_policy
def test_without_trials_the_full_step_is_taken_even_beyond_the_region(name):
    case, searched = Case(name), Case(name)
    step, reference = case.step(**BEYOND, line_search_max_iter=0), searched.step(**BEYOND, line_search_max_iter=30)
    assert step.status is StepStatus.ACCEPTED
    assert step.kl_mean == pytest.approx(float(case.kl().mean()), rel=1e-8)
    assert step.kl_mean > BEYOND["target_kl"] >= reference.kl_mean
    torch.testing.assert_close(case.moved_by(), searched.moved_by() / reference.line_search.fraction)


@each_policy
@each_way
def test_thinned_curvature_is_exact_when_states_come_in_pairs(name, fast):
    one_in_two, all_states = Case(name, fast), Case(name, fast)
    for case in (one_in_two, all_states):
        repeated = ("actions", "advantages", "returns", "values")
        parts = {part: getattr(case.batch, part).repeat_interleave(2, dim=0) for part in repeated}
        inputs = Inputs(case.batch.inputs.observations.repeat_interleave(2, dim=0))
        case.batch = replace(case.batch, inputs=inputs, **parts)
    one_in_two.step(curvature_sampling_factor=2, **EXACT_CG)
    all_states.step(curvature_sampling_factor=1, **EXACT_CG)
    torch.testing.assert_close(one_in_two.moved_by(), all_states.moved_by(), rtol=1e-8, atol=1e-11)
    different = Case(name, fast)
    different.step(curvature_sampling_factor=2, **EXACT_CG)
    assert not torch.allclose(different.moved_by(), all_states.moved_by(), rtol=1e-3)


@each_policy
def test_mean_over_dimensions_is_the_sum_with_region_and_damping_scaled(name):
    mean, total = Case(name), Case(name)
    d = mean.dimensions
    one = mean.step(kl_reduction="mean", target_kl=DELTA, cg_damping=0.05, **EXACT_CG)
    other = total.step(kl_reduction="sum", target_kl=d * DELTA, cg_damping=d * 0.05, **EXACT_CG)
    torch.testing.assert_close(mean.moved_by(), total.moved_by(), rtol=1e-8, atol=1e-11)
    assert other.kl_mean == pytest.approx(d * one.kl_mean)


@each_policy
def test_entropy_bonus_raises_the_entropy(name):
    """Without advantages, the bonus is all there is."""
    case = learn_features(Case(name))
    case.batch = replace(case.batch, advantages=torch.zeros_like(case.batch.advantages))
    before = reference_entropy(case.distributions()).mean().item()
    step = case.step(ent_coef=0.01)
    after = reference_entropy(case.distributions()).mean().item()
    assert step.status is StepStatus.ACCEPTED
    assert after > before
    assert step.entropy == pytest.approx(after, rel=1e-9)
    assert step.objective_before == pytest.approx(0.01 * before, rel=1e-9)


@each_policy
def test_reported_entropy_and_width_are_of_the_new_policy(name):
    case = Case(name)
    step = case.step()
    new = case.distributions()
    assert step.entropy == pytest.approx(reference_entropy(new).mean().item(), rel=1e-9)
    if case.kind is kind_of("box"):
        assert step.std == pytest.approx(new[0].base_dist.scale.mean().item(), rel=1e-9)
    else:
        assert step.std is None


def test_logged_values_are_those_of_the_step():
    step = Case("box").step()
    logged = step.logged()
    improvement = step.objective_after - step.objective_before
    assert logged["train/improvement_ratio"] == pytest.approx(improvement / step.predicted_improvement)
    assert logged["train/actual_improvement"] == improvement
    assert logged["train/kl_divergence_loss"] == step.kl_mean
    assert logged["train/policy_objective"] == step.objective_after
    assert logged["train/is_line_search_success"] == 1
    assert logged["train/update_status"] == StepStatus.ACCEPTED.code
    assert logged["train/std"] == step.std
    assert {"time/gradient_seconds", "time/cg_seconds", "time/line_search_seconds"} <= logged.keys()


@each_policy
@each_way
def test_same_input_same_bits(name, fast):
    one, other = Case(name, fast, precise=False), Case(name, fast, precise=False)
    one.step()
    other.step()
    assert identical(snapshot(one.policy), snapshot(other.policy))


def test_squashed_actions_on_the_border_do_no_harm():
    case = Case("gsde_squashed", precise=False)
    case.batch.actions[:3] = torch.tensor([-1.0, 1.0, 1.0])
    case.step()
    assert all(bool(parameter.isfinite().all()) for parameter in case.actor.parameters)
