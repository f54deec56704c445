"""Bad data and numerical trouble never reach the parameters."""

import sys
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.envs import IdentityEnv
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from sb3_trpo_ext.trust_region import direction
from sb3_trpo_ext.trust_region.policy_step import StepStatus
from tests.cases import all_finite
from tests.trpo.cases import BOX, IMAGE, VECTOR, never_satisfied

NAN, INF = float("nan"), float("inf")
DICT = spaces.Dict(vector=VECTOR, picture=IMAGE)


class SpoiltAdvantages(RolloutBuffer):
    """The third rollout's advantages hold a bad value, as a broken critic would give."""

    value = NAN
    count = 0

    def compute_returns_and_advantage(self, last_values, dones):
        super().compute_returns_and_advantage(last_values, dones)
        self.count += 1
        if self.count == 3:
            self.advantages[3] = self.value


class SpoiltDictAdvantages(SpoiltAdvantages, DictRolloutBuffer):
    pass


KINDS = {
    "box": ("MlpPolicy", VECTOR),
    "image": ("CnnPolicy", IMAGE),
    "dict": ("MultiInputPolicy", DICT),
    "discrete": ("MlpPolicy", spaces.Discrete(3)),
    "multi_binary": ("MlpPolicy", spaces.MultiBinary(3)),
}
ACTIONS = {
    "box": BOX,
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
    "multi_binary": spaces.MultiBinary(3),
}
SPOILT = [
    *[("observation", value, observation, "box") for observation in ("box", "dict") for value in (NAN, INF, -INF)],
    *[("observation", NAN, "box", action) for action in ACTIONS if action != "box"],
    *[("reward", value, observation, "box") for observation in KINDS for value in (NAN, INF)],
    *[("reward", -INF, "box", action) for action in ACTIONS],
    *[("advantages", value, observation, "discrete") for observation in ("box", "dict") for value in (NAN, INF)],
]


@pytest.mark.filterwarnings("ignore:invalid value encountered", "ignore:Mean of empty slice")
@pytest.mark.parametrize(("part", "value", "observation", "action"), SPOILT)
@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
def test_bad_rollout_changes_no_parameter_and_training_goes_on(
    part, value, observation, action, fast, make_env, tiny, bits
):
    policy, observation_space = KINDS[observation]
    settings = {}
    spoilt = [(32 + 4, (part, value))]  # within the third rollout
    if part == "advantages":
        settings["rollout_buffer_class"] = SpoiltDictAdvantages if observation == "dict" else SpoiltAdvantages
        spoilt = []
    env = make_env(*spoilt, observations=observation_space, actions=ACTIONS[action])
    model = tiny(env, policy, fast=fast, **settings).learn(32)
    SpoiltAdvantages.value = value

    before, critic = bits(model.get_parameters()), bits(model.actor.critic_parameters())
    where = {"observation": "observations", "reward": "rewards, advantages, returns", "advantages": "advantages"}[part]
    with pytest.warns(UserWarning, match=rf"Update skipped: .* NaN or infinity in its .*{where}"):
        model.learn(16, reset_num_timesteps=False)
    assert bits(model.get_parameters()) == before
    logged = dict(model.logger.name_to_value)
    assert logged["train/update_status"] == StepStatus.SKIPPED.code and logged["train/skipped_updates"] == 1
    assert (model._n_skipped_updates, model._n_updates) == (1, 2)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(16, reset_num_timesteps=False)
    assert model._n_updates == 3 and model.logger.name_to_value["train/skipped_updates"] == 1
    assert bits(model.get_parameters()["policy"]) != before["policy"]
    assert bits(model.actor.critic_parameters()) != critic
    assert all_finite(model)


def test_a_broken_environment_is_warned_of_once(make_env, tiny):
    model = tiny(make_env(*((step, ("reward", NAN)) for step in range(48))))
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        model.learn(48)
    assert model._n_skipped_updates > 1
    assert len([one for one in shown if "Update skipped" in str(one.message)]) == 1


@pytest.mark.parametrize("step", [15, 16], ids=["last_step", "observation_after_the_rollout"])
def test_bad_observation_at_the_seam_of_two_rollouts(step, make_env, tiny, bits):
    """The observation after the last step belongs to this rollout's last value and is the next one's first."""
    model = tiny(make_env((step, ("observation", NAN)), length=1000))
    before = bits(model.get_parameters())
    with pytest.warns(UserWarning, match="Update skipped"):
        model.learn(16)
    assert bits(model.get_parameters()) == before
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.learn(32, reset_num_timesteps=False)
    assert model._n_updates >= 1 and all_finite(model)


