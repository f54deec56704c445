"""The way back through the networks: by hand and by autograd the same, and which of the two is taken."""

import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_trpo_ext.acer.networks import Cotangents, GraphNetworks, PlainNetworks, networks_of
from sb3_trpo_ext.acer.policies import MlpPolicy
from sb3_trpo_ext.common.distributions import plain_distribution
from tests.acer.cases import ACTIONS, IMAGE, VECTOR

N, ALL, K = 5, 8, 3  # states that the loss depends on, all states, actions in each
CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # in the float32 to which SB3 casts observations
SHAPES = {
    "tanh": {"net_arch": [7, 6]},
    "relu": {"activation_fn": nn.ReLU, "net_arch": {"pi": [5], "vf": [6, 4]}},
    "linear": {"net_arch": []},
    "normalised": {"net_arch": [6], "normalize_observations": True},
    "two extractors": {"net_arch": [6], "share_features_extractor": False},
}


def policies(space, learns_std=True, **settings):
    """A policy and another one as its average, with the same statistics."""
    policy, average = (MlpPolicy(VECTOR, space, lambda _: 1e-3, **settings) for _ in range(2))
    if policy.normalizer is not None:
        for each in (policy, average):
            each.normalizer.take_in(torch.arange(12.0).view(4, 3))
    if isinstance(space, spaces.Box):
        policy.log_std.requires_grad_(learns_std)
    policy.set_training_mode(False)
    average.set_training_mode(False)
    return policy, average.requires_grad_(False)


def run(networks, learns_std=True):
    """All that a pass says, and the gradients for random cotangents."""
    torch.manual_seed(3)
    observations, space = torch.randn(ALL, 3), networks.policy.action_space
    for parameter in networks.policy.parameters():
        parameter.grad = None
    with torch.no_grad():
        found = networks.run(observations)
        family, head, latent = found.evaluation
        said = [*family.statistics, head, latent, found.evaluation.values, *found.centre(N).statistics]
        rated = None
        if isinstance(space, spaces.Box):
            said.append(found.advantages(torch.randn(K, N, int(torch.tensor(space.shape).prod()))))
            rated = torch.randn(K, N)
        parts = family.statistics if learns_std else family.statistics[:1]
        at = [torch.randn(part[:N].shape) for part in parts]
        vector = found.write_gradients(Cotangents(at, torch.randn(head[:N].shape), rated))
    written = [parameter.grad for parameter in networks.policy.parameters() if parameter.grad is not None]
    if vector is not None:
        assert float(vector.norm()) == pytest.approx(
            float(torch.cat([part.flatten() for part in written]).norm()), rel=1e-5
        )
        vector *= 2
        torch._foreach_mul_(written, 0.5)  # the same memory
    gradients = {n: None if p.grad is None else p.grad.clone() for n, p in networks.policy.named_parameters()}
    assert not any(part.requires_grad for part in said)
    return said, gradients


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("learns_std", [True, False])
@pytest.mark.parametrize("action", ACTIONS)
def test_by_hand_as_by_autograd(action, learns_std, shape):
    policy, average = policies(ACTIONS[action], learns_std, **SHAPES[shape])
    plain = networks_of(policy, average)
    assert type(plain) is PlainNetworks
    said, gradients = run(plain, learns_std)
    expected, of_autograd = run(GraphNetworks(policy, average), learns_std)
    torch.testing.assert_close(said, expected, **CLOSE)
    for name, gradient in of_autograd.items():
        torch.testing.assert_close(gradients[name], gradient, **CLOSE, msg=name)
    again = run(plain, learns_std)[1]
    assert all(torch.equal(again[name], gradient) for name, gradient in gradients.items() if gradient is not None)


def test_gradients_are_those_of_the_loss(space_env):
    """One number by autograd, through the policy's own methods."""
    policy, average = policies(ACTIONS["discrete"], net_arch=[6])
    _, gradients = run(networks_of(policy, average))
    torch.manual_seed(3)
    observations = torch.randn(ALL, 3)
    weights, at_head = (torch.randn(N, 3) for _ in range(2))
    now = policy.evaluate(observations)
    loss = (now.family.logits[:N] * weights).sum() + (now.head[:N] * at_head).sum()
    for (name, parameter), gradient in zip(
        policy.named_parameters(), torch.autograd.grad(loss, list(policy.parameters())), strict=True
    ):
        torch.testing.assert_close(gradients[name], gradient, **CLOSE, msg=name)
        assert parameter.grad is not None


class Odd(MlpPolicy):
    def evaluate(self, observations):
        return super().evaluate(observations)


class Extractor(BaseFeaturesExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space, 4)
        self.layer = nn.Linear(3, 4)

    def forward(self, observations):
        return self.layer(observations).tanh()


def test_what_is_not_plain_is_left_to_autograd():
    box = ACTIONS["box"]
    plain = {"net_arch": [6]}
    assert type(networks_of(*policies(box, **plain))) is PlainNetworks
    policy, average = policies(box, **plain, features_extractor_class=Extractor)
    assert type(networks_of(policy, average)) is GraphNetworks
    assert type(networks_of(*policies(box, net_arch=[6], activation_fn=nn.Softplus))) is GraphNetworks
    policy, average = policies(box, **plain)
    policy.value_net.bias.requires_grad_(False)
    assert type(networks_of(policy, average)) is GraphNetworks
    assert run(networks_of(policy, average))[1]["value_net.bias"] is None
    policy, average = policies(box, **plain)
    policy.advantage_net.register_forward_hook(lambda module, inputs, output: 2 * output)
    assert type(networks_of(policy, average)) is GraphNetworks
    odd = Odd(VECTOR, box, lambda _: 1e-3, **plain)
    assert type(networks_of(odd, odd)) is GraphNetworks


def test_a_frozen_actor_leaves_the_critic_to_learn():
    policy, average = policies(ACTIONS["discrete"], net_arch=[6])
    for parameter in (*policy.mlp_extractor.policy_net.parameters(), *policy.action_net.parameters()):
        parameter.requires_grad_(False)
    gradients = run(networks_of(policy, average))[1]
    assert gradients["action_net.weight"] is None and gradients["value_net.weight"].any()


def test_images_are_left_to_autograd(space_env, tiny):
    model = tiny(space_env(IMAGE, ACTIONS["discrete"]), "CnnPolicy")
    assert type(model._learner.networks) is GraphNetworks
    assert plain_distribution(model.policy) is not None
