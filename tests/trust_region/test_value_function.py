"""The critic's view of a policy: its parameters, its values and how they change with them, and its optimizer."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticCnnPolicy

from sb3_trpo_ext.common.inputs import Inputs
from sb3_trpo_ext.trust_region.value_function import ValueFunction
from tests.cases import ACTIONS, OBSERVATION, gradient, make_actor, make_policy

IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
each_way = pytest.mark.parametrize("fast", [True, False], ids=["by hand", "autograd"])
each_policy = pytest.mark.parametrize("name", ["box", "discrete", "gsde"])
OF_MLP = ["mlp_extractor.value_net.0.weight", "mlp_extractor.value_net.0.bias", "value_net.weight", "value_net.bias"]


def critic_of(policy, fast=True):
    return ValueFunction(make_actor(policy), 1e-3, fast)


def names(policy, parameters):
    found = {id(parameter) for parameter in parameters}
    return [name for name, parameter in policy.named_parameters() if id(parameter) in found]


@each_policy
@each_way
def test_parameters_are_those_that_the_actor_does_not_use(name, fast):
    policy = make_policy(name)
    critic = critic_of(policy, fast)
    assert names(policy, critic.parameters) == OF_MLP
    assert (critic.network is not None) == fast


@pytest.mark.parametrize("shared", [True, False])
def test_an_extractor_belongs_to_the_critic_only_if_it_has_its_own(shared):
    policy = ActorCriticCnnPolicy(IMAGE, ACTIONS["discrete"], lambda _: 1e-3, share_features_extractor=shared)
    critic = critic_of(policy)
    extractor = {name for name in names(policy, critic.parameters) if "features_extractor" in name}
    assert bool(extractor) != shared and all(name.startswith("vf_features_extractor") for name in extractor)
    assert critic.network.from_pixels != shared
    inputs = Inputs(torch.randint(256, (3, *IMAGE.shape), dtype=torch.uint8))
    torch.testing.assert_close(critic.values(inputs), policy.predict_values(inputs.observations))


@each_policy
@each_way
def test_values_and_their_derivatives_are_those_of_autograd(name, fast):
    policy = make_policy(name, precise=True)
    critic, observations = critic_of(policy, fast), torch.randn(5, OBSERVATION)
    values = policy.predict_values(observations)
    found = critic.values(Inputs(observations))
    assert found.shape == (5, 1) and not found.requires_grad
    torch.testing.assert_close(found, values)

    J = torch.stack([gradient(value, critic.parameters) for value in values.flatten()])
    linearization = critic.linearize(Inputs(observations))
    vector, cotangent = torch.randn(J.shape[1], dtype=J.dtype), torch.randn(5, 1, dtype=J.dtype)
    torch.testing.assert_close(linearization.value[0], values)
    torch.testing.assert_close(linearization.jvp(vector)[0], (J @ vector)[:, None])
    torch.testing.assert_close(linearization.vjp([cotangent]), J.T @ cotangent[:, 0])


@pytest.mark.parametrize("frozen", OF_MLP)
def test_what_is_frozen_is_left_to_autograd_and_comes_back(frozen):
    """Also if someone freezes it later: which way is taken is seen anew each time."""
    policy = make_policy("box", precise=True)
    critic, observations = critic_of(policy), torch.randn(5, OBSERVATION)
    policy.get_parameter(frozen).requires_grad_(False)
    assert names(policy, critic.parameters) == [name for name in OF_MLP if name != frozen]
    assert critic.network is None
    cotangent = torch.randn(5, 1, dtype=torch.float64)
    expected = gradient((policy.predict_values(observations) * cotangent).sum(), critic.parameters)
    torch.testing.assert_close(critic.linearize(Inputs(observations)).vjp([cotangent]), expected)
    policy.get_parameter(frozen).requires_grad_(True)
    assert critic.network is not None


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.RMSprop, torch.optim.AdamW])
def test_optimizer_is_the_one_that_the_policy_asks_for(optimizer):
    policy = make_policy("box", optimizer_class=optimizer, optimizer_kwargs={"weight_decay": 0.25})
    ValueFunction(make_actor(policy), 0.125)
    made = policy.optimizer
    assert type(made) is optimizer
    assert (made.param_groups[0]["lr"], made.param_groups[0]["weight_decay"]) == (0.125, 0.25)


def test_optimizer_has_the_critics_parameters_and_no_others():
    policy = make_policy("box")
    critic = critic_of(policy)
    (group,) = policy.optimizer.param_groups
    assert list(map(id, group["params"])) == list(map(id, critic.parameters))


@pytest.mark.parametrize(("given", "fused"), [({}, True), ({"fused": False}, False), ({"foreach": True}, None)])
def test_adam_takes_its_steps_in_one_call_unless_the_user_says_how(given, fused):
    policy = make_policy("box", optimizer_kwargs={"eps": 1e-5, **given})
    critic_of(policy)
    assert type(policy.optimizer) is torch.optim.Adam
    assert policy.optimizer.param_groups[0]["fused"] is fused
    assert policy.optimizer.param_groups[0]["eps"] == 1e-5


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_parameters_and_memory_are_looked_at_and_nothing_of_the_actor(bad):
    policy = make_policy("box")
    critic = critic_of(policy)
    for parameter in critic.parameters:
        parameter.grad = torch.ones_like(parameter)
    policy.optimizer.step()
    assert critic.is_finite()
    with torch.no_grad():
        policy.log_std.fill_(bad)
        assert critic.is_finite()
        memory = policy.optimizer.state[critic.parameters[0]]["exp_avg_sq"]
        for tensor in (memory, critic.parameters[-1]):
            kept = tensor.clone()
            tensor.view(-1)[0] = bad
            assert not critic.is_finite()
            tensor.copy_(kept)
    assert critic.is_finite()
