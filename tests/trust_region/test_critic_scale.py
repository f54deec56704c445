"""The critic's fit in a trust region under any scale and offset of the returns."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn
from torch.func import functional_call, jacrev

from sb3_trpo_ext.common.inputs import Inputs
from sb3_trpo_ext.trust_region import critic_fit
from sb3_trpo_ext.trust_region.batch import Batch
from sb3_trpo_ext.trust_region.critic_fit import fit_in_trust_region, meet_mean_and_spread
from sb3_trpo_ext.trust_region.value_function import ValueFunction
from tests.cases import OBSERVATION, identical, make_actor, make_policy, snapshot

N = 48
OUTPUT = ("value_net.weight", "value_net.bias")

each_way = pytest.mark.parametrize("fast", [True, False], ids=["by hand", "autograd"])
each_frozen = pytest.mark.parametrize(
    "frozen", [(), OUTPUT[:1], OUTPUT[1:], OUTPUT], ids=["none", "weight", "bias", "both"]
)


def batch_of(critic, observations, returns):
    values = critic.values(Inputs(observations))[:, 0]
    return Batch(Inputs(observations), torch.zeros(len(returns), 3), torch.zeros(len(returns)), returns, values)


class Case:
    """
    A small critic in float64, and returns of spread 1.

    :param scale: a, of the output layer and the returns
    :param offset: c, of the same
    :param frozen: names of parameters
    """

    def __init__(self, fast=True, scale=1.0, offset=0.0, frozen=(), policy=None):
        self.policy = policy or make_policy("box", precise=True)
        with torch.no_grad():
            self.policy.value_net.weight.mul_(scale)
            self.policy.value_net.bias.mul_(scale).add_(offset)
        for name in frozen:
            self.policy.get_parameter(name).requires_grad_(False)
        self.critic = ValueFunction(make_actor(self.policy), 1e-3, fast)
        torch.manual_seed(1)
        self.observations = torch.randn(N, OBSERVATION)
        returns = self.observations.sum(dim=1).sin().double() + 0.2 * torch.randn(N, dtype=torch.float64)
        self.batch = batch_of(self.critic, self.observations, scale * returns + offset)

    @property
    def values(self):
        return self.critic.values(self.batch.inputs)[:, 0]

    def fit(self, critic_max_kl=0.1, n_critic_steps=3, cg_max_steps=15):
        return fit_in_trust_region(self.critic, self.batch, critic_max_kl, n_critic_steps, cg_max_steps)


# --------------------------------------------------------------------------------------------- one step
def normalized_solution(case, parameters):
    """
    The parameters after a whole Gauss-Newton step, from dense algebra.

    The network is written as V = σ Ṽ(θ, W̃, b̃) with W = σ W̃ and b = σ b̃. In (θ, W̃, b̃) everything is plain: the
    Jacobian of Ṽ, the errors divided by σ, and the damping 0.1 I.
    """
    errors = (case.batch.returns - case.values).detach()
    sigma = errors.square().mean().sqrt()
    units = {name: sigma if name in OUTPUT else torch.tensor(1.0) for name in parameters}
    normalized = {name: parameter.detach() / units[name] for name, parameter in parameters.items()}

    def values(normalized):
        real = {name: units[name] * parameter for name, parameter in normalized.items()}
        hidden = functional_call(case.policy.mlp_extractor.value_net, inner(real), case.observations.double())
        weight, bias = (real.get(name, case.policy.get_parameter(name)) for name in OUTPUT)
        return (hidden @ weight.t() + bias)[:, 0] / sigma

    J = torch.cat([part.flatten(1) for part in jacrev(values)(normalized).values()], dim=1)
    H = J.T @ J / N + 0.1 * torch.eye(J.shape[1], dtype=J.dtype)
    step = torch.linalg.solve(H, J.T @ (errors / sigma) / N).split([part.numel() for part in normalized.values()])
    return {
        name: units[name] * (part + change.view_as(part))
        for (name, part), change in zip(normalized.items(), step, strict=True)
    }


def inner(parameters):
    prefix = "mlp_extractor.value_net."
    return {name.removeprefix(prefix): part for name, part in parameters.items() if name.startswith(prefix)}


@each_way
@each_frozen
@pytest.mark.parametrize("scale, offset", [(1.0, 0.0), (1e-3, 1e-2), (1e4, -3e4)])
def test_the_step_is_the_dense_solution_in_normalized_coordinates(monkeypatch, fast, frozen, scale, offset):
    monkeypatch.setattr(critic_fit, "TOLERANCE", 1e-13)
    case = Case(fast, scale, offset, frozen)
    meet_mean_and_spread(case.critic, case.batch)
    own = {id(parameter) for parameter in case.critic.parameters}
    parameters = {name: part for name, part in case.policy.named_parameters() if id(part) in own}
    assert len(parameters) == 4 - len(frozen)
    expected = normalized_solution(case, parameters)
    assert case.fit(1e6, n_critic_steps=1, cg_max_steps=200).steps == 1
    for name, parameter in parameters.items():
        size = float(expected[name].abs().max())
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-7, atol=1e-7 * size, msg=name)


class Squashed(ActorCriticPolicy):
    """Its values are not the output of a linear layer."""

    def predict_values(self, observations):
        return 2 * super().predict_values(observations).tanh()


def squashed():
    torch.manual_seed(0)
    space = spaces.Box(-np.inf, np.inf, (OBSERVATION,))
    policy = Squashed(space, spaces.Discrete(2), lambda _: 1e-3, net_arch=[4]).double()
    policy.features_extractor.register_forward_hook(lambda module, inputs, features: features.double())
    return policy


def test_without_an_output_layer_all_parameters_are_damped_as_they_are(monkeypatch):
    monkeypatch.setattr(critic_fit, "TOLERANCE", 1e-13)
    case = Case(policy=squashed())
    parameters = case.critic.parameters
    values = case.policy.predict_values(case.observations)[:, 0]
    rows = [torch.autograd.grad(value, parameters, retain_graph=True) for value in values]
    J = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
    H = J.T @ J / N + 0.1 * torch.eye(J.shape[1], dtype=J.dtype)
    step = torch.linalg.solve(H, J.T @ (case.batch.returns - values).detach() / N)
    before = torch.cat([parameter.detach().flatten() for parameter in parameters])
    assert case.fit(1e6, n_critic_steps=1, cg_max_steps=200).steps == 1
    after = torch.cat([parameter.detach().flatten() for parameter in parameters])
    torch.testing.assert_close(after - before, step, rtol=1e-7, atol=1e-9)


# --------------------------------------------------------------------------------------------- invariance
@each_way
@each_frozen
@pytest.mark.parametrize("scale", [1e-6, 1e5, -3.0])
@pytest.mark.parametrize("offset", [0.0, 20.0])
def test_scaled_and_shifted_returns_give_scaled_and_shifted_values(fast, frozen, scale, offset):
    one, other = Case(fast, frozen=frozen), Case(fast, scale, scale * offset, frozen)
    fits = [case.fit() for case in (one, other)]
    torch.testing.assert_close(other.values / scale - offset, one.values, rtol=1e-8, atol=1e-8)
    assert fits[0].steps == fits[1].steps == 3
    assert fits[1].value_loss == pytest.approx(scale**2 * fits[0].value_loss, rel=1e-8)
    assert fits[1].explained_variance == pytest.approx(fits[0].explained_variance, rel=1e-8)


class Learning:
    """
    SB3's network with fresh samples for every update, of a function of eight inputs.

    :param activation: of the layers
    """

    def __init__(self, activation):
        torch.manual_seed(0)
        space, kwargs = spaces.Box(-np.inf, np.inf, (8,)), {"net_arch": [64, 64], "activation_fn": activation}
        policy = ActorCriticPolicy(space, spaces.Discrete(2), lambda _: 1e-3, **kwargs)
        policy.set_training_mode(False)
        self.critic = ValueFunction(make_actor(policy), 1e-3)

    def fit(self, scale, offset=10.0):
        """To the returns scale · (offset + f)."""
        x = torch.randn(1024, 8)
        f = (1.5 * x[:, 0]).sin() + 0.5 * x[:, 1] * x[:, 2] + (x[:, 3] + x[:, 4]).tanh() + 0.3 * x[:, 5].square()
        return fit_in_trust_region(self.critic, batch_of(self.critic, x, scale * (offset + f)), 0.1, 3, 15)

    def explained_variance(self, scale, n_updates):
        """Of the last update's returns, before their fit."""
        fits = [self.fit(scale) for _ in range(n_updates)]
        assert all(fit.finite and fit.steps == 3 for fit in fits)
        return fits[-1].explained_variance


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("scale", [1e-30, 1e-4, 1.0, 1e4, 1e30])
def test_returns_of_any_scale_are_learned(activation, scale):
    assert Learning(activation).explained_variance(scale, 12) > 0.93


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e36])
def test_at_the_ends_of_float32_nothing_breaks(scale):
    learning = Learning(nn.ReLU)
    learning.fit(scale)
    assert learning.fit(scale).finite and learning.critic.is_finite()


