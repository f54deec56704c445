"""ACER's settings: wrong ones are named with their remedy, and what the others stand for in a gradient step."""

import math
from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_trpo_ext import ACER
from sb3_trpo_ext.acer.settings import RULES, n_statistics, step_settings
from tests.acer.cases import ACTIONS, BOX, DEFAULTS, DISCRETE, VECTOR

WRONG = {
    "learning_rate": [-1.0, "fast", None, float("nan")],
    "n_steps": [0, -1, 2.5, "20", True, 0.0, math.inf, math.nan],
    "replay_ratio": [-1, math.inf, "4"],
    "replay_start": [-1, 1.5, -1.0, True],
    "buffer_size": [0, 1.5, "1e5", math.inf],
    "gamma": [-0.1, 1.1, math.nan],
    "q_coef": [-0.5],
    "ent_coef": [-0.01, math.inf, "lots", "lin_-0.01", "lin_0.01_-0.1", None],
    "max_grad_norm": [0, -1],
    "rms_prop_eps": [0.0],
    "use_rms_prop": ["adam", None],
    "importance_clip": [-1, math.nan, "10"],
    "bias_correction": [None, "no"],
    "trust_region": ["kl", None],
    "trust_region_delta": [-1.0, math.inf],
    "trust_region_metric": ["kl", None],
    "normalize_returns": ["yes", None],
    "average_policy_decay": [-0.1, 1.5],
    "n_action_samples": [0, 2.0],
    "learn_std": ["yes"],
    "stats_window_size": [0],
    "num_threads": [0, 1.5],
    "distributed": ["yes", 2, None],
    "checkpoint_folder": [3, True],
    "checkpoint_every": [0, -1, 1.5, True],
}


@pytest.mark.parametrize("argument, value", [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value_is_named_at_construction(argument, value, space_env, tiny):
    with pytest.raises(ValueError, match=rf"ACER\({argument}=\.\.\.\) must be .*, got {value!r}\. "):
        tiny(space_env(VECTOR, DISCRETE), **{argument: value})


def test_other_action_spaces_are_refused(space_env, tiny):
    with pytest.raises(ValueError, match=r"must have a Discrete, MultiDiscrete or Box action space.*use TRPO"):
        tiny(space_env(VECTOR, spaces.MultiBinary(3)))


def test_other_policies_are_refused(space_env):
    with pytest.raises(ValueError, match=r"ACER\(policy=\.\.\.\) must be one of MlpPolicy.*critic must rate actions"):
        ACER(ActorCriticPolicy, space_env(VECTOR, DISCRETE))
    with pytest.raises(ValueError, match=r"no state-dependent exploration.*many steps at once.*Leave use_sde"):
        ACER("MlpPolicy", space_env(VECTOR, BOX), policy_kwargs={"use_sde": True})


def test_replay_that_would_never_start_is_refused(space_env, tiny):
    with pytest.raises(ValueError, match=r"replay_start=.*got 61.*buffer_size=60 that is 60 steps.*replay_ratio=0"):
        tiny(space_env(VECTOR, DISCRETE), replay_start=61)
    with pytest.raises(ValueError, match=r"got 60.*buffer_size=65 that is 56 steps.*n_steps × n_envs = 14"):
        tiny(DummyVecEnv([lambda: space_env(VECTOR, DISCRETE)] * 2), n_steps=7, buffer_size=65, replay_start=60)
    tiny(space_env(VECTOR, DISCRETE), replay_start=61, replay_ratio=0)


def test_every_rule_is_tested():
    assert {rule.argument for rule in RULES} == WRONG.keys()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("learning_rate", "lin_0.001"),
        ("learning_rate", lambda progress: progress),
        ("replay_ratio", 0.5),
        ("gamma", np.float32(0.5)),
        ("n_steps", np.int64(3)),
        ("importance_clip", math.inf),
        ("importance_clip", 0),
        ("average_policy_decay", 1),
        ("num_threads", 2),
    ],
)
def test_values_at_the_border_and_of_other_kinds_are_welcome(argument, value, space_env, tiny):
    assert getattr(tiny(space_env(VECTOR, DISCRETE), **{argument: value}), argument) is value


@pytest.mark.parametrize(
    ("argument", "value", "expected"),
    [
        ("gamma", 0.5, {"gamma": 0.5}),
        ("importance_clip", 3, {"importance_clip": 3.0}),
        ("importance_clip", 0, {"importance_clip": 0.0}),
        ("importance_clip", math.inf, {"importance_clip": math.inf}),
        ("bias_correction", False, {"bias_correction": False}),
        ("trust_region", False, {"trust_region_delta": None}),
        ("trust_region_delta", 0.25, {"trust_region_delta": 0.25}),
        ("trust_region_metric", "euclidean", {"fisher_metric": False}),
        ("average_policy_decay", 0.5, {"average_policy_decay": 0.5}),
        ("ent_coef", 0.5, {"ent_coef": 0.5}),
        ("q_coef", 2.0, {"q_coef": 2.0}),
        ("max_grad_norm", 1.0, {"max_grad_norm": 1.0}),
        ("n_action_samples", 2, {"n_action_samples": 2}),
        ("learn_std", True, {"learn_std": True}),
    ],
)
def test_each_argument_is_its_own_part_of_a_gradient_step(argument, value, expected, space_env, tiny):
    model = tiny(space_env(VECTOR, DISCRETE))
    assert step_settings(model) == DEFAULTS
    assert step_settings(tiny(space_env(VECTOR, DISCRETE), **{argument: value})) == replace(DEFAULTS, **expected)
    setattr(model, argument, value)  # also when it is changed in the course of training
    assert step_settings(model) == replace(DEFAULTS, **expected)


def test_weights_of_box_actions_are_limited_to_less(space_env, tiny):
    assert step_settings(tiny(space_env(VECTOR, BOX))) == replace(DEFAULTS, importance_clip=5.0)
    assert step_settings(tiny(space_env(VECTOR, BOX), importance_clip=10.0)) == DEFAULTS


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (spaces.Discrete(4), 4),
        (spaces.MultiDiscrete([4, 2]), 6),
        (spaces.Box(-1, 1, (3,)), 6),
        (spaces.Box(-1, 1, (2, 2)), 8),
        (spaces.Box(-1, 1, ()), 2),
    ],
)
def test_a_distribution_has_logits_or_means_and_widths(space, expected):
    assert n_statistics(space) == expected


@pytest.mark.parametrize("action", ACTIONS)
def test_what_is_stored_of_a_distribution_has_that_size(action, space_env, tiny):
    model = tiny(space_env(VECTOR, ACTIONS[action])).learn(12)
    stored = model.replay_buffer.get(np.array([0])).statistics
    assert stored.shape == (6, 1, n_statistics(ACTIONS[action]))
