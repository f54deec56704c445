"""What users do to a model between and within its steps acts at once, or at the next rollout."""

import copy

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from tests.acer.cases import BOX, DISCRETE, VECTOR

ACTIONS = {"discrete": DISCRETE, "box": BOX}


def statistics_of(policy, observations):
    with torch.no_grad():
        return torch.cat(policy.family(observations).statistics, dim=1)


class Watcher(BaseCallback):
    """Notes the distributions that acted, then writes."""

    def __init__(self, write, when):
        super().__init__()
        self.write, self.when, self.acted = write, when, []

    def _on_rollout_start(self):
        self.acted.clear()
        if self.when == "start":
            self.write(self.model.policy)

    def _on_step(self):
        self.acted.append(statistics_of(self.model.policy, self.locals["obs_tensor"]))
        if self.when == len(self.acted):
            self.write(self.model.policy)
        return True


WRITES = {
    "bias": lambda policy: policy.action_net.bias.data.add_(0.3),
    "weight": lambda policy: policy.mlp_extractor.policy_net[0].weight.data.mul_(1.5),
    "new_tensor": lambda policy: setattr(policy.action_net.weight, "data", policy.action_net.weight.data + 0.2),
    "state_dict": lambda policy: policy.load_state_dict({k: 0.9 * v for k, v in policy.state_dict().items()}),
}


@pytest.mark.parametrize("when", ["start", 1, 3, 6])
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("action", ACTIONS)
def test_what_is_stored_of_the_behaviour_is_what_acted(action, write, when, space_env, tiny):
    model = tiny(space_env(VECTOR, ACTIONS[action]), replay_ratio=0)
    callback = Watcher(WRITES[write], when)
    model.learn(18, callback)
    stored = model.rollout_buffer.collected.seen.statistics
    np.testing.assert_allclose(stored[:, 0], torch.cat(callback.acted).numpy(), rtol=1e-5, atol=1e-6)
    assert when == 6 or not np.allclose(stored[0], stored[-1])


def test_noise_that_is_set_when_a_rollout_starts_is_drawn_with(space_env, tiny):
    model = tiny(space_env(VECTOR, BOX), n_steps=60, buffer_size=600)
    model.learn(120, Watcher(lambda policy: policy.log_std.data.fill_(-4.0), "start"))
    assert model.rollout_buffer.actions.std() < 0.1


def parameters_of(policy):
    return [parameter.detach().clone() for parameter in policy.parameters()]


def changed(before, policy):
    return [not torch.equal(old, new) for old, new in zip(before, policy.parameters(), strict=True)]


@pytest.mark.parametrize("settings", [{}, {"optimizer_class": torch.optim.SGD}], ids=["adam", "sgd"])
def test_an_exchanged_policy_is_the_one_that_learns(settings, space_env, tiny, tmp_path):
    model = tiny(space_env(VECTOR, DISCRETE), policy_kwargs=settings).learn(12)
    left = model.policy
    model.policy = copy.deepcopy(left)
    with torch.no_grad():
        model.policy.action_net.bias.add_(0.1)
    old, before = parameters_of(left), parameters_of(model.policy)
    model.learn(12, reset_num_timesteps=False)
    assert all(changed(before, model.policy)) and not any(changed(old, left))
    assert model.average_policy is not left
    distance = [float((a - b).abs().max()) for a, b in zip(parameters_of(model.average_policy), before, strict=True)]
    assert max(distance) < 0.1, "the average starts from the policy that came"


@pytest.mark.parametrize("settings", [{}, {"optimizer_class": torch.optim.SGD}], ids=["adam", "sgd"])
def test_an_exchanged_head_is_trained(settings, space_env, tiny):
    model = tiny(space_env(VECTOR, DISCRETE), policy_kwargs=settings).learn(12)
    model.policy.action_net = nn.Linear(8, 3)
    before = parameters_of(model.policy.action_net)
    model.learn(12, reset_num_timesteps=False)
    assert all(changed(before, model.policy.action_net))