def test_returns_that_change_their_scale_are_learned_again():
    learning = Learning(nn.Tanh)
    assert learning.explained_variance(1.0, 10) > 0.95
    assert learning.explained_variance(1e3, 10) > 0.95
    assert learning.explained_variance(1.0, 10) > 0.95


# --------------------------------------------------------------------------------------------- mean and spread
@each_way
@pytest.mark.parametrize("value", [0.0, 0.1, -123.456, 3e5, 1e-30, -1e30])
def test_equal_returns_leave_nothing_but_an_offset(fast, value):
    critic = ValueFunction(make_actor(make_policy("box")), 1e-3, fast)
    batch = batch_of(critic, torch.randn(N, OBSERVATION), torch.full((N,), value))
    for _ in range(2):
        fit = fit_in_trust_region(critic, batch, 0.1, 3, 15)
        assert fit.steps == 0 and fit.finite
    torch.testing.assert_close(critic.values(batch.inputs)[:, 0], batch.returns, rtol=1e-6, atol=0)


@each_way
@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0, 1e6])
def test_the_mean_is_met_and_a_spread_that_is_too_large_is_cut(fast, factor):
    case = Case(fast)
    spread = float(case.batch.returns.std())
    with torch.no_grad():
        ratio = factor * spread / float(case.values.std())
        case.policy.value_net.weight.mul_(ratio)
    shape = (case.values - case.values.mean()) / case.values.std()
    error = float((case.batch.returns - case.values).square().mean())
    meet_mean_and_spread(case.critic, case.batch)
    assert float(case.values.mean()) == pytest.approx(float(case.batch.returns.mean()), rel=1e-9)
    assert float(case.values.std()) == pytest.approx(min(factor, critic_fit.MAX_SPREAD) * spread, rel=1e-9)
    torch.testing.assert_close((case.values - case.values.mean()) / case.values.std(), shape)
    assert float((case.batch.returns - case.values).square().mean()) < error


