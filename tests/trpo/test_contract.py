"""The contract with Stable-Baselines3: wherever its algorithms work, this one runs, predicts, saves, loads, repeats."""

import inspect
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import (
    CallbackList,
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv, IdentityEnvBox, SimpleMultiObsEnv
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecCheckNan,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)
from torch import nn

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.trpo.settings import CRITIC_SETTINGS
from sb3_trpo_ext.trust_region.policy_step import StepStatus

ACTIONS = {
    "box": spaces.Box(-1, 1, (2,)),
    "box_matrix": spaces.Box(-2, 1, (2, 2)),
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
    "multi_binary": spaces.MultiBinary(3),
}
VECTOR = spaces.Box(-1, 1, (3,))
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
OBSERVATIONS = {
    "box": ("MlpPolicy", VECTOR),
    "box_matrix": ("MlpPolicy", spaces.Box(-1, 1, (2, 3))),
    "discrete": ("MlpPolicy", spaces.Discrete(4)),
    "multi_discrete": ("MlpPolicy", spaces.MultiDiscrete([3, 2])),
    "multi_binary": ("MlpPolicy", spaces.MultiBinary(3)),
    "image": ("CnnPolicy", IMAGE),
    "dict": ("MultiInputPolicy", spaces.Dict(vector=VECTOR, picture=IMAGE, choice=spaces.Discrete(3))),
}


def fulfils_contract(make, path, bits, updates=2):
    """
    ``make()`` gives a new model each time: it runs, repeats bit for bit, predicts, saves, loads.

    :return: the trained model
    """
    model = make()
    initial = bits(model.get_parameters())
    total = updates * model.n_steps * model.n_envs
    model.learn(total)
    again = make().learn(total)
    assert model.num_timesteps == total and model._n_updates == updates
    assert bits(model.get_parameters()) == bits(again.get_parameters()) != initial
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.policy.parameters())
    values = dict(model.logger.name_to_value)
    expected = (
        (StepStatus.ACCEPTED.code, StepStatus.LINE_SEARCH_FAILED.code)
        if values["train/target_kl"]
        else (StepStatus.NO_REGION.code,)
    )
    assert values["train/update_status"] in expected
    assert values["train/kl_divergence_loss"] <= values["train/target_kl"] or model.line_search_max_iter == 0

    environment = model.get_env()
    observations = environment.reset()
    model.save(path)
    loaded = TRPO.load(path, device=model.device)
    for deterministic in (True, False):
        actions = []
        for each in (model, loaded):
            each.set_random_seed(5)
            if each.use_sde:
                each.policy.reset_noise()  # which SB3 does not save
            actions.append(each.predict(observations, deterministic=deterministic)[0])
        assert bits(actions[0]) == bits(actions[1])
        assert all(environment.action_space.contains(action) for action in actions[0])
    assert bits(loaded.get_parameters()) == bits(model.get_parameters())
    return model


@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_space_with_every_observation_space(action, observation, space_env, tiny, bits, tmp_path):
    policy, observation_space = OBSERVATIONS[observation]
    fulfils_contract(lambda: tiny(space_env(observation_space, ACTIONS[action]), policy), tmp_path / "model", bits)


class Extractor(BaseFeaturesExtractor):
    """Batch normalization and dropout, and a parameter that nothing uses."""

    def __init__(self, observation_space, features_dim=5):
        super().__init__(observation_space, features_dim)
        self.layers = nn.Sequential(
            nn.Linear(3, features_dim), nn.BatchNorm1d(features_dim), nn.ReLU(), nn.Dropout(0.5)
        )
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, observations):
        return self.layers(observations)


class Frozen(Extractor):
    """Parameters that are not to be trained."""

    def __init__(self, observation_space, features_dim=5):
        super().__init__(observation_space, features_dim)
        self.layers.requires_grad_(False)


class Heads(nn.Module):
    def __init__(self, features_dim):
        super().__init__()
        self.latent_dim_pi = self.latent_dim_vf = 4
        self.value_of_an_action = nn.Linear(features_dim, 4)  # of the actor
        self.policy_critique = nn.Linear(features_dim, 4)  # of the critic

    def forward(self, features):
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features):
        return torch.tanh(self.value_of_an_action(features))

    def forward_critic(self, features):
        return torch.tanh(self.policy_critique(features))


