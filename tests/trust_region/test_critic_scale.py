"""The critic's fit in a trust region under any scale and offset of the returns."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_trpo_ext.trust_region.value_function import ValueFunction
from tests.cases import OBSERVATION, make_actor, make_policy


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
    assert torch.equal(critic.units(1e-3), torch.ones(sum(part.numel() for part in critic.parameters)))
