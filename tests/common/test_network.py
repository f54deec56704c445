"""Plain chains inside a policy: they say what the policy says, and none is claimed where there is none."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

from sb3_trpo_ext.common.inputs import Inputs
from sb3_trpo_ext.common.network import actor_network, critic_network
from sb3_trpo_ext.kernels.chain import forward
from tests.cases import ACTIONS, POLICIES, identical, make_policy, snapshot

IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
VECTOR = spaces.Box(-1, 1, (3,))
NUMBERS = spaces.Dict(vector=VECTOR, number=spaces.Discrete(4))
OBSERVATIONS = {
    "vector": (ActorCriticPolicy, VECTOR),
    "matrix": (ActorCriticPolicy, spaces.Box(-1, 1, (2, 3))),
    "number": (ActorCriticPolicy, spaces.Discrete(4)),
    "dict": (MultiInputActorCriticPolicy, NUMBERS),
    "image": (ActorCriticCnnPolicy, IMAGE),
}


def policy_of(observation, **settings):
    torch.manual_seed(0)
    kind, space = OBSERVATIONS[observation]
    settings = {"ortho_init": False, "net_arch": [8, 5]} | settings
    return kind(space, ACTIONS["discrete"], lambda _: 1e-3, **settings)


def inputs_of(policy, n=4):
    batch = [policy.observation_space.sample() for _ in range(n)]
    if isinstance(batch[0], dict):
        return Inputs(policy.obs_to_tensor({key: np.stack([one[key] for one in batch]) for key in batch[0]})[0])
    return Inputs(policy.obs_to_tensor(np.stack(batch))[0])


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.ELU])
@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("shared", [True, False])
def test_a_chain_gives_the_policys_logits_and_values(observation, shared, activation):
    policy = policy_of(observation, share_features_extractor=shared, activation_fn=activation)
    inputs = inputs_of(policy)
    actor, critic = actor_network(policy), critic_network(policy, trains_extractor=not shared)
    logits = policy.get_distribution(inputs.observations).distribution.logits
    with torch.no_grad():
        torch.testing.assert_close(forward(actor.layers, actor.inputs(inputs)).log_softmax(dim=1), logits)
        values = forward(critic.layers, critic.inputs(inputs))
    torch.testing.assert_close(values, policy.predict_values(inputs.observations))
    assert not actor.inputs(inputs).requires_grad


@pytest.mark.parametrize("shared", [True, False])
def test_a_chain_holds_the_policys_own_parameters(shared):
    """The actor's begins in the extractor of images, the critic's only where that is its own."""
    policy = policy_of("image", share_features_extractor=shared)
    actor, critic = actor_network(policy), critic_network(policy, trains_extractor=not shared)
    convolutions = list(policy.pi_features_extractor.parameters())
    expected = [*convolutions, *policy.mlp_extractor.policy_net.parameters(), *policy.action_net.parameters()]
    assert list(map(id, actor.parameters)) == list(map(id, expected))
    head = [*policy.mlp_extractor.value_net.parameters(), *policy.value_net.parameters()]
    own = [] if shared else list(policy.vf_features_extractor.parameters())
    assert list(map(id, critic.parameters)) == list(map(id, [*own, *head]))
    assert (actor.from_pixels, critic.from_pixels) == (True, not shared)


@pytest.mark.parametrize("name", POLICIES)
def test_gsde_has_no_plain_actor_and_every_critic_is_plain(name):
    policy = make_policy(name)
    assert (actor_network(policy) is None) == name.startswith("gsde")
    assert critic_network(policy, trains_extractor=True) is not None


def test_looking_for_a_chain_changes_nothing():
    policy = policy_of("image")
    before, random_state = snapshot(policy), torch.get_rng_state()
    actor_network(policy)
    critic_network(policy, trains_extractor=False)
    assert identical(snapshot(policy), before) and torch.equal(torch.get_rng_state(), random_state)


class OwnDistribution(ActorCriticPolicy):
    def get_distribution(self, obs):
        return super().get_distribution(obs)


class OwnLatent(ActorCriticPolicy):
    def _get_action_dist_from_latent(self, latent_pi):
        return super()._get_action_dist_from_latent(2 * latent_pi)


class OwnValues(ActorCriticPolicy):
    def predict_values(self, obs):
        return 2 * super().predict_values(obs)


class OwnFeatures(ActorCriticPolicy):
    def extract_features(self, obs, features_extractor=None):
        return 2 * BasePolicy.extract_features(self, obs, features_extractor or self.features_extractor)


class OwnExtractor(FlattenExtractor):
    def forward(self, observations):
        return 2 * super().forward(observations)


class OwnMlp(ActorCriticPolicy):
    def _build_mlp_extractor(self):
        super()._build_mlp_extractor()
        self.mlp_extractor = type("Doubled", (type(self.mlp_extractor),), {})(self.features_dim, [4], nn.Tanh)


def built(kind, **settings):
    return kind(VECTOR, ACTIONS["box"], lambda _: 1e-3, **settings)


# Policy → whether actor and critic are plain chains.
OTHERS = {
    "distribution": (lambda: built(OwnDistribution), (False, True)),
    "latent": (lambda: built(OwnLatent), (False, True)),
    "values": (lambda: built(OwnValues), (True, False)),
    "features": (lambda: built(OwnFeatures), (False, False)),
    "extractor": (lambda: built(ActorCriticPolicy, features_extractor_class=OwnExtractor), (False, False)),
    "mlp": (lambda: built(OwnMlp), (False, False)),
    "activation": (lambda: built(ActorCriticPolicy, activation_fn=nn.PReLU), (False, False)),
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_a_policy_does_in_a_way_of_its_own_is_no_plain_chain(other):
    make, expected = OTHERS[other]
    policy = make()
    assert (actor_network(policy) is not None, critic_network(policy, True) is not None) == expected


def test_a_dictionary_with_an_image_has_a_network_of_its_own():
    space = spaces.Dict(vector=VECTOR, picture=IMAGE)
    policy = MultiInputActorCriticPolicy(space, ACTIONS["box"], lambda _: 1e-3)
    assert actor_network(policy) is None and critic_network(policy, False) is None


@pytest.mark.parametrize(
    ("frozen", "expected"),
    [
        ("action_net.bias", (False, True)),
        ("value_net.weight", (True, False)),
        ("log_std", (True, True)),
    ],
)
def test_a_chain_with_something_frozen_is_not_plain(frozen, expected):
    policy = make_policy("box")
    policy.get_parameter(frozen).requires_grad_(False)
    assert (actor_network(policy) is not None, critic_network(policy, True) is not None) == expected


def test_features_have_the_precision_of_the_layers():
    policy = policy_of("vector").double()
    network = actor_network(policy)
    assert network.inputs(inputs_of(policy)).dtype == torch.float64