class MisleadingNames(ActorCriticPolicy):
    def _build_mlp_extractor(self):
        self.mlp_extractor = Heads(self.features_dim)


class FrozenLayers(ActorCriticPolicy):
    """The first layer of each side is not to be trained."""

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        for network in (self.mlp_extractor.policy_net, self.mlp_extractor.value_net):
            network[0].requires_grad_(False)


class Squashed(ActorCriticPolicy):
    """Squashed without gSDE, which SB3 offers only to those who build it themselves."""

    def _build(self, lr_schedule):
        self.action_dist = SquashedDiagGaussianDistribution(int(np.prod(self.action_space.shape)))
        super()._build(lr_schedule)


class MarkedBuffer(RolloutBuffer):
    def __init__(self, *args, mark, **kwargs):
        super().__init__(*args, **kwargs)
        self.mark = mark


def extractor(kind, shared):
    return {"policy_kwargs": {"features_extractor_class": kind, "share_features_extractor": shared}}


BOX, DISCRETE = ACTIONS["box"], ACTIONS["discrete"]
VARIANTS = {
    "gsde": (BOX, {"use_sde": True}),
    "gsde_resampled": (BOX, {"use_sde": True, "sde_sample_freq": 4}),
    "gsde_squashed": (BOX, {"use_sde": True, "policy_kwargs": {"squash_output": True}}),
    "gsde_squashed_resampled": (
        BOX,
        {"use_sde": True, "sde_sample_freq": 1, "policy_kwargs": {"squash_output": True, "full_std": False}},
    ),
    "gsde_expln": (BOX, {"use_sde": True, "policy_kwargs": {"use_expln": True}}),
    "separate_networks": (BOX, {"policy_kwargs": {"net_arch": {"pi": [4], "vf": [6, 6]}}}),
    "linear": (DISCRETE, {"policy_kwargs": {"net_arch": []}}),
    "relu": (BOX, {"policy_kwargs": {"activation_fn": nn.ReLU, "ortho_init": False, "log_std_init": -1.0}}),
    "sgd": (BOX, {"policy_kwargs": {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {"momentum": 0.9}}}),
    "shared_extractor": (BOX, extractor(Extractor, True)),
    "separate_extractors": (BOX, extractor(Extractor, False)),
    "frozen_extractor": (BOX, extractor(Frozen, True)),
    "frozen_extractors": (DISCRETE, extractor(Frozen, False)),
    "frozen_layers": (DISCRETE, {"policy": FrozenLayers, "policy_kwargs": {"net_arch": [8, 8]}}),
    "misleading_names": (BOX, {"policy": MisleadingNames}),
    "misleading_names_gsde": (BOX, {"policy": MisleadingNames, "use_sde": True}),
    "squashed_gaussian": (BOX, {"policy": Squashed}),
    "buffer": (BOX, {"rollout_buffer_class": MarkedBuffer, "rollout_buffer_kwargs": {"mark": 7}}),
    "natural_policy_gradient": (BOX, {"line_search_max_iter": 0}),
    "euclidean": (DISCRETE, {"trust_region": "euclidean"}),
    "mean_kl": (BOX, {"kl_reduction": "mean"}),
    "entropy_bonus": (DISCRETE, {"ent_coef": 0.01}),
    "entropy_cost": (BOX, {"ent_coef": -0.01}),
    "thinned_curvature": (BOX, {"curvature_sampling_factor": 3}),
    "kfac": (BOX, {"cg_preconditioner": "kfac"}),
    "kfac_thinned": (DISCRETE, {"cg_preconditioner": "kfac", "curvature_sampling_factor": 2, "kl_reduction": "mean"}),
    "critic_by_minibatches": (BOX, {"critic": "adam", "n_critic_updates": 3}),
    "critic_by_minibatches_by_autograd": (BOX, {"critic": "adam", "fast": False}),
    "autograd": (BOX, {"fast": False}),
    "sb3s_loop": (DISCRETE, {"fast": False}),
    "two_threads": (BOX, {"num_threads": 2}),
    "reuse": (BOX, {"rollouts_per_update": 3}),
    "reuse_discrete": (DISCRETE, {"rollouts_per_update": 2, "sub_sampling_factor": 2, "critic": "trust_region"}),
    "reuse_gsde": (BOX, {"rollouts_per_update": 2, "use_sde": True, "policy_kwargs": {"squash_output": True}}),
    "reuse_by_autograd": (BOX, {"rollouts_per_update": 2, "fast": False}),
    "thinned_update": (BOX, {"sub_sampling_factor": 3}),
    "raw_advantages": (BOX, {"normalize_advantage": False}),
    "schedules": (
        BOX,
        {
            "critic": "adam",
            "learning_rate": LinearSchedule(1e-2, 1e-3, 1.0),
            "target_kl": LinearSchedule(0.1, 0.01, 1.0),
        },
    ),
    "schedules_in_words": (
        BOX,
        {"critic": "adam", "learning_rate": "lin_0.02", "target_kl": "lin_0.02_0.01", "ent_coef": "lin_0_-0.1"},
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant(variant, space_env, tiny, bits, tmp_path):
    action_space, settings = VARIANTS[variant]
    model = fulfils_contract(lambda: tiny(space_env(VECTOR, action_space), **settings), tmp_path / "model", bits)
    if variant == "buffer":
        assert type(model.rollout_buffer) is MarkedBuffer and model.rollout_buffer.mark == 7


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("observation", ["image", "dict"])
def test_shared_and_separate_extractors(observation, shared, space_env, tiny, bits, tmp_path):
    policy, observation_space = OBSERVATIONS[observation]
    settings = {"policy_kwargs": {"share_features_extractor": shared}}
    make = partial(tiny, policy=policy, **settings)
    model = fulfils_contract(lambda: make(space_env(observation_space, BOX)), tmp_path / "model", bits)
    assert bool(model.actor.shared_parameters()) == shared


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_reuse_of_rollouts_with_every_observation_space(observation, space_env, tiny, bits, tmp_path):
    policy, space = OBSERVATIONS[observation]
    make = partial(tiny, policy=policy, rollouts_per_update=2)
    fulfils_contract(lambda: make(space_env(space, DISCRETE)), tmp_path / "model", bits, updates=3)


def test_separate_extractors_by_default_for_images_and_dictionaries(space_env, tiny):
    for observation in ("image", "dict"):
        policy, observation_space = OBSERVATIONS[observation]
        model = tiny(space_env(observation_space, BOX), policy)
        assert not model.actor.shared_parameters()
        critic_extractor = {id(parameter) for parameter in model.policy.vf_features_extractor.parameters()}
        assert critic_extractor and critic_extractor <= {id(parameter) for parameter in model.actor.critic_parameters()}


def test_own_cnn_of_the_critic_is_trained(space_env, tiny, bits):
    model = tiny(space_env(IMAGE, BOX), "CnnPolicy", learning_rate=1e-2)
    before = bits(model.policy.vf_features_extractor.state_dict())
    model.learn(16)
    after = bits(model.policy.vf_features_extractor.state_dict())
    assert all(before[name] != after[name] for name in before if name.endswith("weight"))


def test_actor_is_found_by_the_graph_not_by_names(space_env, tiny):
    model = tiny(space_env(VECTOR, BOX), MisleadingNames)
    names = {id(parameter): name for name, parameter in model.policy.named_parameters()}
    actor = {names[id(parameter)].rpartition(".")[0] for parameter in model.actor.parameters}
    critic = {names[id(parameter)].rpartition(".")[0] for parameter in model.actor.critic_parameters()}
    assert actor == {"", "action_net", "mlp_extractor.value_of_an_action"}  # "" has log_std
    assert critic == {"value_net", "mlp_extractor.policy_critique"}


@pytest.mark.parametrize("variant", ["frozen_extractor", "frozen_extractors", "frozen_layers"])
def test_frozen_parameters_stay(variant, space_env, tiny, bits):
    action_space, settings = VARIANTS[variant]
    model = tiny(space_env(VECTOR, action_space), **settings)
    frozen = [parameter for parameter in model.policy.parameters() if not parameter.requires_grad]
    before = bits(frozen)
    model.learn(32)
    assert frozen and bits(frozen) == before


def test_construction_leaves_batch_statistics_and_random_numbers_alone(space_env, tiny, bits):
    """Looking for the actor's parameters is no training: same policy, same random stream as SB3's own constructor."""
    policy_kwargs = {"net_arch": [8], "log_std_init": 0.0, **extractor(Extractor, False)["policy_kwargs"]}
    raw = {"normalize_observations": False}
    ours = tiny(space_env(VECTOR, BOX), policy_kwargs=policy_kwargs | raw)
    after_ours = torch.get_rng_state()
    theirs = sb3_contrib.TRPO("MlpPolicy", space_env(VECTOR, BOX), policy_kwargs=policy_kwargs, seed=0, device="cpu")
    for parameter in theirs.policy.value_net.parameters():
        parameter.detach().zero_()  # as the critic of our policies starts
    assert bits(ours.policy.state_dict()) == bits(theirs.policy.state_dict())
    assert bits(after_ours) == bits(torch.get_rng_state())


def dummy(make, n_envs=3):
    return DummyVecEnv([make] * n_envs)


WRAPPERS = {
    "dummy": dummy,
    "normalize": lambda make: VecNormalize(dummy(make)),
    "normalize_reward_only": lambda make: VecNormalize(dummy(make), norm_obs=False),
    "frame_stack": lambda make: VecFrameStack(dummy(make), 2),
    "frame_stack_normalize": lambda make: VecFrameStack(VecNormalize(dummy(make)), 2),
    "normalize_frame_stack": lambda make: VecNormalize(VecFrameStack(dummy(make), 2)),
    "check_nan": lambda make: VecCheckNan(dummy(make), raise_exception=True),
    "monitor": lambda make: VecMonitor(VecNormalize(dummy(make))),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_wrapper(wrapper, space_env, tiny, bits, tmp_path):
    make = partial(space_env, VECTOR, BOX)
    model = fulfils_contract(lambda: tiny(WRAPPERS[wrapper](make)), tmp_path / "model", bits)
    assert model.n_envs == 3


def test_stacked_images_and_normalized_dictionaries(tiny, bits, tmp_path):
    def image_env():
        return FakeImageEnv(screen_height=36, screen_width=36, discrete=False)

    stacked = tiny(VecFrameStack(DummyVecEnv([image_env] * 2), 4), "CnnPolicy").learn(32)
    assert stacked.observation_space.shape == (4, 36, 36)
    dictionary = VecNormalize(DummyVecEnv([SimpleMultiObsEnv] * 2), norm_obs_keys=["vec"])
    tiny(dictionary, "MultiInputPolicy").learn(32)


@pytest.mark.parametrize("rollouts", [1, 3])
def test_subprocesses_give_the_same_training_as_one_process(tiny, bits, rollouts):
    results = []
    for kind in (DummyVecEnv, SubprocVecEnv):
        environment = make_vec_env("Pendulum-v1", n_envs=2, vec_env_cls=kind)
        results.append(bits(tiny(environment, rollouts_per_update=rollouts).learn(128).get_parameters()))
        environment.close()
    assert results[0] == results[1]


def test_float_total_and_environment_by_id(tiny):
    assert tiny("CartPole-v1", n_steps=25).learn(1e2).num_timesteps == 100


#: The size of the region and the damping are for each action dimension.
# None stands for sb3-contrib's own, so that it is known whether someone said them.
SAID_OR_NOT = ("learning_rate", "batch_size", "n_critic_updates")
OTHER_DEFAULTS = {"target_kl": None, "cg_damping": None, "gae_lambda": None, **dict.fromkeys(SAID_OR_NOT)}


def test_arguments_and_defaults_are_those_of_sb3_contrib():
    for method in ("__init__", "learn"):
        theirs = inspect.signature(getattr(sb3_contrib.TRPO, method)).parameters
        ours = inspect.signature(getattr(TRPO, method)).parameters
        for name, parameter in theirs.items():
            assert ours[name].default == OTHER_DEFAULTS.get(name, parameter.default), name
    theirs, ours = inspect.signature(sb3_contrib.TRPO).parameters, inspect.signature(TRPO).parameters
    assert CRITIC_SETTINGS["adam"] == {name: theirs[name].default for name in SAID_OR_NOT}
    public = [name for name in theirs if not name.startswith("_")]
    assert list(ours)[: len(public)] == public  # the same when passed by position


def test_policies_by_name_are_those_of_sb3_contrib():
    assert set(TRPO.policy_aliases) == set(sb3_contrib.TRPO.policy_aliases)


def test_schedules_are_followed(space_env, tiny):
    seen = []

    def note(local_variables, global_variables):
        values = local_variables["self"].logger.name_to_value
        seen.append(tuple(values.get(f"train/{name}") for name in ("learning_rate", "target_kl", "ent_coef")))
        return True

    schedules = {
        "critic": "adam",
        "learning_rate": "lin_0.02",
        "target_kl": lambda progress: 0.04 * progress,
        "ent_coef": "lin_0_-0.4",
    }
    model = tiny(space_env(VECTOR, BOX), **schedules)
    model.learn(64, callback=ConvertCallback(note), log_interval=1000)
    note({"self": model}, {})
    rates, regions, weights = zip(*dict.fromkeys(row for row in seen if None not in row), strict=True)
    assert rates == pytest.approx((0.015, 0.01, 0.005, 0.0)) and regions == pytest.approx((0.03, 0.02, 0.01, 0.0))
    assert weights == pytest.approx((-0.1, -0.2, -0.3, -0.4))
    assert model.logger.name_to_value["train/update_status"] == StepStatus.NO_REGION.code


def test_schedule_is_never_asked_beyond_the_end(space_env, tiny):
    asked = []

    def target_kl(progress):
        asked.append(progress)
        return 0.01

    tiny(space_env(VECTOR, BOX), target_kl=target_kl).learn(20)  # two rollouts of 16
    assert min(asked) == 0.0


def test_set_env_and_counting_on(space_env, tiny):
    model = tiny(space_env(VECTOR, BOX)).learn(32)
    replacement = DummyVecEnv([partial(space_env, VECTOR, BOX)])
    model.set_env(replacement)
    model.learn(32, reset_num_timesteps=False)
    assert model.get_env() is replacement
    assert (model.num_timesteps, model._n_updates) == (64, 4)
    assert model.learn(16).num_timesteps == 16  # counts anew by default
    with pytest.raises(ValueError, match="spaces do not match"):
        model.set_env(space_env(VECTOR, DISCRETE))


def test_all_callbacks(space_env, tiny, tmp_path, capsys):
    environment = VecNormalize(DummyVecEnv([partial(space_env, VECTOR, BOX)]))
    evaluation = VecNormalize(VecMonitor(DummyVecEnv([partial(space_env, VECTOR, BOX)])), training=False)
    callbacks = CallbackList(
        [
            EvalCallback(
                evaluation,
                n_eval_episodes=2,
                eval_freq=16,
                log_path=str(tmp_path),
                best_model_save_path=str(tmp_path),
                callback_after_eval=StopTrainingOnNoModelImprovement(10),
                verbose=0,
            ),
            CheckpointCallback(20, str(tmp_path / "checkpoints"), save_vecnormalize=True),
            EveryNTimesteps(24, CheckpointCallback(1, str(tmp_path / "every"))),
            LogEveryNTimesteps(10),
            ProgressBarCallback(),
        ]
    )
    model = tiny(environment, tensorboard_log=str(tmp_path / "board"), verbose=1).learn(64, callbacks, log_interval=2)
    assert model.num_timesteps == 64 and model._n_updates == 4
    assert "kl_divergence_loss" in capsys.readouterr().out
    for file in (tmp_path / "best_model.zip", tmp_path / "checkpoints" / "rl_model_40_steps.zip"):
        assert TRPO.load(file, environment).learn(16).num_timesteps == 16
    assert (tmp_path / "checkpoints" / "rl_model_vecnormalize_40_steps.pkl").exists()
    assert list((tmp_path / "every").iterdir()) and (tmp_path / "evaluations.npz").exists()
    tiny(environment).learn(16, progress_bar=True)


@pytest.mark.parametrize(
    ("callback", "steps"),
    [
        (lambda env: StopTrainingOnMaxEpisodes(2), 20),
        (lambda env: lambda variables, _: variables["self"].num_timesteps < 20, 20),
        (lambda env: EvalCallback(env, StopTrainingOnRewardThreshold(-1e9), eval_freq=18, verbose=0, warn=False), 18),
        (lambda env: EvalCallback(env, None, StopTrainingOnNoModelImprovement(0), 1, 8, verbose=0, warn=False), 16),
    ],
    ids=["max_episodes", "function", "reward_threshold", "no_improvement"],
)
def test_callbacks_stop_in_the_middle_of_a_rollout(callback, steps, space_env, tiny):
    constant = {step: ("reward", 0.0) for step in range(1000)}
    evaluation = space_env(VECTOR, BOX, bad=constant)
    model = tiny(space_env(VECTOR, BOX)).learn(64, callback(evaluation))
    assert model.num_timesteps == steps
    assert model._n_updates == (steps - 1) // 16


def test_predict_with_a_single_observation_and_its_probabilities(space_env, tiny):
    model = tiny(space_env(VECTOR, DISCRETE)).learn(16)
    action, state = model.predict(VECTOR.sample(), deterministic=True)
    assert DISCRETE.contains(action.item()) and state is None
    distribution = model.policy.get_distribution(model.policy.obs_to_tensor(VECTOR.sample())[0])
    assert distribution.distribution.probs.sum().item() == pytest.approx(1)


SQUASHED = {
    "gsde": {"use_sde": True, "policy_kwargs": {"squash_output": True, "normalize_observations": False}},
    "gaussian": {"policy": Squashed},
}


@pytest.mark.parametrize("settings", SQUASHED)
def test_ratios_of_squashed_actions_are_those_of_the_policy(settings, space_env, tiny):
    """The objective, computed again with the likelihoods that the policy itself gives to the actions."""
    model = tiny(space_env(VECTOR, BOX), n_steps=64, target_kl=0.1, **SQUASHED[settings]).learn(64)
    next(model.rollout_buffer.get(1))  # which lays the arrays out flat
    data = model.rollout_buffer._get_samples(np.arange(64))
    assert float(data.actions.abs().max()) < 1
    with torch.no_grad():
        ratio = (model.policy.evaluate_actions(data.observations, data.actions)[1] - data.old_log_prob).exp()
    advantages = (data.advantages - data.advantages.mean()) / data.advantages.std()
    expected = float((ratio * advantages).mean())
    assert dict(model.logger.name_to_value)["train/policy_objective"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_schedule_that_gives_no_size_of_a_region_leaves_the_policy_alone(value, space_env, tiny, bits):
    model = tiny(space_env(VECTOR, BOX), target_kl=lambda progress: value)
    before = bits(model.actor.parameters)
    model.learn(16)
    assert model.logger.name_to_value["train/update_status"] == StepStatus.NO_REGION.code
    assert bits(model.actor.parameters) == before


def test_policy_with_an_unknown_distribution_is_refused(space_env, tiny):
    class Strange:
        distribution = None

    class StrangePolicy(ActorCriticPolicy):
        def get_distribution(self, observations):
            return Strange()

    with pytest.raises(ValueError, match=r"distribution is a Strange.*Use a policy with a Gaussian"):
        tiny(space_env(VECTOR, BOX), StrangePolicy)


@pytest.mark.slow
@pytest.mark.parametrize("make", [IdentityEnvBox, lambda: gym.make("CartPole-v1")], ids=["identity", "cartpole"])
def test_longer_training_repeats_bit_for_bit(make, tiny, bits):
    runs = [tiny(make(), n_steps=512).learn(8192) for _ in range(2)]
    assert bits(runs[0].get_parameters()) == bits(runs[1].get_parameters())
