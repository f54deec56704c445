"""The actor's view of a policy: which parameters it finds, and the distributions it reads off."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_trpo_ext.common.inputs import Inputs
from tests.cases import (
    ACTIONS,
    OBSERVATION,
    POLICIES,
    StatisticsOf,
    by_hand,
    gradient,
    identical,
    make_actor,
    make_policy,
    reference_entropy,
    reference_kl,
    snapshot,
    torch_reference,
)

VECTOR = spaces.Box(-np.inf, np.inf, (OBSERVATION,))
IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
DICT = spaces.Dict({"image": IMAGE, "vector": VECTOR, "choice": spaces.Discrete(3)})


each_policy = pytest.mark.parametrize("name", POLICIES.keys())
each_way = pytest.mark.parametrize("fast", [True, False], ids=["by hand", "autograd"])


def names(policy, parameters):
    found = {id(parameter) for parameter in parameters}
    return {name for name, parameter in policy.named_parameters() if id(parameter) in found}


class MisleadingNames(nn.Module):
    """Two networks whose names say the opposite of what they do."""

    def __init__(self, width):
        super().__init__()
        self.latent_dim_pi = self.latent_dim_vf = 4
        self.value_net_of_nothing = nn.Linear(width, 4)
        self.policy_like = nn.Linear(width, 4)

    def forward(self, features):
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features):
        return torch.tanh(self.value_net_of_nothing(features))

    def forward_critic(self, features):
        return torch.tanh(self.policy_like(features))


class MisleadingPolicy(ActorCriticPolicy):
    """Every parameter of the actor has "value" in its name and none of the critic's has."""

    def _build_mlp_extractor(self):
        self.mlp_extractor = MisleadingNames(self.features_dim)

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        self.value_of_actions, self.score = self.action_net, self.value_net
        del self.action_net, self.value_net

    def _get_action_dist_from_latent(self, latent_pi, latent_sde=None):
        return self.action_dist.proba_distribution(action_logits=self.value_of_actions(latent_pi))

    def predict_values(self, obs):
        return self.score(self.mlp_extractor.forward_critic(self.extract_features(obs, self.vf_features_extractor)))