@pytest.mark.filterwarnings("ignore:Update skipped")
@pytest.mark.parametrize("normalize", [False, True])
def test_learns_the_task_although_every_third_rollout_is_bad(normalize, tiny):
    class SometimesBad(IdentityEnv):
        total = 0

        def step(self, action):
            self.total += 1
            state, reward, terminated, truncated, info = super().step(action)
            return state, NAN if self.total % 192 == 40 else reward, terminated, truncated, info

    environment = DummyVecEnv([partial(SometimesBad, 3, ep_length=20)])
    environment = VecNormalize(environment, norm_obs=False) if normalize else environment
    model = tiny(environment, n_steps=64, target_kl=0.05, gamma=0.0).learn(64 * 45)
    assert (model._n_skipped_updates, model._n_updates) == (15, 30)
    states = np.arange(3)
    chosen = model.predict(states.reshape(3), deterministic=True)[0]
    assert (chosen == states).all()
    probabilities = model.policy.get_distribution(torch.arange(3)).distribution.probs.detach()
    assert float(probabilities.diagonal().min()) > 0.9


@pytest.mark.parametrize("normalize_advantage", [True, False])
@pytest.mark.parametrize("action", ACTIONS)
def test_zero_advantages_leave_the_actor_bit_identical(action, normalize_advantage, make_env, tiny, bits):
    constant = [(step, ("reward", 1.0)) for step in range(100)]
    model = tiny(
        make_env(*constant, actions=ACTIONS[action], length=1),
        normalize_advantage=normalize_advantage,
        gamma=0.0,
        policy_kwargs={"ortho_init": False},
    )
    with torch.no_grad():  # a critic that says 0 everywhere: all advantages are 1
        model.policy.value_net.weight.zero_()
        model.policy.value_net.bias.fill_(0.0 if normalize_advantage else 1.0)
    before, critic = bits(model.actor.parameters), bits(model.actor.critic_parameters())
    model.learn(16)
    assert bits(model.actor.parameters) == before
    assert model.logger.name_to_value["train/update_status"] == StepStatus.ZERO_GRADIENT.code
    assert model._n_line_search_failures == 0
    assert (bits(model.actor.critic_parameters()) == critic) == (not normalize_advantage)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
def test_failed_line_search_restores_bit_for_bit(action, fast, make_env, tiny, bits, monkeypatch):
    monkeypatch.setattr(direction, "backtrack", never_satisfied)
    model = tiny(make_env(actions=ACTIONS[action]), cg_damping=0.0, fast=fast, critic="adam")
    before = bits(model.actor.parameters)
    model.learn(32)
    logged = dict(model.logger.name_to_value)
    assert logged["train/update_status"] == StepStatus.LINE_SEARCH_FAILED.code
    assert (logged["train/line_search_failures"], logged["train/is_line_search_success"]) == (2, 0)
    assert bits(model.actor.parameters) == before
    for key in ("kl_divergence_loss", "kl_max", "step_norm", "actual_improvement", "predicted_improvement"):
        assert logged[f"train/{key}"] == 0


ABSURD = {
    "huge_rewards": ({"scale": 1e30}, {}),
    "huge_rewards_raw": ({"scale": 1e30}, {"normalize_advantage": False}),
    "huge_rewards_relu": ({"scale": 1e18}, {"policy_kwargs": {"activation_fn": nn.ReLU}, "learning_rate": 1e-1}),
    "huge_rewards_sgd": ({"scale": 1e10}, {"policy_kwargs": {"optimizer_class": torch.optim.SGD}}),
    "tiny_rewards": ({"scale": 1e-30}, {}),
    "tiny_rewards_raw": ({"scale": 1e-42}, {"normalize_advantage": False}),
    "huge_region": ({}, {"target_kl": 1e30}),
    "huge_region_unsearched": ({}, {"target_kl": 1e30, "line_search_max_iter": 0}),
    "endless_region_unsearched": ({}, {"target_kl": 1e300, "line_search_max_iter": 0}),
    "large_region_unsearched": ({}, {"target_kl": 50.0, "line_search_max_iter": 0, "cg_damping": 0.0}),
    "huge_euclidean_step": ({}, {"target_kl": 1e30, "trust_region": "euclidean", "line_search_max_iter": 0}),
    "huge_rewards_unsearched": (
        {"scale": 1e30},
        {"target_kl": 1e30, "line_search_max_iter": 0, "normalize_advantage": False},
    ),
    "no_damping": ({}, {"cg_damping": 0.0, "cg_max_steps": 100, "cg_tolerance": 0.0}),
    "huge_damping": ({}, {"cg_damping": 1e30}),
    "huge_entropy_bonus": ({}, {"ent_coef": 1e30}),
    "huge_learning_rate": ({}, {"learning_rate": 1e30}),
    "learning_rate_nan": ({}, {"learning_rate": lambda progress: 1e-3 if progress else NAN}),
    "target_kl_nan": ({}, {"target_kl": lambda progress: NAN}),
    "target_kl_negative": ({}, {"target_kl": lambda progress: -1.0}),
    "almost_no_noise": ({}, {"policy_kwargs": {"log_std_init": -30.0}}),
    "huge_noise": ({}, {"policy_kwargs": {"log_std_init": 30.0}}),
    "gsde_huge_region": ({}, {"use_sde": True, "target_kl": 1e30, "line_search_max_iter": 0}),
}


