"""What chooses actions during a rollout."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from sb3_trpo_ext.common.sampler import ArraySampler, PolicySampler, sampler_of

VECTOR = spaces.Box(-1, 1, (3,))
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
BOX = spaces.Box(-1, 1, (2,))
SETTINGS = {
    "relu": {"policy_kwargs": {"activation_fn": nn.ReLU}},
    "elu": {"policy_kwargs": {"activation_fn": nn.ELU}},
    "gsde": {"use_sde": True},
}


@pytest.mark.parametrize(
    ("policy", "observations", "settings", "kind"),
    [
        ("MlpPolicy", VECTOR, {}, ArraySampler),
        ("MlpPolicy", VECTOR, SETTINGS["relu"], ArraySampler),
        ("MlpPolicy", VECTOR, SETTINGS["elu"], PolicySampler),
        ("MlpPolicy", VECTOR, SETTINGS["gsde"], PolicySampler),
        ("MlpPolicy", spaces.Discrete(4), {}, PolicySampler),
        ("CnnPolicy", IMAGE, {}, PolicySampler),
    ],
)
def test_which_sampler_is_chosen(policy, observations, settings, kind, space_env, tiny):
    actor = tiny(space_env(observations, BOX), policy, **settings).actor
    assert type(sampler_of(actor.policy, actor.network, 1)) is kind


def test_a_sampler_is_a_snapshot(space_env, tiny):
    """It keeps sampling as it did when the parameters change under it."""
    model = tiny(space_env(VECTOR, BOX))
    sampler = sampler_of(model.policy, model.actor.network, 1)
    observations = np.ones((1, 3), np.float32)
    torch.manual_seed(0)
    before = sampler(observations)
    with torch.no_grad():
        for parameter in model.actor.parameters:
            parameter.add_(1.0)
    torch.manual_seed(0)
    np.testing.assert_array_equal(sampler(observations), before)