def test_frozen_and_released_layers_are_honoured_and_the_average_goes_on(space_env, tiny):
    model = tiny(space_env(VECTOR, DISCRETE)).learn(12)
    average, layer = model.average_policy, model.policy.mlp_extractor.policy_net[0]
    layer.requires_grad_(False)
    before, rest = parameters_of(layer), parameters_of(model.policy.action_net)
    model.learn(12, reset_num_timesteps=False)
    assert not any(changed(before, layer)) and all(changed(rest, model.policy.action_net))
    layer.requires_grad_(True)
    model.learn(12, reset_num_timesteps=False)
    assert all(changed(before, layer)) and model.average_policy is average


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


@pytest.mark.parametrize("kind", ["hook", "residual", "parametrization"])
@pytest.mark.parametrize("action", ACTIONS)
def test_hooks_and_odd_containers_act(action, kind, space_env, tiny):
    model = tiny(space_env(VECTOR, ACTIONS[action]), replay_ratio=0).learn(6)
    net = model.policy.mlp_extractor.policy_net
    if kind == "hook":
        net.register_forward_hook(lambda module, inputs, output: output + 0.7)
    elif kind == "residual":
        model.policy.mlp_extractor.policy_net = nn.Sequential(Residual(nn.Linear(3, 3), nn.Tanh()), nn.Linear(3, 8))
    else:
        torch.nn.utils.parametrizations.weight_norm(model.policy.action_net)
    callback = Watcher(lambda policy: None, None)
    sampled = []

    class Chosen(BaseCallback):
        def _on_step(self):
            sampled.append(self.locals["actions"].copy())
            return True

    model.learn(6, [callback, Chosen()], reset_num_timesteps=False)
    stored = model.rollout_buffer.collected.seen
    np.testing.assert_allclose(stored.statistics[:, 0], torch.cat(callback.acted).numpy(), rtol=1e-5, atol=1e-6)
    assert model._network is None and len(sampled) == 6


class Normalized(BaseFeaturesExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space, 5)
        self.layers = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh())

    def forward(self, observations):
        return self.layers(observations)


def test_batch_norm_takes_each_rollout_in_once(space_env, tiny):
    model = tiny(space_env(VECTOR, DISCRETE), policy_kwargs={"features_extractor_class": Normalized}).learn(24)
    norm = model.policy.features_extractor.layers[1]
    assert int(norm.num_batches_tracked) == model._n_updates == 4
    assert not torch.allclose(norm.running_mean, torch.zeros(5), atol=1e-4)


def test_the_average_policy_has_frozen_parameters_and_buffers_of_the_policy(space_env, tiny):
    model = tiny(space_env(VECTOR, DISCRETE), policy_kwargs={"features_extractor_class": Normalized})
    frozen = model.policy.features_extractor.layers[0]
    with torch.no_grad():
        frozen.weight.add_(1.0)
    frozen.requires_grad_(False)
    model.learn(24)
    theirs = model.average_policy.features_extractor
    assert torch.equal(theirs.layers[0].weight, frozen.weight)
    model.learn(6, reset_num_timesteps=False)
    assert (
        float((theirs.layers[1].running_mean - model.policy.features_extractor.layers[1].running_mean).abs().max())
        < 0.5
    )
    assert int(theirs.layers[1].num_batches_tracked) > 0


def test_a_standard_deviation_that_is_set_reaches_the_average(space_env, tiny):
    model = tiny(space_env(VECTOR, BOX))
    model.policy.log_std.data.fill_(-3.0)
    model.learn(12)
    assert torch.equal(model.average_policy.log_std, model.policy.log_std)


def test_a_standard_deviation_that_is_frozen_later_stays(space_env, tiny):
    model = tiny(space_env(VECTOR, BOX), learn_std=True).learn(12)
    model.policy.log_std.requires_grad_(False)
    before = model.policy.log_std.detach().clone()
    model.learn(24, reset_num_timesteps=False)
    assert torch.equal(model.policy.log_std, before) and not model.policy.log_std.requires_grad


def test_an_exchanged_policy_is_saved_with_an_average_of_its_own(space_env, tiny, tmp_path):
    model = tiny(space_env(VECTOR, DISCRETE)).learn(12)
    model.policy = copy.deepcopy(model.policy)
    with torch.no_grad():
        model.policy.action_net.weight.add_(1.0)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model")
    assert torch.equal(loaded.average_policy.action_net.weight, loaded.policy.action_net.weight)
