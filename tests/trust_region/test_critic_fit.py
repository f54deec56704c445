"""The critic's regression, by hand and by autograd, against an Adam loop of our own."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticCnnPolicy

from sb3_trpo_ext.common.inputs import Inputs, one_in
from sb3_trpo_ext.kernels.line_search import LineSearchResult
from sb3_trpo_ext.kernels.vector import flatten
from sb3_trpo_ext.trust_region import batch, critic_fit
from sb3_trpo_ext.trust_region.batch import Batch
from sb3_trpo_ext.trust_region.critic_fit import fit_by_gradient_descent, fit_in_trust_region
from sb3_trpo_ext.trust_region.value_function import ValueFunction
from tests.cases import ACTIONS, OBSERVATION, identical, make_actor, make_policy, snapshot

N, SIZE, RATE, WIDTH = 48, 16, 1e-2, 4
IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)

each_way = pytest.mark.parametrize("fast", [True, False], ids=["by hand", "autograd"])


class Case:
    """A policy whose optimizer is the critic's, and samples to regress on."""

    def __init__(self, name="box", fast=True, frozen=None, **kwargs):
        if name.endswith("cnn"):
            torch.manual_seed(0)
            self.policy = ActorCriticCnnPolicy(
                IMAGE, ACTIONS["discrete"], lambda _: 1e-3, share_features_extractor=name == "shared cnn"
            )
            observations = torch.randint(256, (N, *IMAGE.shape), dtype=torch.uint8)
        else:
            self.policy = make_policy(name, **kwargs)
            observations = torch.randn(N, OBSERVATION)
        if frozen:
            self.policy.get_parameter(frozen).requires_grad_(False)
        actor = make_actor(self.policy)
        self.parameters = actor.critic_parameters()
        self.critic = ValueFunction(actor, RATE, fast)
        assert frozen or (self.critic.network is not None) == fast
        values = torch.randn(N)
        self.batch = Batch(
            Inputs(observations), torch.zeros(N, 3), torch.zeros(N), values + 0.5 * torch.randn(N), values
        )

    def fit(self, n_epochs, batch_size=SIZE, seed=7):
        np.random.seed(seed)
        return fit_by_gradient_descent(self.critic, self.batch, batch_size, n_epochs)


@each_way
@pytest.mark.parametrize("name", ["box", "gsde", "shared cnn", "separate cnn"])
def test_only_the_critic_moves(name, fast):
    case = Case(name, fast)
    before = snapshot(list(case.policy.parameters()))
    case.fit(2)
    critic = {id(parameter) for parameter in case.parameters}
    for old, parameter in zip(before, case.policy.parameters(), strict=True):
        assert torch.equal(old, parameter) == (id(parameter) not in critic)
        assert id(parameter) in critic or parameter.grad is None


