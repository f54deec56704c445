"""What docs/guide/saving.md says of a file: its rows "What is not saved", but for those of wrappers and callbacks."""

import pytest
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from torch import nn

from sb3_trpo_ext import ACER, TRPO, RecurrentTRPO
from tests.conftest import SpaceEnv


class Twice(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.fixture
def trained(make_env, tiny):
    def train(steps=16, **settings):
        return tiny(make_env(), **settings).learn(steps)

    return train


@pytest.fixture
def again(tmp_path):
    def save_and_load(model, **settings):
        model.save(tmp_path / "model")
        return type(model).load(tmp_path / "model", **settings)

    return save_and_load


def test_the_environment(trained, again, make_env):
    loaded = again(trained())
    assert loaded.get_env() is None and loaded.predict(make_env().reset()[0])[0].shape == (2,)
    with pytest.raises(ValueError, match=r"TRPO.learn\(\) needs an environment.*set_env"):
        loaded.learn(16)


def test_episodes_under_way(trained, again, make_env):
    model = trained()
    assert model._last_obs is not None
    loaded = again(model, env=make_env())
    assert loaded._last_obs is None


def test_what_was_collected(trained, again):
    model = trained(48, rollouts_per_update=3)
    assert len(model._earlier) == 2 and len(again(model)._earlier) == 0


def test_acers_replay_buffer(again):
    model = ACER("MlpPolicy", "CartPole-v1", replay_start=20).learn(40)
    loaded = again(model)
    assert len(model.replay_buffer) == 40 and len(loaded.replay_buffer) == 0
    assert all(map(torch.equal, model.average_policy.parameters(), loaded.average_policy.parameters()))


@pytest.mark.parametrize("seed", [0, None])
def test_random_generators(seed, trained, again):
    model = trained(seed=seed)
    drawn = []
    for before in (7, 8):
        torch.manual_seed(before)
        again(model)
        drawn.append(float(torch.rand(())))
    assert (drawn[0] == drawn[1]) == (seed is not None)


def test_how_far_the_target_kl_has_fallen(trained):
    model = trained(64)
    assert model.logger.name_to_value["train/target_kl"] == pytest.approx(0.04 / 4)
    model.learn(16, reset_num_timesteps=False)
    assert model.logger.name_to_value["train/target_kl"] == pytest.approx(0.04)


def test_a_schedule_goes_on_where_earlier_calls_ended(trained):
    model = trained(32, target_kl="lin_0.04")
    seen = []

    def note(locals_, _):
        seen.append(locals_["self"].logger.name_to_value.get("train/target_kl"))
        return True

    model.learn(32, callback=note, reset_num_timesteps=False)
    assert seen[-1] == pytest.approx(0.04 * 16 / 64)
    assert model.logger.name_to_value["train/target_kl"] == 0
    assert model.logger.name_to_value["train/update_status"] == 4


def test_statistics_that_were_stopped_frozen_parameters_and_hooks(trained, again):
    model = trained()
    model.policy.normalizer.moves = False
    model.policy.action_net.requires_grad_(False)
    model.policy.action_net.register_forward_hook(lambda *_: None)
    loaded = again(model)
    assert loaded.policy.normalizer.moves and loaded.policy.normalizer.knows_anything()
    assert loaded.policy.action_net.weight.requires_grad and not loaded.policy.action_net._forward_hooks


def test_exchanged_modules(trained, again):
    model = trained()
    other = Twice(model.policy.action_net.in_features, 2)
    model.policy.action_net = other
    loaded = again(model)
    assert type(loaded.policy.action_net) is nn.Linear and torch.equal(loaded.policy.action_net.weight, other.weight)
    model.policy.action_net = nn.Sequential(other)
    with pytest.raises(RuntimeError, match="action_net"):
        again(model)


def test_logger(trained, again, tmp_path):
    model = trained()
    model.set_logger(configure(str(tmp_path), ["csv"]))
    assert model._custom_logger and not again(model)._custom_logger


def test_the_number_of_environments_may_be_another(trained, again):
    env = make_vec_env(lambda: SpaceEnv(trained().observation_space, trained().action_space), n_envs=2)
    loaded = again(trained(), env=env)
    assert loaded.learn(32, reset_num_timesteps=False).num_timesteps == 48


def test_what_is_saved(trained, again):
    model = trained(32, critic="adam", batch_size=16)
    model._damping_factor = 4.0
    loaded = again(model)
    assert loaded._damping_factor == 4 and loaded._n_updates == 2 and len(loaded.ep_info_buffer) == 3
    assert loaded.policy.optimizer.state_dict()["state"].keys() == model.policy.optimizer.state_dict()["state"].keys()


def test_trpo_alone_has_its_file(trained, tmp_path):
    trained().save(tmp_path / "model")
    with pytest.raises(ValueError, match="another algorithm"):
        ACER.load(tmp_path / "model")
    assert isinstance(TRPO.load(tmp_path / "model"), TRPO)


def test_what_is_remembered_of_episodes_under_way(again):
    model = RecurrentTRPO("MlpLstmPolicy", "CartPole-v1", n_steps=16).learn(16)
    assert float(model._memory.present.pi[0].abs().max()) > 0
    loaded = again(model, env=model.get_env()).learn(16)
    assert float(loaded._memory.first.pi[0].abs().max()) == 0
