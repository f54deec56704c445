"""ACER wherever its policy is: it learns, predicts, saves and loads there, and nothing leaves the device."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize

from sb3_trpo_ext import ACER
from sb3_trpo_ext.acer.batch import as_sequence_batch
from sb3_trpo_ext.acer.learner import Learner
from sb3_trpo_ext.acer.step import acer_step
from tests.acer.cases import ACTIONS, DEFAULTS, IMAGE, VECTOR, environments, logged, sequences_of
from tests.cases import each_device

OBSERVATIONS = {
    "box": ("MlpPolicy", VECTOR),
    "discrete": ("MlpPolicy", spaces.Discrete(4)),
    "image": ("CnnPolicy", IMAGE),
    "dict": ("MultiInputPolicy", spaces.Dict(vector=VECTOR, picture=IMAGE, choice=spaces.Discrete(3))),
}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    """By default a GPU's convolutions round to ten bits, and the CPU's do not."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


class Stays(BaseCallback):
    """Notes at every step whether all parameters are where they were when training began."""

    def places(self):
        policies = (self.model.policy, self.model.average_policy)
        return [(parameter.device, parameter.data_ptr()) for policy in policies for parameter in policy.parameters()]

    def _on_training_start(self):
        self.first, self.stayed = self.places(), True

    def _on_step(self):
        self.stayed &= self.places() == self.first
        return True


def learns(model, device):
    """Train on for four rollouts, which must move the policy where it is, with replays and the average behind it."""
    stays = Stays()
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    model.learn(4 * model.n_steps * model.n_envs, stays, reset_num_timesteps=False)
    assert stays.stayed and stays.places() == stays.first
    parameters = [*model.policy.parameters(), *model.average_policy.parameters()]
    memory = [part for state in model.policy.optimizer.state.values() for part in state.values() if part.dim()]
    assert {tensor.device.type for tensor in (*parameters, *memory)} == {device}
    assert all(bool(torch.isfinite(tensor).all()) for tensor in parameters)
    figures = logged(model)
    assert figures["n_replays"] > 0 and figures["skipped_updates"] == 0
    assert all(np.isfinite(value) for value in figures.values())
    after = model.policy.state_dict()
    assert not any(torch.equal(after[name], before[name]) for name in after if name.startswith("action_net"))
    return model


@each_device
@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_space_with_every_kind_of_observation(action, observation, device, space_env, tiny, tmp_path):
    policy, observation_space = OBSERVATIONS[observation]
    model = learns(tiny(space_env(observation_space, ACTIONS[action]), policy, device=device), device)
    model.save(tmp_path / "model")
    observations = model.get_env().reset()
    expected = model.predict(observations, deterministic=True)[0]
    for place in (device, "cpu"):
        loaded = ACER.load(tmp_path / "model", device=place)
        assert loaded.policy.device.type == loaded.average_policy.device.type == place
        np.testing.assert_allclose(loaded.predict(observations, deterministic=True)[0], expected, **CLOSE)


@each_device
@pytest.mark.parametrize("action", ["discrete", "box"])
@pytest.mark.parametrize(
    "settings",
    [
        {"trust_region": False},
        {"bias_correction": False},
        {"use_rms_prop": True},
        {"n_action_samples": 1},
        {"n_steps": 1, "replay_start": 0},
        {"policy_kwargs": {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {"momentum": 0.5}}},
    ],
    ids=str,
)
def test_every_setting(settings, action, device, space_env, tiny):
    learns(tiny(environments(space_env, ACTIONS[action]), device=device, **settings), device)


@each_device
def test_a_standard_deviation_that_is_learned(device, space_env, tiny):
    model = tiny(environments(space_env, ACTIONS["box"]), device=device, learn_std=True)
    before = model.policy.log_std.clone()
    learns(model, device)
    assert not torch.equal(model.policy.log_std, before)


@each_device
@pytest.mark.parametrize("action", ["discrete", "box"])
def test_normalised_observations_and_rewards(action, device, space_env, tiny):
    learns(tiny(VecNormalize(environments(space_env, ACTIONS[action])), device=device), device)


@each_device
@pytest.mark.parametrize("action", ["discrete", "box"])
def test_from_one_device_to_the_other_and_back(action, device, space_env, tiny, tmp_path, bits):
    env = environments(space_env, ACTIONS[action])
    model = tiny(env, device=device).learn(60)
    parameters = bits(model.get_parameters())
    model.save_replay_buffer(tmp_path / "buffer")
    for place in ("cpu", device):
        model.save(tmp_path / "model")
        model = ACER.load(tmp_path / "model", env=env, device=place)
        for name in ("policy", "average_policy"):
            assert bits(model.get_parameters()[name]) == parameters[name], "moving a model changes nothing"
    model.save(tmp_path / "model")
    for place in ("cpu", device):
        loaded = ACER.load(tmp_path / "model", env=env, device=place)
        loaded.load_replay_buffer(tmp_path / "buffer")
        learns(loaded, place)


@pytest.fixture
def same_draws(monkeypatch):
    """A GPU draws other random numbers from the same seed: noise is drawn on the CPU."""
    randn = torch.randn

    def drawn_on_cpu(*shape, device):
        torch.manual_seed(3)
        return randn(*shape).to(device)

    monkeypatch.setattr(torch, "randn", drawn_on_cpu)


@each_device
@pytest.mark.parametrize("delta", [0.0, 1.0])
@pytest.mark.parametrize("action", ["discrete", "box"])
def test_one_gradient_step(action, delta, device, space_env, tiny, same_draws):
    """In float32, by plain gradient descent, whose steps are as exact as the gradient."""
    kwargs = {"policy_kwargs": {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {}}, "learning_rate": 1.0}
    learners, updates = [], []
    for place in ("cpu", device):
        model = tiny(space_env(VECTOR, ACTIONS[action]), device=place, **kwargs)
        learners.append(Learner(model.policy, model.average_policy))
    start = [parameter.detach().cpu().clone() for parameter in learners[0].parameters]
    learners[1].policy.load_state_dict(learners[0].policy.state_dict())
    learners[1].average.load_state_dict(learners[0].average.state_dict())
    settings = replace(DEFAULTS, trust_region_delta=delta)
    for learner in learners:
        updates.append(
            acer_step(learner, as_sequence_batch(sequences_of(action, cuts=((1, 0), (2, 1))), learner.policy), settings)
        )
    for name, value in vars(updates[0]).items():
        assert vars(updates[1])[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    for before, one, other in zip(start, *(learner.parameters for learner in learners), strict=True):
        torch.testing.assert_close(other.detach().cpu() - before, one.detach() - before, rtol=1e-3, atol=1e-5)
    assert not all(torch.equal(before, one) for before, one in zip(start, learners[0].parameters, strict=True))
