"""A policy that can be asked with masks, and is SB3's where it is asked without."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_trpo_ext.common.network import has_sb3s
from sb3_trpo_ext.trpo import MaskableCnnPolicy, MaskableMlpPolicy, MaskableMultiInputPolicy
from tests.trpo.masked_cases import ACTIONS, sizes

VECTOR, IMAGE = spaces.Box(-1, 1, (4,)), spaces.Box(0, 255, (3, 36, 36), np.uint8)
POLICIES = {
    "mlp": (MaskableMlpPolicy, VECTOR),
    "cnn": (MaskableCnnPolicy, IMAGE),
    "dict": (MaskableMultiInputPolicy, spaces.Dict(vector=VECTOR, image=IMAGE)),
}
each_policy = pytest.mark.parametrize("kind", POLICIES)
each_action = pytest.mark.parametrize("action", ACTIONS)


def make(kind, action):
    policy_class, space = POLICIES[kind]
    torch.manual_seed(0)
    policy = policy_class(space, ACTIONS[action], lambda _: 1e-3, last_layer_gain=1.0)
    policy.set_training_mode(False)
    space.seed(0)
    batch = [space.sample() for _ in range(6)]
    stacked = {key: np.stack([one[key] for one in batch]) for key in batch[0]} if kind == "dict" else np.stack(batch)
    return policy, policy.obs_to_tensor(stacked)[0]


def some_masks(action):
    """The first option of each choice is forbidden, and the last is allowed."""
    masks = np.random.default_rng(0).random((6, sum(sizes(ACTIONS[action])))) < 0.7
    ends = np.cumsum(sizes(ACTIONS[action]))
    masks[:, ends - 1], masks[:, ends - sizes(ACTIONS[action])] = True, False
    return masks


def firsts(action, actions):
    return np.any(np.asarray(actions).reshape(6, -1) == 0)


@each_policy
@each_action
@pytest.mark.parametrize("form", [np.asarray, torch.as_tensor, lambda masks: masks.tolist()])
def test_all_ways_to_ask_agree_and_keep_to_the_masks(kind, action, form):
    policy, obs = make(kind, action)
    masks = form(some_masks(action))
    distribution = policy.get_distribution(obs, action_masks=masks)
    for _ in range(20):
        assert not firsts(action, distribution.sample())
    torch.manual_seed(1)
    actions, values, log_prob = policy(obs, action_masks=masks)
    assert not firsts(action, actions)
    again = policy.evaluate_actions(obs, actions, action_masks=masks)
    torch.testing.assert_close((again[0], again[1]), (values, log_prob))
    torch.testing.assert_close(again[2], distribution.entropy())
    torch.testing.assert_close(values, policy.predict_values(obs))
    deterministic = policy(obs, deterministic=True, action_masks=masks)[0]
    torch.testing.assert_close(deterministic, distribution.mode().reshape(deterministic.shape))


@each_policy
@each_action
def test_asked_without_masks_it_is_sb3s(kind, action):
    policy, obs = make(kind, action)
    for method in ("get_distribution", "forward", "evaluate_actions", "predict_values"):
        assert has_sb3s(policy, method)
    torch.manual_seed(1)
    actions, values, log_prob = policy(obs)
    torch.manual_seed(1)
    expected = ActorCriticPolicy.forward(policy, obs)
    torch.testing.assert_close((actions, values, log_prob), expected)
    torch.testing.assert_close(
        policy.evaluate_actions(obs, actions), ActorCriticPolicy.evaluate_actions(policy, obs, actions)
    )


def test_a_method_of_a_users_own_is_not_taken_for_sb3s():
    class Own(MaskableMlpPolicy):
        def get_distribution(self, obs, action_masks=None):
            return super().get_distribution(obs, action_masks)

    policy = Own(VECTOR, ACTIONS["discrete"], lambda _: 1e-3)
    assert not has_sb3s(policy, "get_distribution") and has_sb3s(policy, "forward")