class Encoder(BaseFeaturesExtractor):
    """A features extractor with parameters, batch statistics and dropout."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 5)
        self.layers = nn.Sequential(nn.Linear(OBSERVATION, 5), nn.BatchNorm1d(5), nn.Dropout(0.5))

    def forward(self, observations):
        return self.layers(observations)


ACTOR_OF_MLP = {
    "mlp_extractor.policy_net.0.weight",
    "mlp_extractor.policy_net.0.bias",
    "action_net.weight",
    "action_net.bias",
}


@each_policy
def test_parameters_of_standard_policies(name):
    policy = make_policy(name)
    actor = make_actor(policy)
    assert names(policy, actor.parameters) == ACTOR_OF_MLP | ({"log_std"} if hasattr(policy, "log_std") else set())
    assert names(policy, actor.critic_parameters()) == {
        "mlp_extractor.value_net.0.weight",
        "mlp_extractor.value_net.0.bias",
        "value_net.weight",
        "value_net.bias",
    }
    assert actor.shared_parameters() == []


@each_policy
@each_way
def test_which_actors_are_differentiated_by_hand(name, fast):
    assert (make_actor(make_policy(name), fast).network is not None) == (fast and by_hand(name))


def test_parameters_are_found_whatever_they_are_called():
    policy = MisleadingPolicy(VECTOR, ACTIONS["discrete"], lambda _: 1e-3)
    actor = make_actor(policy)
    assert {name.split(".")[-2] for name in names(policy, actor.parameters)} == {
        "value_net_of_nothing",
        "value_of_actions",
    }
    assert {name.split(".")[-2] for name in names(policy, actor.critic_parameters())} == {"policy_like", "score"}


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize(
    "policy_class, space", [(ActorCriticCnnPolicy, IMAGE), (MultiInputActorCriticPolicy, DICT)], ids=["image", "dict"]
)
def test_extractors_shared_and_separate(policy_class, space, share):
    policy = policy_class(space, ACTIONS["box"], lambda _: 1e-3, share_features_extractor=share)
    actor = make_actor(policy)
    own, critic, shared = (
        names(policy, parameters)
        for parameters in (actor.parameters, actor.critic_parameters(), actor.shared_parameters())
    )
    assert not own & critic
    assert own | critic == {name for name, _ in policy.named_parameters()}
    extractor = {name for name, _ in policy.named_parameters() if "features_extractor" in name}
    assert extractor
    if share:
        assert shared == extractor
        assert extractor <= own
    else:
        assert shared == set()
        assert any(name in own for name in extractor) and any(name in critic for name in extractor)


@pytest.mark.parametrize("frozen", ["log_std", "mlp_extractor.policy_net.0.weight", "action_net.bias"])
@each_way
def test_frozen_parameters_do_not_belong_to_the_actor(frozen, fast):
    policy = make_policy("box", precise=True, net_arch=[4, 4])
    policy.get_parameter(frozen).requires_grad_(False)
    actor, observations = make_actor(policy, fast), torch.randn(5, OBSERVATION)
    found = names(policy, actor.parameters)
    assert frozen not in found
    assert len(found) == 7 - 1
    linearization = actor.linearize(Inputs(observations)).linearization
    cotangent = [torch.randn_like(tensor) for tensor in linearization.value]
    value = sum((a * b).sum() for a, b in zip(StatisticsOf(policy)(observations), cotangent, strict=True))
    torch.testing.assert_close(linearization.vjp(cotangent), gradient(value, actor.parameters))


def test_tracing_leaves_the_policy_as_it_was():
    policy = make_policy("box", features_extractor_class=Encoder)
    policy.set_training_mode(False)
    before, random_state = snapshot(policy), torch.get_rng_state()
    make_actor(policy).shared_parameters()
    assert identical(snapshot(policy), before)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in policy.parameters())


@each_policy
@each_way
def test_family_is_the_distribution_of_the_policy(name, fast):
    policy = make_policy(name, precise=True)
    one, other = torch.randn(5, OBSERVATION), torch.randn(5, OBSERVATION)
    actor = make_actor(policy, fast)
    family, new = actor.family(Inputs(one)), actor.family(Inputs(other))
    reference, new_reference = torch_reference(policy, one), torch_reference(policy, other)
    torch.testing.assert_close(family.entropy(), reference_entropy(reference))
    torch.testing.assert_close(family.kl(new), reference_kl(reference, new_reference))
    assert not any(tensor.requires_grad for tensor in family.statistics)
    linearized, linearization = actor.linearize(Inputs(one))
    assert not any(tensor.requires_grad for tensor in (*linearized.statistics, *linearization.value))
    for a, b, c in zip(family.statistics, linearized.statistics, linearization.value, strict=True):
        assert torch.equal(a, b) and torch.equal(b, c)


@pytest.mark.parametrize("method", ["family", "linearize"])
@each_policy
@each_way
def test_families_survive_later_calls_and_writes(name, method, fast):
    policy = make_policy(name)
    observations = torch.randn(5, OBSERVATION)
    made = getattr(make_actor(policy, fast), method)(Inputs(observations))
    family = made if method == "family" else made.family
    before = snapshot(family.statistics)
    policy.get_distribution(torch.randn(5, OBSERVATION))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(1)
    policy.get_distribution(observations)
    assert identical(family.statistics, before)


@each_policy
@each_way
def test_order_of_theta_is_that_of_the_parameters(name, fast):
    """The linearization's columns and the parameters must be the same numbers in the same order."""
    policy = make_policy(name, precise=True)
    policy.action_dist.learn_features = True  # gSDE hides from autograd that its std depends on the features
    observations = torch.randn(3, OBSERVATION)
    actor = make_actor(policy, fast)
    linearization = actor.linearize(Inputs(observations)).linearization
    pieces = [torch.randn_like(parameter) for parameter in actor.parameters]
    slope = torch.cat(linearization.jvp(torch.cat([piece.flatten() for piece in pieces])), dim=1)

    def moved(size):
        with torch.no_grad():
            for parameter, piece in zip(actor.parameters, pieces, strict=True):
                parameter.add_(size * piece)
            return torch.cat(actor.family(Inputs(observations)).statistics, dim=1)

    ahead = moved(1e-6)
    behind = moved(-2e-6)
    torch.testing.assert_close(slope, (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-7)


@each_policy
@each_way
def test_broken_parameters_are_a_result_not_an_exception(name, fast):
    policy = make_policy(name)
    actor = make_actor(policy, fast)
    validate = torch.distributions.Distribution._validate_args
    with torch.no_grad():
        actor.parameters[0].fill_(torch.nan)
    family = actor.family(Inputs(torch.randn(2, OBSERVATION)))
    assert bool(family.kl(family).isnan().any())
    assert torch.distributions.Distribution._validate_args == validate, "the checks of torch must be put back"