def test_both_ways_give_the_same_critic():
    for name in ("box", "shared cnn", "separate cnn"):
        one, other = Case(name, True), Case(name, False)
        fits = [case.fit(2) for case in (one, other)]
        for ours, theirs in zip(one.parameters, other.parameters, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
        assert fits[0].value_loss == pytest.approx(fits[1].value_loss, rel=1e-4)


@each_way
def test_the_loss_decreases(fast):
    case = Case(fast=fast)
    case.batch.returns.copy_(case.batch.inputs.observations.sum(dim=1))  # something that can be learned
    losses = [case.fit(10).value_loss for _ in range(10)]
    assert losses[-1] < 0.1 * losses[0]


@each_way
@pytest.mark.parametrize("size", [SIZE, 20, 2 * N])
def test_agrees_with_an_independent_adam_loop(fast, size):
    epochs, (beta1, beta2), eps = 4, (0.9, 0.999), 1e-5
    case, twin = Case(fast=fast), Case()
    fit = case.fit(epochs, size)

    np.random.seed(7)
    first, second = ([torch.zeros_like(parameter) for parameter in twin.parameters] for _ in range(2))
    t, losses = 0, []
    for _ in range(epochs):
        order = np.random.permutation(N)
        for start in range(0, N, size):
            chosen = order[start : start + size]
            errors = (
                twin.policy.predict_values(twin.batch.inputs.observations[chosen])[:, 0] - twin.batch.returns[chosen]
            )
            loss = (errors**2).sum() / len(chosen)
            losses.append(loss.item())
            gradients = torch.autograd.grad(loss, twin.parameters)
            t += 1
            with torch.no_grad():
                for parameter, g, m, v in zip(twin.parameters, gradients, first, second, strict=True):
                    m.mul_(beta1).add_((1 - beta1) * g)
                    v.mul_(beta2).add_((1 - beta2) * g * g)
                    parameter -= RATE * (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps)
    for ours, other in zip(case.parameters, twin.parameters, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-6)
    assert fit.value_loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert fit.finite


def test_explained_variance_is_of_the_values_of_the_rollout():
    case = Case()
    errors = case.batch.returns - case.batch.values
    expected = 1 - float(errors.var() / case.batch.returns.var())
    assert case.fit(1).explained_variance == pytest.approx(expected, rel=1e-5)
    assert 0 < expected < 1


@each_way
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of numpy, about the variance of infinity
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_not_stepped_on(bad, fast):
    case = Case(fast=fast)
    before = snapshot(case.policy)
    case.batch.returns[3] = bad
    fit = case.fit(3, batch_size=N)
    assert not fit.finite
    assert not math.isfinite(fit.value_loss)
    assert identical(snapshot(case.policy), before)


@each_way
def test_nothing_is_stepped_after_the_first_bad_loss(fast):
    """The number of steps is that of the minibatches before the one with the bad sample."""
    case = Case(fast=fast)
    case.batch.returns[5] = math.nan
    np.random.seed(3)
    good = np.random.permutation(N).tolist().index(5) // SIZE
    assert good > 0, "choose another seed"
    case.fit(5, seed=3)
    assert {int(state["step"]) for state in case.policy.optimizer.state.values()} == {good}
    assert all(bool(parameter.isfinite().all()) for parameter in case.policy.parameters())


@each_way
@pytest.mark.parametrize("frozen", ["mlp_extractor.value_net.0.weight", "value_net.bias", "log_std"])
def test_what_is_frozen_stays_and_the_rest_learns(frozen, fast):
    case = Case(fast=fast, frozen=frozen)
    before, last = case.policy.get_parameter(frozen).clone(), case.policy.value_net.weight.clone()
    case.fit(1)
    assert torch.equal(case.policy.get_parameter(frozen), before)
    assert not torch.equal(case.policy.value_net.weight, last)


def test_logged_keys():
    fit = Case().fit(1)
    logged = fit.logged()
    assert logged["train/value_loss"] == fit.value_loss
    assert logged["train/explained_variance"] == fit.explained_variance
    assert logged["time/critic_seconds"] == fit.seconds > 0


@each_way
@pytest.mark.parametrize("max_kl", [1e-3, 0.1, 10.0])
def test_trust_region_holds_and_the_error_falls(max_kl, fast):
    case = Case(fast=fast)
    returns, observations = case.batch.returns[:, None], case.batch.inputs.observations
    for _ in range(5):
        critic_fit.meet_mean_and_spread(case.critic, case.batch)  # which is no part of the step
        before = case.policy.predict_values(observations).detach()
        fit_in_trust_region(case.critic, case.batch, max_kl, n_critic_steps=1, cg_max_steps=20)
        after = case.policy.predict_values(observations).detach()
        variance = (before - returns).square().mean()
        assert float((after - before).square().mean() / (2 * variance)) <= max_kl * (1 + 1e-5)
        assert float((after - returns).square().mean()) < float(variance)


def dense_solution(case, k=1):
    """
    The step to the minimum, what the KL is measured with, and the errors, once mean and spread are met.

    H is made of one gradient for each k-th state, the gradient of all. The damping is 0.1 for the output layer and
    0.1 σ² for the rest.
    """
    critic_fit.meet_mean_and_spread(case.critic, case.batch)
    parameters, observations = case.critic.parameters, case.batch.inputs.observations
    values = case.policy.predict_values(observations)[:, 0]
    J = torch.stack(
        [torch.cat([g.flatten() for g in torch.autograd.grad(v, parameters, retain_graph=True)]) for v in values]
    )
    J, errors = J.double(), (case.batch.returns - values).detach().double()
    damping = torch.full(J.shape[1:], 0.1 * float(errors.square().mean()), dtype=J.dtype)
    damping[-WIDTH - 1 :] = 0.1
    some = J[one_in(k, N)]
    H = some.T @ some / len(some) + damping.diag()
    return torch.linalg.solve(H, J.T @ errors / N), H, errors


@each_way
@pytest.mark.parametrize("k", [1, 3])
def test_small_trust_region_is_filled_along_the_dense_solution(k, fast, monkeypatch):
    monkeypatch.setattr(critic_fit, "CURVATURE_STATES", N // k)
    monkeypatch.setattr(batch, "STATES_PER_INPUT", 0)
    case = Case(fast=fast)
    direction, H, errors = dense_solution(case, k)
    before = flatten(case.critic.parameters).double()
    fit_in_trust_region(case.critic, case.batch, 1e-6, n_critic_steps=1, cg_max_steps=100)
    step = flatten(case.critic.parameters).double() - before
    assert float(torch.cosine_similarity(step, direction, dim=0)) > 0.999
    kl = float(step @ H @ step / (2 * errors.square().mean()))
    # With some states alone the line search, which asks all, may halve the step once.
    assert kl == pytest.approx(1e-6, rel=0.05) or (k > 1 and kl == pytest.approx(0.25e-6, rel=0.05))


def test_trust_region_by_hand_and_by_autograd_agree():
    one, other = Case(fast=True), Case(fast=False)
    fits = [fit_in_trust_region(case.critic, case.batch, 0.1, 3, 10) for case in (one, other)]
    for ours, theirs in zip(one.parameters, other.parameters, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert fits[0].value_loss == pytest.approx(fits[1].value_loss, rel=1e-4)


def test_steps_among_the_samples_and_among_the_parameters_agree(monkeypatch):
    one, other = Case(fast=True), Case(fast=True)
    for case, few in ((one, True), (other, False)):
        monkeypatch.setattr(critic_fit, "_are_few", lambda n, p, few=few: few)
        assert fit_in_trust_region(case.critic, case.batch, 0.1, 3, 10).steps == 3
    for ours, theirs in zip(one.parameters, other.parameters, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("few", [True, False])
def test_the_gram_matrix_is_made_where_samples_are_few(few, monkeypatch):
    sizes, gram_matrix = [], critic_fit.gram_matrix
    monkeypatch.setattr(critic_fit, "gram_matrix", lambda *args: sizes.append(args) or gram_matrix(*args))
    monkeypatch.setattr(critic_fit, "_are_few", lambda n, p: few)
    case = Case(fast=True)
    fit_in_trust_region(case.critic, case.batch, 0.1, 3, 10)
    assert bool(sizes) == few


@pytest.mark.parametrize(
    ("n", "p", "few"), [(512, 5377, True), (1000, 5377, False), (1024, 70_657, True), (2048, 26_561, False)]
)
def test_what_is_few_follows_the_network(n, p, few):
    assert critic_fit._are_few(n, p) == few


@each_way
@pytest.mark.parametrize("name", ["box", "shared cnn"])
def test_trust_region_moves_only_the_critic(name, fast):
    case = Case(name, fast)
    before = snapshot(list(case.policy.parameters()))
    fit_in_trust_region(case.critic, case.batch, 0.1, 2, 10)
    critic = {id(parameter) for parameter in case.parameters}
    for old, parameter in zip(before, case.policy.parameters(), strict=True):
        assert torch.equal(old, parameter) == (id(parameter) not in critic)


@each_way
def test_inside_a_large_trust_region_the_step_ends_at_the_minimum(fast):
    """Of the Gauss-Newton approximation: the dense solution itself, not its continuation to the border."""
    case = Case(fast=fast)
    direction = dense_solution(case)[0]
    before = flatten(case.critic.parameters).double()
    fit = fit_in_trust_region(case.critic, case.batch, 1e6, n_critic_steps=1, cg_max_steps=200)
    step = flatten(case.critic.parameters).double() - before
    assert fit.steps == 1
    torch.testing.assert_close(step, direction, rtol=0, atol=0.02 * float(direction.abs().max()))


def test_a_step_that_is_refused_is_undone_and_ends_the_fit(monkeypatch):
    case, trials = Case(), []

    def never_satisfied(evaluate, start, *settings):
        trials.append(evaluate(1.0))
        return LineSearchResult(False, 0.0, trials[-1], 1)

    monkeypatch.setattr(critic_fit, "backtrack", never_satisfied)
    unstepped = Case()
    critic_fit.meet_mean_and_spread(unstepped.critic, unstepped.batch)
    fit = fit_in_trust_region(case.critic, case.batch, 0.1, 5, 10)
    assert identical(snapshot(case.policy), snapshot(unstepped.policy))
    assert len(trials) == 1 and trials[0].kl > 0
    assert fit.steps == 0 and fit.finite


def test_errors_whose_squares_are_0_take_no_step():
    case = Case()
    with torch.no_grad():
        case.policy.value_net.weight.zero_()
        case.policy.value_net.bias.fill_(1e-25)
        case.batch.returns.zero_()
    fit = fit_in_trust_region(case.critic, case.batch, 0.1, 5, 10)
    assert fit.steps == 0 and fit.value_loss == 0


@pytest.mark.parametrize("returns", ["nan", "perfect"])
def test_trust_region_leaves_what_cannot_be_improved(returns):
    case = Case()
    with torch.no_grad():
        case.batch.returns.copy_(case.critic.values(case.batch.inputs)[:, 0])
    if returns == "nan":
        case.batch.returns[3] = math.nan
    before = snapshot(case.policy)
    fit = fit_in_trust_region(case.critic, case.batch, 0.1, 5, 10)
    assert identical(snapshot(case.policy), before)
    assert fit.finite == (returns == "perfect")
