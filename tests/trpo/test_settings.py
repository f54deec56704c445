"""TRPO's settings: wrong ones are refused with a remedy, and what the others stand for."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.kernels.line_search import backtrack
from sb3_trpo_ext.trpo import MaskableMlpPolicy
from sb3_trpo_ext.trpo import settings as settings_of
from sb3_trpo_ext.trpo.reuse import Discounts
from sb3_trpo_ext.trpo.settings import CRITIC_SETTINGS, RULES, adapted, chosen_for_the_critics, damping, trust_region
from sb3_trpo_ext.trust_region import direction
from sb3_trpo_ext.trust_region.direction import Backtracking, KfacNaturalGradient, NaturalGradient, Unsearched
from sb3_trpo_ext.trust_region.policy_step import StepStatus
from sb3_trpo_ext.trust_region.region import EuclideanRegion, KLRegion, averaged, summed
from tests.trpo.cases import BOX, IMAGE, VECTOR, never_satisfied

NAN, INF = float("nan"), float("inf")


def no_schedule():
    """Takes no progress."""


WRONG = {
    "learning_rate": [-1e-3, NAN, "fast", "lin_", "lin_-1", no_schedule],
    "target_kl": [0, -0.1, NAN, INF, "lin_0", "exp_0.1", no_schedule],
    "n_steps": [0, 16.0, True],
    "batch_size": [0, 3.5],
    "gamma": [-0.1, 1.1, NAN],
    "gae_lambda": [-0.1, 1.1, "0.95"],
    "cg_max_steps": [0, 2.5],
    "cg_damping": [-0.1, INF],
    "cg_tolerance": [-0.1, 1.0],
    "adaptive_damping": [2, None],
    "line_search_shrinking_factor": [0, 1, 1.5],
    "line_search_max_iter": [-1, 1.5],
    "n_critic_updates": [0, -1],
    "ent_coef": [-INF, NAN, "lots"],
    "sde_sample_freq": [-2, 2.5, "often"],
    "stats_window_size": [0, -1],
    "use_sde": ["no", None],
    "normalize_advantage": ["no", None],
    "fast": ["no", None],
    "sub_sampling_factor": [0, 1.5],
    "curvature_sampling_factor": [0, -2],
    "rollouts_per_update": [0, 2.5],
    "kl_reduction": ["max", None],
    "trust_region": ["wasserstein", None],
    "cg_preconditioner": ["jacobi", False],
    "critic": ["sgd", False],
    "n_critic_steps": [0, 2.5],
    "critic_max_kl": [0, -0.1, NAN],
    "critic_gae_lambda": [-0.1, 1.1, "0.95"],
    "num_threads": [0, -1, 1.5, True, 10**6],
    "distributed": ["yes", 2, None],
    "checkpoint_folder": [3, True],
    "checkpoint_every": [0, -1, 1.5, True],
}


def test_every_rule_is_tested():
    assert {rule.argument for rule in RULES} == set(WRONG)


@pytest.mark.parametrize(("argument", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_wrong_argument_is_refused_with_name_value_and_remedy(argument, value, make_env, tiny):
    with pytest.raises(ValueError) as error:
        tiny(make_env(), **{argument: value})
    start, _, remedy = str(error.value).partition(f", got {value!r}. ")
    assert start.startswith(f"TRPO({argument}=...) must be ")
    assert remedy.endswith(".")


@pytest.mark.parametrize(
    ("value", "kind"), [(np.float32(0.02), "target_kl"), (np.int64(8), "n_steps"), ("lin_0.02", "target_kl")]
)
def test_numbers_of_numpy_and_words_are_welcome(value, kind, make_env, tiny):
    tiny(make_env(), **{kind: value})


@pytest.mark.parametrize("settings", [{"n_steps": 1}, {"sub_sampling_factor": 16}, {"sub_sampling_factor": 99}])
def test_one_sample_cannot_be_normalized(settings, make_env, tiny):
    with pytest.raises(ValueError, match=r"TRPO\(n_steps=...\) must give more than one sample.*Raise n_steps"):
        tiny(make_env(), **settings)
    tiny(make_env(), normalize_advantage=False, **settings).learn(4)


def test_unknown_action_space_is_refused(make_env, tiny):
    with pytest.raises(ValueError, match=r"TRPO\(env=...\) must have an action space of type Box.*got Text"):
        tiny(make_env(actions=spaces.Text(3)))


def test_wrong_argument_at_load_is_refused(make_env, tiny, tmp_path):
    tiny(make_env()).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"TRPO\(target_kl=...\) must be a number > 0"):
        TRPO.load(tmp_path / "model", target_kl=-1.0)


def test_warns_of_a_batch_size_that_does_not_divide_the_rollout(space_env, tiny):
    with pytest.warns(UserWarning, match=r"batch_size=5 does not divide .* = 16: .* has 1 samples"):
        tiny(space_env(VECTOR, BOX), critic="adam", batch_size=5).learn(16)


SETTINGS_OF_A_CRITIC = {
    "trust_region": {"n_critic_steps": 7, "critic_max_kl": 0.7},
    "adam": {"learning_rate": 0.7, "batch_size": 7, "n_critic_updates": 7},
}


@pytest.mark.parametrize(("critic", "other"), [("trust_region", "adam"), ("adam", "trust_region")])
def test_warns_of_settings_that_only_the_other_critic_has(critic, other, space_env, tiny, tmp_path):
    environment = space_env(VECTOR, BOX)
    for name, value in SETTINGS_OF_A_CRITIC[other].items():
        for given in (value, CRITIC_SETTINGS[other][name]):  # the default too, if someone says it
            said = rf'{name}={given} has no effect with critic="{critic}".*"{other}"'
            with pytest.warns(UserWarning, match=said) as seen:
                TRPO("MlpPolicy", environment, critic=critic, device="cpu", **{name: given})
            assert [Path(one.filename).name for one in seen] == [Path(__file__).name]  # where the user wrote it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TRPO("MlpPolicy", environment, device="cpu")
        model = TRPO("MlpPolicy", environment, critic=critic, device="cpu", n_steps=28, **SETTINGS_OF_A_CRITIC[critic])
        model.save(tmp_path / "model")
        # RL Zoo loads every model so, only to show what it does.
        TRPO.load(tmp_path / "model", custom_objects={"learning_rate": 0.0, "clip_range": lambda progress: 0.0})


@pytest.mark.parametrize(
    ("policy", "observations", "default"),
    [
        ("MlpPolicy", VECTOR, "trust_region"),
        ("MlpPolicy", spaces.Discrete(3), "trust_region"),
        ("MultiInputPolicy", spaces.Dict(a=VECTOR, b=spaces.Discrete(2)), "trust_region"),
        ("MultiInputPolicy", spaces.Dict(a=VECTOR, b=IMAGE), "adam"),
        ("CnnPolicy", IMAGE, "adam"),
        ("MlpPolicy", spaces.Box(-1, 1, (2, 3, 4, 4)), "adam"),
    ],
)
@pytest.mark.parametrize("critic", [None, "trust_region", "adam"])
def test_how_the_critic_is_fitted(critic, policy, observations, default, space_env, tiny, tmp_path):
    """Images alone are left to Adam. How many steps were taken tells which way it was."""
    environment = space_env(observations, BOX)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the other critic's setting
        model = tiny(environment, policy, critic=critic, n_critic_steps=2, n_critic_updates=7).learn(16)
    steps = {"trust_region": 2, "adam": 7}[critic or default]
    assert model.logger.name_to_value["train/critic_steps"] == steps
    model.save(tmp_path / "model")
    loaded = TRPO.load(tmp_path / "model", env=environment).learn(16)
    assert loaded.critic == critic and loaded.logger.name_to_value["train/critic_steps"] == steps


class Encoder(BaseFeaturesExtractor):
    def __init__(self, observation_space, features_dim=5):
        super().__init__(observation_space, features_dim)
        self.layers = nn.Sequential(nn.Linear(3, features_dim), nn.BatchNorm1d(features_dim))

    def forward(self, observations):
        return self.layers(observations)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {},
            "Differentiating the actor by hand, the critic by hand; collecting fast; "
            "fitting the critic in a trust region\n",
        ),
        (
            {"use_sde": True, "critic": "adam"},
            "by autograd, the critic by hand; collecting fast; fitting the critic by minibatches\n",
        ),
        (
            {"fast": False},
            "Differentiating the actor by autograd, the critic by autograd; collecting by the loop of SB3; "
            "fitting the critic in a trust region\n",
        ),
        # 3 · 5 + 5 and 2 · 5
        (
            {"policy_kwargs": {"features_extractor_class": Encoder}},
            "; only the trust-region step trains the 30 shared parameters\n",
        ),
    ],
)
def test_says_which_ways_it_takes_when_it_begins_to_learn(settings, line, space_env, tiny, capsys):
    model = tiny(space_env(VECTOR, BOX), verbose=1, **settings)
    assert line not in capsys.readouterr().out
    model.learn(8)
    assert line in capsys.readouterr().out


def test_numbers_of_numpy(space_env, tiny):
    model = tiny(
        space_env(VECTOR, BOX),
        critic="adam",
        batch_size=np.int64(4),
        n_steps=np.int32(16),
        target_kl=np.float32(0.02),
        learning_rate=np.float64(1e-3),
        gamma=np.float32(0.9),
    ).learn(16)
    assert model.logger.name_to_value["train/target_kl"] == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("actions", "dimensions"),
    [
        (spaces.Box(-1, 1, (2, 3)), 6),
        (spaces.Discrete(5), 1),
        (spaces.MultiDiscrete([3, 2, 4]), 3),
        (spaces.MultiBinary(4), 4),
    ],
    ids=["box", "discrete", "multi_discrete", "multi_binary"],
)
def test_defaults_of_target_kl_and_damping_count_action_dimensions(actions, dimensions, space_env, tiny, tmp_path):
    environment = space_env(VECTOR, actions)

    def region(model):
        """In force in the next update: its size and damping."""
        model.learn(16, reset_num_timesteps=False)
        return tuple(model.logger.name_to_value[f"train/{name}"] for name in ("target_kl", "cg_damping"))

    model = tiny(environment)
    assert region(model) == pytest.approx((0.02 * dimensions, 0.1 * dimensions))
    assert region(tiny(environment, kl_reduction="mean")) == (0.02, 0.1)
    assert region(tiny(environment, trust_region="euclidean")) == (0.02, 0.0)  # nothing to damp
    assert region(tiny(environment, target_kl=0.01, cg_damping=0.0)) == (0.01, 0.0)
    model.save(tmp_path / "model")
    assert region(TRPO.load(tmp_path / "model", env=model.get_env())) == region(model)
    assert region(TRPO.load(tmp_path / "model", env=model.get_env(), kl_reduction="mean")) == (0.02, 0.1)


@pytest.mark.parametrize("adaptive", [True, False])
def test_damping_doubles_with_each_failure_and_returns_with_each_success(adaptive, make_env, tiny, monkeypatch):
    model = tiny(make_env(), cg_damping=0.1, adaptive_damping=adaptive)

    def damping(search):
        """Of one more update, with this line search."""
        monkeypatch.setattr(direction, "backtrack", search)
        model.learn(16, reset_num_timesteps=False)
        return model.logger.name_to_value["train/cg_damping"] / 0.1

    factors = [damping(never_satisfied) for _ in range(3)] + [damping(backtrack) for _ in range(4)]
    assert factors == pytest.approx([1, 2, 4, 8, 4, 2, 1] if adaptive else [1] * 7)


def test_damping_that_adapts_is_saved_and_cannot_be_zero(make_env, tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(direction, "backtrack", never_satisfied)
    model = tiny(make_env(), adaptive_damping=True).learn(32)
    model.save(tmp_path / "model")
    loaded = TRPO.load(tmp_path / "model", env=model.get_env()).learn(16, reset_num_timesteps=False)
    assert loaded.logger.name_to_value["train/cg_damping"] == pytest.approx(4 * 0.1 * 2)  # after two failures, 2-D
    with pytest.raises(ValueError, match=r"TRPO\(adaptive_damping=True\) must have a cg_damping above 0, got 0"):
        tiny(make_env(), adaptive_damping=True, cg_damping=0.0)


def test_damping_has_a_ceiling_and_changes_with_the_quadratic_model_only():
    factor = 1.0
    for _ in range(12):
        factor = adapted(factor, StepStatus.BAD_CURVATURE)
    assert factor == 1024
    assert adapted(factor, StepStatus.ZERO_GRADIENT) == adapted(factor, StepStatus.NO_REGION) == 1024
    assert adapted(1.5, StepStatus.ACCEPTED) == adapted(1.0, StepStatus.ACCEPTED) == 1


def test_policies_with_memory_or_masks_are_refused_with_a_remedy():
    with pytest.raises(ValueError, match=r"TRPO\(policy=...\) must be a policy without memory.*RecurrentTRPO"):
        TRPO(RecurrentActorCriticPolicy, "CartPole-v1", device="cpu")
    with pytest.raises(ValueError, match=r"TRPO\(policy=...\) must be a subclass .*action masks use MaskableTRPO"):
        TRPO(MaskableActorCriticPolicy, "CartPole-v1", device="cpu")
    with pytest.raises(ValueError, match=r"TRPO\(policy=...\) must be a policy without memory and masks"):
        TRPO(MaskableMlpPolicy, "CartPole-v1", device="cpu")
    with pytest.raises(ValueError, match="must be a subclass"):
        TRPO(ActorCriticPolicy.__base__, "CartPole-v1", device="cpu")


@pytest.mark.parametrize(
    ("policy", "observations", "settings"),
    [
        ("MlpPolicy", VECTOR, {"use_sde": True}),
        ("MlpPolicy", VECTOR, {"fast": False}),
        ("CnnPolicy", IMAGE, {}),
        ("MlpPolicy", VECTOR, {"policy_kwargs": {"features_extractor_class": Encoder}}),
    ],
    ids=["gsde", "autograd", "image", "extractor"],
)
def test_a_preconditioner_needs_an_actor_of_dense_layers(policy, observations, settings, make_env, tiny):
    with pytest.raises(ValueError, match=r'TRPO\(cg_preconditioner="kfac"\) needs an actor of dense layers.*to None\.'):
        tiny(make_env(observations=observations), policy, cg_preconditioner="kfac", **settings)
    tiny(make_env(), cg_preconditioner="kfac")


def test_what_is_given_to_the_critics_replaces_their_defaults():
    defaults = {
        "learning_rate": 1e-3,
        "batch_size": 128,
        "n_critic_updates": 10,
        "n_critic_steps": 3,
        "critic_max_kl": 0.1,
    }
    assert chosen_for_the_critics(learning_rate=None, batch_size=None) == ({}, defaults)
    given = {"batch_size": 0, "critic_max_kl": 0.1}
    assert chosen_for_the_critics(learning_rate=None, **given) == (given, defaults | given)


@pytest.mark.parametrize("progress", [1.0, 0.25, 0.0])
def test_region_and_damping_are_those_of_the_moment(progress, make_env, tiny):
    model = tiny(make_env(), target_kl="lin_0.4", cg_damping=0.3, curvature_sampling_factor=5, kl_reduction="mean")
    model._current_progress_remaining, model._damping_factor = progress, 4.0
    region = trust_region(model)
    assert type(region) is KLRegion and region.target_kl == pytest.approx(0.4 * progress)
    assert region.cg_damping == damping(model) == pytest.approx(1.2)
    assert (region.curvature_sampling_factor, region.kl_reduction) == (5, averaged)


def test_a_euclidean_region_has_neither_damping_nor_dimensions(make_env, tiny):
    model = tiny(make_env(), trust_region="euclidean", cg_damping=0.3)
    assert trust_region(model) == EuclideanRegion(0.02, summed) and trust_region(model).cg_damping == 0
    assert trust_region(tiny(make_env())).target_kl == pytest.approx(2 * 0.02)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, NaturalGradient(7, 0.25)),
        ({"cg_preconditioner": "kfac"}, KfacNaturalGradient(7, 0.25)),
        ({"cg_preconditioner": "kfac", "trust_region": "euclidean"}, NaturalGradient(7, 0.25)),
    ],
)
def test_direction_of_an_update(settings, expected, make_env, tiny):
    assert settings_of.direction(tiny(make_env(), cg_max_steps=7, cg_tolerance=0.25, **settings)) == expected


def test_search_of_an_update(make_env, tiny):
    model = tiny(make_env(), line_search_shrinking_factor=0.5, line_search_max_iter=4)
    assert settings_of.search(model) == Backtracking(0.5, 4)
    model.line_search_max_iter = 0
    assert type(settings_of.search(model)) is Unsearched


def target_kls(model, total, **settings):
    """Those of the updates of one call of learn, in units of what the first has at most."""
    seen, original = [], model.train

    def train():
        original()
        seen.append(model.logger.name_to_value["train/target_kl"] / (settings_of.KL_PER_DIMENSION * 2))

    model.train = train
    model.learn(total, **settings)
    del model.train  # or it would be saved with the model
    return seen


def test_the_default_region_shrinks_over_each_call_of_learn(space_env, tiny, tmp_path):
    model = tiny(space_env(VECTOR, BOX))  # 16 steps a rollout
    fall = [1.0, 0.75, 0.5, 0.25]
    assert target_kls(model, 64) == pytest.approx(fall)
    assert target_kls(model, 64) == pytest.approx(fall)
    assert target_kls(model, 64, reset_num_timesteps=False) == pytest.approx(fall)
    # A call for each rollout, as in a loop that evaluates in between: the total is not known, and nothing falls.
    assert [target_kls(model, 16, reset_num_timesteps=False)[0] for _ in range(3)] == pytest.approx([1, 1, 1])
    assert target_kls(model, 50) == pytest.approx(fall)  # the last rollout goes beyond
    model.save(tmp_path / "model")
    loaded = TRPO.load(tmp_path / "model", env=space_env(VECTOR, BOX))
    assert target_kls(loaded, 64, reset_num_timesteps=False) == pytest.approx(fall)
    assert all(target < 1e-3 for target in target_kls(tiny(space_env(VECTOR, BOX), target_kl=1e-6), 64))


def test_the_default_region_of_an_earlier_file_stays_as_large(space_env, tiny, tmp_path, monkeypatch):
    model = tiny(space_env(VECTOR, BOX))
    monkeypatch.setattr(
        model, "_excluded_save_params", lambda: [*TRPO._excluded_save_params(model), "_timesteps_before"]
    )
    model.learn(16).save(tmp_path / "model")
    loaded = TRPO.load(tmp_path / "model", env=space_env(VECTOR, BOX))
    assert target_kls(loaded, 64) == pytest.approx([1, 1, 1, 1])
    loaded.save(tmp_path / "again")
    again = TRPO.load(tmp_path / "again", env=space_env(VECTOR, BOX))
    assert target_kls(again, 64) == pytest.approx([1, 1, 1, 1])


def test_a_region_outside_of_learn_is_the_first_ones(space_env, tiny):
    model = tiny(space_env(VECTOR, BOX))
    assert trust_region(model).target_kl == pytest.approx(2 * settings_of.KL_PER_DIMENSION)


@pytest.mark.parametrize(
    ("given", "advantages", "critics"),
    [
        ({}, 0.8, 0.95),
        ({"gae_lambda": 0.9}, 0.9, None),
        ({"critic_gae_lambda": 0.9}, 0.8, 0.9),
        ({"gae_lambda": 0.7, "critic_gae_lambda": 1.0}, 0.7, 1.0),
    ],
)
def test_one_lambda_that_is_given_is_for_both(given, advantages, critics, space_env, tiny, tmp_path):
    model = tiny(space_env(VECTOR, BOX), **given)
    model.save(tmp_path / "model")
    for each in (model, TRPO.load(tmp_path / "model")):
        assert (each.gae_lambda, each.critic_gae_lambda) == (advantages, critics)
        assert each.rollout_buffer.gae_lambda == advantages
        expected = Discounts(0.99, advantages, advantages if critics is None else critics)
        assert settings_of.discounts(each) == expected


class TenTimes(RolloutBuffer):
    """Computes its returns in a way of its own."""

    def compute_returns_and_advantage(self, last_values, dones):
        super().compute_returns_and_advantage(last_values, dones)
        self.advantages *= 10
        self.returns[:] = 7


def test_a_buffer_that_computes_returns_itself_keeps_them(space_env, tiny):
    model = tiny(space_env(VECTOR, BOX), rollout_buffer_class=TenTimes).learn(16)
    assert settings_of.targets(model) is None and bool((model._rollout().returns == 7).all())
    assert settings_of.targets(tiny(space_env(VECTOR, BOX))) == 0.95


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (BOX, 0.8),
        (spaces.Box(-1, 1, (2, 2)), 0.8),
        (spaces.Box(-1, 1, (1,)), 0.95),
        (spaces.Discrete(9), 0.95),
        (spaces.MultiDiscrete([3, 2]), 0.8),
        (spaces.MultiBinary(1), 0.95),
    ],
)
def test_the_default_lambda_depends_on_how_many_dimensions_draw_noise(space, expected, space_env, tiny):
    model = tiny(space_env(VECTOR, space))
    assert (model.gae_lambda, model.critic_gae_lambda) == (expected, 0.95)


@pytest.mark.parametrize(("critic", "starts"), [("trust_region", True), ("adam", False)])
def test_a_critic_in_a_trust_region_starts_with_0(critic, starts, space_env, tiny):
    model = tiny(space_env(VECTOR, BOX), critic=critic)
    assert (float(model.policy.value_net.weight.abs().max()) == 0) == starts
