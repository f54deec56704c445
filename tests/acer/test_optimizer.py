"""Which optimizer is made, and what of a saved one's state comes back."""

import pytest
import torch

from sb3_trpo_ext import ACER
from tests.acer.cases import DISCRETE, VECTOR


@pytest.mark.parametrize("rms_prop", [True, False])
def test_which_optimizer_it_is(rms_prop, space_env, tiny):
    settings = {"use_rms_prop": rms_prop, "learning_rate": 0.25, "rms_prop_eps": 0.125}
    model = tiny(space_env(VECTOR, DISCRETE), **settings)
    (group,) = model.policy.optimizer.param_groups
    assert type(model.policy.optimizer) is (torch.optim.RMSprop if rms_prop else torch.optim.Adam)
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
    model = tiny(env).learn(12)
    model.save(tmp_path / "model")
    other = tiny(env, seed=1)
    other.set_parameters(tmp_path / "model", device="cpu")
    assert bits(other.get_parameters()) == bits(model.get_parameters())
    loaded = ACER.load(tmp_path / "model", env=env, device="cpu", rms_prop_eps=0.25)
    assert loaded.policy.optimizer.param_groups[0]["eps"] == 0.25 and loaded.policy.optimizer.state
