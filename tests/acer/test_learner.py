"""One step of the optimizer and of the running average."""

from copy import deepcopy

import pytest
import torch

from sb3_trpo_ext.acer.learner import Learner
from sb3_trpo_ext.kernels.vector import flatten, unflatten
from tests.acer.cases import BOX, VECTOR
from tests.cases import identical, snapshot


@pytest.fixture
def learner(space_env, tiny):
    """Of a policy with a fixed standard deviation and plain gradient descent, of step size 1."""
    sgd = {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {}}
    model = tiny(space_env(VECTOR, BOX), learning_rate=1.0, policy_kwargs=sgd)
    average = deepcopy(model.average_policy)
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.add_(torch.randn_like(parameter))
    return Learner(model.policy, average)


def linear_loss(learner, size):
    """Its gradient is drawn once, and has the norm ``size``."""
    directions = [torch.randn_like(parameter) for parameter in learner.parameters]
    norm = torch.cat([direction.flatten() for direction in directions]).norm()
    directions = [size / norm * direction for direction in directions]
    pairs = zip(learner.parameters, directions, strict=True)
    return sum((parameter * direction).sum() for parameter, direction in pairs), directions


@pytest.mark.parametrize("size, limit", [(2.0, 10.0), (8.0, 0.5)])
def test_the_step_is_the_gradient_clipped_to_its_limit(size, limit, learner):
    before = snapshot(learner.parameters)
    loss, directions = linear_loss(learner, size)
    norm = learner.descend(loss.backward, max_grad_norm=limit, average_policy_decay=0.9)
    assert float(norm) == pytest.approx(size, rel=1e-5), "that before it was clipped"
    for old, new, direction in zip(before, learner.parameters, directions, strict=True):
        torch.testing.assert_close(new.detach(), old - min(1, limit / size) * direction, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("limit", [0.5, 10.0])
def test_gradients_that_lie_in_one_vector_are_clipped_as_others(limit, learner):
    before, (_, directions) = snapshot(learner.parameters), linear_loss(learner, 8.0)

    def write():
        vector = flatten(directions)
        for parameter, piece in zip(learner.parameters, unflatten(vector, learner.parameters), strict=True):
            parameter.grad = piece
        return vector

    assert float(learner.descend(write, limit, 0.9)) == pytest.approx(8.0, rel=1e-5)
    for old, new, direction in zip(before, learner.parameters, directions, strict=True):
        torch.testing.assert_close(new.detach(), old - min(1, limit / 8) * direction, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.9, 1.0])
def test_the_average_follows_the_new_parameters(decay, learner):
    before = {name: parameter.clone() for name, parameter in learner.average.named_parameters()}
    learner.descend(linear_loss(learner, 1.0)[0].backward, 10.0, decay)
    policy = dict(learner.policy.named_parameters())
    for name, parameter in learner.average.named_parameters():
        expected = decay * before[name] + (1 - decay) * policy[name].detach()
        torch.testing.assert_close(parameter, before[name] if name == "log_std" else expected)


def test_what_is_frozen_is_left_alone(learner):
    assert not learner.policy.log_std.requires_grad
    assert all(parameter is not learner.policy.log_std for parameter in learner.parameters)
    assert learner.n_parameters == sum(p.numel() for p in learner.policy.parameters()) - BOX.shape[0]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad, learner):
    before = snapshot(learner.policy), snapshot(learner.average)
    loss, _ = linear_loss(learner, 1.0)
    assert not learner.descend((bad * loss).backward, 10.0, 0.5).isfinite()
    assert identical(snapshot(learner.policy), before[0]) and identical(snapshot(learner.average), before[1])


def test_gradients_do_not_add_up(learner):
    loss, _ = linear_loss(learner, 1.0)
    for parameter in learner.parameters:
        parameter.grad = torch.full_like(parameter, 7.0)  # of whatever came before
    assert float(learner.descend(loss.backward, 10.0, 0.5)) == pytest.approx(1.0, rel=1e-5)
