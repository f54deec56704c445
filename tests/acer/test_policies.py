"""The policies alone."""

import torch

from tests.acer.cases import ACTIONS, VECTOR


def test_policies_save_and_load_alone(space_env, tiny, tmp_path, bits):
    model = tiny(space_env(VECTOR, ACTIONS["box"])).learn(12)
    model.policy.save(tmp_path / "policy.pth")
    loaded = type(model.policy).load(tmp_path / "policy.pth")
    assert bits(loaded.state_dict()) == bits(model.policy.state_dict())


def test_the_policy_answers_what_sb3s_policies_answer(space_env, tiny):
    for action in ACTIONS:
        policy = tiny(space_env(VECTOR, ACTIONS[action])).policy
        actions, values, log_prob = policy(torch.zeros(5, 3))
        assert values.shape == (5, 1) and log_prob.shape == (5,)
        again, likelihood, entropy = policy.evaluate_actions(
            torch.zeros(5, 3), actions.flatten(1) if action != "discrete" else actions
        )
        torch.testing.assert_close(again, values)
        torch.testing.assert_close(likelihood, log_prob)
        assert entropy.shape == (5,)