# Those that are not about the noise of continuous actions.
ANY = [one for one in ABSURD if "noise" not in one and "gsde" not in one]


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value", "ignore:learning_rate")
@pytest.mark.parametrize("critic", ["trust_region", "adam"])
@pytest.mark.parametrize(("absurd", "action"), [*((one, "box") for one in ABSURD), *((one, "discrete") for one in ANY)])
def test_parameters_are_always_finite(absurd, critic, action, make_env, tiny):
    environment_settings, settings = ABSURD[absurd]
    model = tiny(make_env(actions=ACTIONS[action], **environment_settings), critic=critic, **settings)
    for _ in range(4):
        model.learn(16, reset_num_timesteps=False)
        assert all_finite(model)
    assert model._n_updates == 4 and "train/update_status" in model.logger.name_to_value


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_huge_rewards_are_learned_from_when_normalized(make_env, tiny):
    model = tiny(make_env(scale=1e30)).learn(16)
    plain = tiny(make_env(scale=1.0)).learn(16)
    assert model.logger.name_to_value["train/update_status"] == StepStatus.ACCEPTED.code
    assert plain.logger.name_to_value["train/update_status"] == StepStatus.ACCEPTED.code


OVERFLOWS = {
    "learning_rate": ({}, {"critic": "adam", "learning_rate": lambda progress: 1e-3 if progress == 1 else NAN}),
    "squared_gradients": (
        {"observations": spaces.Box(1e5, 2e5, (3,)), "scale": 1e17},
        {
            "critic": "adam",
            "policy_kwargs": {"activation_fn": nn.ReLU, "normalize_observations": False},
            "gamma": 0.0,
        },
    ),
}


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_critic_that_overflows_is_restored(overflow, fast, make_env, tiny, bits):
    """The loss may be finite where the step, or a square in Adam's memory, is not."""
    environment_settings, settings = OVERFLOWS[overflow]
    model = tiny(make_env(**environment_settings), fast=fast, **settings)
    before = bits(model.get_parameters()["policy.optimizer"]["state"]), bits(model.actor.critic_parameters())
    model.learn(16)
    logged = dict(model.logger.name_to_value)
    assert np.isfinite(logged["train/value_loss"]) == (overflow == "squared_gradients")
    assert logged["train/is_critic_finite"] == 0
    after = bits(model.get_parameters()["policy.optimizer"]["state"]), bits(model.actor.critic_parameters())
    assert after == before and all_finite(model)


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_errors_whose_squares_overflow_are_fitted_in_a_trust_region(make_env, tiny):
    model = tiny(make_env(scale=1e25), critic="trust_region").learn(32)
    assert model.logger.name_to_value["train/is_critic_finite"] == 1
    assert model.logger.name_to_value["train/critic_steps"] > 0 and all_finite(model)


class Rows(BaseFeaturesExtractor):
    """Learned rows, of which a rollout sees only one: the others have no gradient and no say in the outcome."""

    def __init__(self, observation_space, features_dim=4):
        super().__init__(observation_space, features_dim)
        self.rows = nn.Embedding(1000, features_dim)

    def forward(self, observations):
        return self.rows(torch.zeros(len(observations), dtype=torch.long))


def test_unseen_parameters_stay_finite_in_an_unsearched_step(make_env, tiny, bits):
    model = tiny(
        make_env(),
        target_kl=1e300,
        line_search_max_iter=0,
        policy_kwargs={"features_extractor_class": Rows},
    )
    before = bits(model.policy.features_extractor.rows.weight[1:])
    model.learn(16)
    assert bits(model.policy.features_extractor.rows.weight[1:]) == before and all_finite(model)


def test_progress_bar_without_its_packages_says_what_to_install(make_env, tiny, monkeypatch):
    import stable_baselines3.common.callbacks as callbacks

    monkeypatch.setattr(callbacks, "tqdm", None)
    with pytest.raises(ImportError, match=r"pip install .*\[extra\]|install tqdm and rich"):
        tiny(make_env()).learn(16, progress_bar=True)


def test_import_needs_no_optional_package():
    import subprocess

    optional = "rl_zoo3, optuna, tensorboard, tqdm, rich, mujoco, Box2D, pygame, cv2, yaml".split(", ")
    program = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({optional!r}))\n"  # importing one now fails
        "from sb3_trpo_ext import TRPO\n"
        "TRPO('MlpPolicy', 'CartPole-v1', n_steps=16, device='cpu').learn(16)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_custom_policy_with_nan_inside_never_moves(make_env, tiny, bits):
    """A network that is broken itself is reported, not repaired."""

    class Broken(ActorCriticPolicy):
        def predict_values(self, observations):
            return super().predict_values(observations) * NAN

    model = tiny(make_env(), Broken, policy_kwargs={"net_arch": [8]})
    before = bits(model.get_parameters())
    with pytest.warns(UserWarning, match="Update skipped: .*rewards, advantages, returns"):
        model.learn(16)
    assert bits(model.get_parameters()) == before