@each_way
@each_frozen
def test_what_is_frozen_is_neither_shifted_nor_scaled(fast, frozen):
    case = Case(fast, frozen=frozen)
    case.batch.returns.mul_(1e-3).add_(7)
    before = snapshot(case.policy)
    meet_mean_and_spread(case.critic, case.batch)
    if OUTPUT[1] in frozen:  # without a bias the mean would move with the spread
        assert identical(snapshot(case.policy), before)
    else:
        assert float(case.values.mean()) == pytest.approx(float(case.batch.returns.mean()))
    case.fit()
    for name, old in zip(dict(case.policy.named_parameters()), before, strict=True):
        assert name not in frozen or torch.equal(case.policy.get_parameter(name), old)


@each_way
def test_one_sample_is_met(fast):
    case = Case(fast)
    critic, batch = case.critic, batch_of(case.critic, case.observations[:1], case.batch.returns[:1])
    assert fit_in_trust_region(critic, batch, 0.1, 3, 15).steps == 0
    torch.testing.assert_close(critic.values(batch.inputs)[:, 0], batch.returns)


@each_way
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of numpy, about the variance of infinity
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_returns_that_are_not_finite_change_nothing(fast, bad):
    case = Case(fast)
    case.batch.returns[3] = bad
    before = snapshot(case.policy)
    fit = case.fit()
    assert identical(snapshot(case.policy), before)
    assert fit.steps == 0 and not fit.finite


# --------------------------------------------------------------------------------------------- output layer
class Renamed(ActorCriticPolicy):
    """Another layer than SB3's gives the values."""

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        self.judge = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1, bias=False))

    def predict_values(self, observations):
        return self.judge(self.mlp_extractor.forward_critic(self.extract_features(observations)))


def test_the_output_layer_is_found_whatever_it_is_called():
    policy = make_policy("box")
    critic = ValueFunction(make_actor(policy), 1e-3)
    assert critic.output_weight is policy.value_net.weight and critic.output_bias is policy.value_net.bias
    assert not policy.value_net._forward_hooks
    space = spaces.Box(-np.inf, np.inf, (OBSERVATION,))
    renamed = Renamed(space, spaces.Discrete(2), lambda _: 1e-3, net_arch=[4], share_features_extractor=False)
    renamed.extract_features = lambda observations: renamed.vf_features_extractor(observations)
    critic = ValueFunction(make_actor(renamed), 1e-3)
    assert critic.output_weight is renamed.judge[2].weight and critic.output_bias is None


def change_the_output(policy):
    policy.value_net.register_forward_hook(lambda module, inputs, output: output.exp())


def subclass_the_layer(policy):
    policy.value_net = type("Other", (nn.Linear,), {})(4, 1)


@pytest.mark.parametrize("change", [change_the_output, subclass_the_layer])
def test_what_is_no_plain_output_layer_is_not_taken_for_one(change):
    policy = make_policy("box")
    change(policy)
    critic = ValueFunction(make_actor(policy), 1e-3)
    assert critic.output_weight is None and critic.output_bias is None
    assert critic.units(1e-3) == [1.0] * len(critic.parameters)
