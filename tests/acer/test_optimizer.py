"""Which optimizer is made, and what of a saved one's state comes back."""

import pytest
import torch

from sb3_trpo_ext import ACER
from sb3_trpo_ext.acer.batch import as_sequence_batch
from sb3_trpo_ext.acer.optimizer import RMSprop
from tests.acer.cases import DISCRETE, IMAGE, VECTOR


def test_the_default_is_adam(space_env, tiny):
    assert type(tiny(space_env(VECTOR, DISCRETE)).policy.optimizer) is torch.optim.Adam


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.5}, {"centered": True}, {"momentum": 0.5, "centered": True}])
def test_the_first_step_of_rms_prop_is_the_learning_rate(settings):
    """Times the gradient by its own size; PyTorch's is ten times that. Also of a weight that joins in later."""
    first, later = (torch.nn.Parameter(torch.zeros(3, dtype=torch.float64)) for _ in range(2))
    optimizer = RMSprop([first, later], lr=0.1, alpha=0.99, eps=1e-12, **settings)
    first.grad = torch.tensor([1e-3, 5.0, -2.0], dtype=torch.float64)
    optimizer.step()
    sign = torch.tensor([-0.1, -0.1, 0.1], dtype=torch.float64)
    torch.testing.assert_close(first.detach(), sign, rtol=1e-3, atol=0)
    assert not later.any()
    first.grad, later.grad = None, first.grad
    optimizer.step()
    torch.testing.assert_close(later.detach(), sign, rtol=1e-3, atol=0)


def test_the_following_steps_of_rms_prop_are_its_definition():
    parameter = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer, average, expected = RMSprop([parameter], lr=0.1, alpha=0.9, eps=1e-3), None, torch.ones(2).double()
    for gradient in torch.randn(5, 2, dtype=torch.float64):
        parameter.grad = gradient
        optimizer.step()
        average = gradient**2 if average is None else 0.9 * average + 0.1 * gradient**2
        expected = expected - 0.1 * gradient / (average.sqrt() + 1e-3)
        torch.testing.assert_close(parameter.detach(), expected)


@pytest.mark.parametrize("rms_prop", [True, False])
@pytest.mark.parametrize("policy, space", [("MlpPolicy", VECTOR), ("CnnPolicy", IMAGE)], ids=["vector", "image"])
def test_the_first_update_moves_the_policy_no_further_than_later_ones(policy, space, rms_prop, space_env, tiny):
    """With networks of the usual size, whose many weights all move by the first step at once."""
    env, kl = space_env(space, DISCRETE), []
    settings = {"policy_kwargs": {"normalize_observations": False} if policy == "MlpPolicy" else {}}
    model = ACER(policy, env, n_steps=32, replay_ratio=0, use_rms_prop=rms_prop, seed=0, device="cpu", **settings)

    def family():
        with torch.no_grad():
            return model.policy.family(as_sequence_batch(model._rollout().seen, model.policy).states)

    improve = model._improve

    def noting(rollout):
        before = family()
        found = improve(rollout)
        kl.append(float(before.kl(family()).mean()))
        return found

    model._improve = noting
    model.learn(32 * 12)
    assert kl[0] < 0.05 and kl[0] < 10 * sorted(kl[1:])[5], kl


@pytest.mark.parametrize("rms_prop", [True, False])
def test_which_optimizer_it_is(rms_prop, space_env, tiny):
    settings = {"use_rms_prop": rms_prop, "learning_rate": 0.25, "rms_prop_eps": 0.125}
    model = tiny(space_env(VECTOR, DISCRETE), **settings)
    (group,) = model.policy.optimizer.param_groups
    assert type(model.policy.optimizer) is (RMSprop if rms_prop else torch.optim.Adam)
    assert (group["lr"], group["eps"]) == (0.25, 0.125 if rms_prop else 1e-5)
    assert group["alpha"] == 0.99 if rms_prop else group["fused"]
    assert list(map(id, group["params"])) == list(map(id, model.policy.parameters()))


@pytest.mark.parametrize("rms_prop", [True, False])
def test_the_optimizers_settings_can_be_given(rms_prop, space_env, tiny, tmp_path):
    env, given = space_env(VECTOR, DISCRETE), {"optimizer_kwargs": {"weight_decay": 0.1, "eps": 1e-3}}
    tiny(env, use_rms_prop=rms_prop, policy_kwargs=given).learn(12).save(tmp_path / "model")
    for model in (tiny(env, use_rms_prop=rms_prop, policy_kwargs=given), ACER.load(tmp_path / "model", env=env)):
        group = model.policy.optimizer.param_groups[0]
        assert (group["weight_decay"], group["eps"]) == (0.1, 1e-3)


@pytest.mark.parametrize("rms_prop", [True, False])
def test_loading_with_the_other_optimizer_starts_it_afresh(rms_prop, space_env, tiny, tmp_path, bits):
    env = space_env(VECTOR, DISCRETE)
    model = tiny(env, use_rms_prop=rms_prop).learn(12)
    model.save(tmp_path / "model")
    with pytest.warns(UserWarning, match="optimizer starts afresh"):
        loaded = ACER.load(tmp_path / "model", env=env, device="cpu", use_rms_prop=not rms_prop)
    assert bits(loaded.policy.state_dict()) == bits(model.policy.state_dict())
    assert not loaded.policy.optimizer.state and type(loaded.policy.optimizer) is not type(model.policy.optimizer)
    loaded.learn(12, reset_num_timesteps=False)
    loaded.save(tmp_path / "again")
    again = ACER.load(tmp_path / "again", env=env, device="cpu")
    assert again.policy.optimizer.state and type(again.policy.optimizer) is type(loaded.policy.optimizer)


def test_parameters_from_a_file_and_a_new_epsilon(space_env, tiny, tmp_path, bits):
    env = space_env(VECTOR, DISCRETE)
    model = tiny(env, use_rms_prop=True).learn(12)
    model.save(tmp_path / "model")
    other = tiny(env, use_rms_prop=True, seed=1)
    other.set_parameters(tmp_path / "model", device="cpu")
    assert bits(other.get_parameters()) == bits(model.get_parameters())
    loaded = ACER.load(tmp_path / "model", env=env, device="cpu", rms_prop_eps=0.25)
    assert loaded.policy.optimizer.param_groups[0]["eps"] == 0.25 and loaded.policy.optimizer.state
