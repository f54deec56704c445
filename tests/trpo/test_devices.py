"""TRPO wherever its policy is: it learns, predicts, saves and loads there, and nothing leaves the device."""

from copy import deepcopy

import numpy as np
import pytest
import sb3_contrib
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.trust_region.policy_step import StepStatus
from tests.cases import SMALL, each_device
from tests.trpo.cases import BOX, IMAGE, KINDS, VECTOR, predictions

ACTIONS = {
    "box": BOX,
    "box_matrix": spaces.Box(-2, 1, (2, 2)),
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
    "multi_binary": spaces.MultiBinary(3),
}
OBSERVATIONS = {
    "box": ("MlpPolicy", VECTOR),
    "discrete": ("MlpPolicy", spaces.Discrete(4)),
    "image": ("CnnPolicy", IMAGE),
    "dict": ("MultiInputPolicy", spaces.Dict(vector=VECTOR, picture=IMAGE, choice=spaces.Discrete(3))),
}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
SETTINGS = {
    "adam": {"critic": "adam"},
    "adam of another form": {"critic": "adam", "policy_kwargs": {"optimizer_kwargs": {"foreach": True}}},
    "autograd": {"fast": False},
    "autograd and adam": {"fast": False, "critic": "adam"},
    "mixed": {"curvature_sampling_factor": 3, "sub_sampling_factor": 2, "cg_damping": 0.2, "ent_coef": -0.01},
    "mean": {"kl_reduction": "mean", "normalize_advantage": False, "adaptive_damping": True},
    "kfac": {"cg_preconditioner": "kfac"},
    "euclidean": {"trust_region": "euclidean"},
    "unsearched": {"line_search_max_iter": 0},
    "gsde": {"use_sde": True},
    "gsde squashed and resampled": {
        "use_sde": True,
        "sde_sample_freq": 4,
        "policy_kwargs": {"squash_output": True, "full_std": False},
    },
    "earlier rollouts": {"rollouts_per_update": 2},
    "earlier rollouts of gsde": {"rollouts_per_update": 2, "use_sde": True, "critic": "adam"},
    "relu": {"policy_kwargs": {"activation_fn": torch.nn.ReLU, "last_layer_gain": 1.0}},
    "elu": {"policy_kwargs": {"activation_fn": torch.nn.ELU}},
}


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    """By default a GPU's convolutions round to ten bits, and the CPU's do not."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


class Stays(BaseCallback):
    """Notes at every step whether all parameters are where they were when training began."""

    def places(self):
        return [(parameter.device, parameter.data_ptr()) for parameter in self.model.policy.parameters()]

    def _on_training_start(self):
        self.first, self.stayed = self.places(), True

    def _on_step(self):
        self.stayed &= self.places() == self.first
        return True


def memory(model):
    """All tensors that the optimizer remembers, but for counters."""
    return [part for state in model.policy.optimizer.state.values() for part in state.values() if part.dim()]


def learns(model, device):
    """Train on for two rollouts, which must move actor and critic where they are."""
    stays = Stays()
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    model.learn(2 * model.n_steps * model.n_envs, stays, reset_num_timesteps=False)
    assert stays.stayed and stays.places() == stays.first
    assert {parameter.device.type for parameter in model.policy.parameters()} == {device}
    assert {part.device.type for part in memory(model)} <= {device}
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.policy.parameters())
    logged = dict(model.logger.name_to_value)
    assert logged["train/update_status"] in (StepStatus.ACCEPTED.code, StepStatus.LINE_SEARCH_FAILED.code)
    if model.trust_region == "kl" and model.line_search_max_iter:
        assert logged["train/kl_divergence_loss"] <= logged["train/target_kl"]
    assert logged["train/critic_steps"] > 0 and logged["train/skipped_updates"] == 0
    after = model.policy.state_dict()
    for head in ("action_net", "value_net"):
        assert not torch.equal(after[f"{head}.weight"], before[f"{head}.weight"]), head
    return model


@each_device
@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_space_with_every_kind_of_observation(action, observation, device, space_env, tiny, tmp_path):
    policy, observation_space = OBSERVATIONS[observation]
    model = learns(tiny(space_env(observation_space, ACTIONS[action]), policy, device=device), device)
    model.save(tmp_path / "model")
    observations = model.get_env().reset()
    expected = predictions(model, observations)
    for place in (device, "cpu"):
        loaded = TRPO.load(tmp_path / "model", device=place)
        assert loaded.policy.device.type == place
        np.testing.assert_allclose(predictions(loaded, observations), expected, **CLOSE)


@each_device
@pytest.mark.parametrize("settings", SETTINGS)
def test_every_setting(settings, device, space_env, tiny):
    env = DummyVecEnv([lambda: space_env(VECTOR, BOX)] * 2)
    learns(tiny(env, device=device, **SETTINGS[settings]), device)


@each_device
@pytest.mark.parametrize("critic", ["trust_region", "adam"])
def test_from_one_device_to_the_other_and_back(critic, device, kind, build, tmp_path, bits):
    model = build(kind, device=device, critic=critic).learn(32)
    environment, parameters = model.get_env(), bits(model.get_parameters()["policy"])
    for place in ("cpu", device):
        model.save(tmp_path / "model")
        model = TRPO.load(tmp_path / "model", env=environment, device=place)
        assert bits(model.get_parameters()["policy"]) == parameters, "moving a model changes nothing"
    model.save(tmp_path / "model")
    for place in ("cpu", device):
        learns(TRPO.load(tmp_path / "model", env=environment, device=place), place)


@each_device
def test_a_file_is_read_into_a_model_that_is_elsewhere(device, space_env, tiny, tmp_path, bits):
    env = space_env(VECTOR, BOX)
    model = tiny(env, device=device, critic="adam").learn(32)
    model.save(tmp_path / "model")
    other = tiny(env, critic="adam", seed=1)
    other.set_parameters(tmp_path / "model")
    assert bits(other.get_parameters()["policy"]) == bits(model.get_parameters()["policy"])
    learns(other, "cpu")


@each_device
def test_a_model_of_sb3_contrib_learns_on(device, space_env, tmp_path):
    env = space_env(VECTOR, BOX)
    theirs = sb3_contrib.TRPO(
        "MlpPolicy", env, n_steps=16, batch_size=8, policy_kwargs=SMALL["MlpPolicy"], device="cpu"
    )
    theirs.learn(32).save(tmp_path / "model")
    learns(TRPO.load(tmp_path / "model", env=env, device=device), device)


@each_device
def test_the_same_rollout_gives_nearly_the_same_update(device, kind, build):
    """In float32, as users have it, and with all the copying from and to the device."""
    models = [build(kind, device=place, n_steps=64, cg_max_steps=5) for place in ("cpu", device)]
    models[1].policy.load_state_dict(models[0].policy.state_dict())
    logged = []
    for model in models:
        model.learn(1)  # one rollout, whose update is repeated below
    for name in (
        "observations",
        "actions",
        "rewards",
        "values",
        "log_probs",
        "advantages",
        "returns",
        "episode_starts",
    ):
        setattr(models[1].rollout_buffer, name, getattr(models[0].rollout_buffer, name))
    models[1].rollout_buffer.generator_ready = models[0].rollout_buffer.generator_ready
    models[1].policy.load_state_dict(models[0].policy.state_dict())
    models[1].policy.optimizer.load_state_dict(deepcopy(models[0].policy.optimizer.state_dict()))
    for model in models:
        model._last_obs = models[0]._last_obs
        np.random.seed(0)  # the order of the critic's minibatches
        model.train()
        logged.append({key: value for key, value in model.logger.name_to_value.items() if key.startswith("train/")})
    for name in ("gradient_norm", "x_fisher_x", "kl_divergence_loss", "entropy", "policy_objective", "value_loss"):
        assert logged[1][f"train/{name}"] == pytest.approx(logged[0][f"train/{name}"], rel=2e-2, abs=1e-4), name
    for name in ("update_status", "cg_steps", "line_search_trials"):
        assert logged[1][f"train/{name}"] == logged[0][f"train/{name}"], name


@each_device
def test_normalised_observations_and_rewards(device, space_env, tiny):
    env = VecNormalize(DummyVecEnv([lambda: space_env(VECTOR, BOX)] * 2))
    model = learns(tiny(env, device=device), device)
    mean, deviation = evaluate_policy(model, env, n_eval_episodes=2, warn=False)
    assert np.isfinite([mean, deviation]).all()


@each_device
@pytest.mark.parametrize("settings", [{}, {"fast": False}, {"use_sde": True}], ids=str)
def test_what_is_recorded_is_what_the_policy_says(settings, device, space_env, tiny):
    model = tiny(space_env(VECTOR, BOX), device=device, **settings)
    model.collect_rollouts(*_arguments(model))
    buffer = model.rollout_buffer
    observations, actions = (
        torch.as_tensor(array[:, 0], device=device) for array in (buffer.observations, buffer.actions)
    )
    with torch.no_grad():
        values, log_probs, _ = model.policy.evaluate_actions(observations, actions)
    np.testing.assert_allclose(buffer.values, values.cpu().numpy(), **CLOSE)
    np.testing.assert_allclose(buffer.log_probs[:, 0], log_probs.cpu().numpy(), rtol=1e-3, atol=1e-4)


def _arguments(model):
    _, callback = model._setup_learn(model.n_steps)
    callback.on_training_start({}, {})
    return model.env, callback, model.rollout_buffer, model.n_steps


class Shifts(BaseCallback):
    """Writes to the policy in the middle of the rollout."""

    def _on_step(self):
        if self.n_calls == 8:
            with torch.no_grad():
                self.model.policy.value_net.bias.add_(3.0)
        return True


@each_device
def test_what_a_callback_writes_acts_from_then_on(device, space_env, tiny):
    model = tiny(space_env(VECTOR, BOX), device=device).learn(16, Shifts())
    values = model.rollout_buffer.values.flatten()
    assert values[:8].max() < 2 < values[8:].min()


@each_device
@pytest.mark.parametrize("side", ["action_net", "value_net"])
def test_a_frozen_layer_stays_as_it_is(side, device, space_env, tiny):
    model = tiny(space_env(VECTOR, BOX), device=device)
    layer = getattr(model.policy, side).requires_grad_(False)
    before = layer.weight.clone()
    model.learn(32)
    assert torch.equal(layer.weight, before) and layer.weight.device.type == device
    assert model.logger.name_to_value["train/update_status"] == StepStatus.ACCEPTED.code


@each_device
def test_a_frozen_actor_leaves_the_critic_to_learn(device, space_env, tiny):
    model = tiny(space_env(VECTOR, BOX), device=device)
    for parameter in model.actor.parameters:
        parameter.requires_grad_(False)
    before = model.policy.value_net.weight.clone()
    model.learn(32)
    assert model.logger.name_to_value["train/update_status"] == StepStatus.FROZEN.code
    assert not torch.equal(model.policy.value_net.weight, before)


@each_device
@pytest.mark.parametrize("kind_of_bad", ["observation", "reward"])
def test_bad_data_skips_the_update(kind_of_bad, device, make_env, tiny):
    model = tiny(make_env((5, (kind_of_bad, float("nan")))), device=device)
    before = [parameter.clone() for parameter in model.policy.parameters()]
    with pytest.warns(UserWarning):
        model.learn(16)
    assert model.logger.name_to_value["train/update_status"] == StepStatus.SKIPPED.code
    assert all(torch.equal(one, other) for one, other in zip(before, model.policy.parameters(), strict=True))


@each_device
def test_convolutions_in_the_devices_own_precision(device, space_env, tiny, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    learns(tiny(space_env(*KINDS["cnn"][1:]), "CnnPolicy", device=device, n_steps=64), device)
