"""Both sides do the same work, and the stopwatch reads the right hands."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

import sb3_trpo_ext
from sb3_trpo_ext.bench import contenders
from sb3_trpo_ext.bench.cases import Case, RandomEnv, UpdateCase
from sb3_trpo_ext.bench.contenders import (
    OURS_AS_VEC_ENV,
    Contender,
    Span,
    Stopwatch,
    contrib,
    environment,
    environment_seconds,
    given,
    learn_once,
    match_steps,
    ours,
    ours_by_default,
    prepare,
    train_once,
    update_once,
    without_settings,
)
from tests.cases import each_device

PARTS = ["rollout", "gradient", "one Fisher product", "CG", "line search", "policy update", "critic", "update"]


def make():
    return RandomEnv(spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-1.0, 1.0, (2,)))


TINY = Case("tiny", make, n_envs=2, net_arch=(4,), samples=32)
TINY_UPDATE = UpdateCase(32, (4,))


@pytest.mark.parametrize("limit", [2, 15])
def test_both_take_as_many_steps_of_the_conjugate_gradient(limit):
    # Few parameters: sb3-contrib reaches its tolerance before it has taken 15 steps.
    theirs, mine = contrib(TINY, 0), ours(TINY, 0)
    theirs.model.cg_max_steps = limit
    train_once(theirs, seed=0)
    steps = match_steps(theirs, mine)
    train_once(mine, seed=0)
    assert steps == 2 if limit == 2 else 2 < steps < 15
    assert mine.model.logger.name_to_value["train/cg_steps"] == steps


def test_the_same_seed_gives_both_the_same_rollout_and_nearly_the_same_step():
    theirs, mine = contrib(TINY, 0), ours(TINY, 0)
    mine.model.set_parameters(theirs.model.get_parameters())  # ours starts with the value 0
    train_once(theirs, seed=0)
    match_steps(theirs, mine)
    train_once(mine, seed=0)
    next(mine.model.rollout_buffer.get(1))  # sb3-contrib draws samples, which lays the arrays out flat
    for name in ("actions", "rewards", "returns"):
        one, other = (getattr(contender.model.rollout_buffer, name) for contender in (theirs, mine))
        np.testing.assert_allclose(one.reshape(other.shape), other, rtol=1e-4, atol=1e-5)
    one, other = (contender.model.policy.action_net.weight for contender in (theirs, mine))
    torch.testing.assert_close(one, other, rtol=0.02, atol=1e-3)


@each_device
@pytest.mark.parametrize("side", [contrib, ours, ours_by_default])
def test_parts_are_there_and_add_up(side, device):
    contender = side(TINY, 0, device)
    assert contender.model.policy.device.type == device
    parts = train_once(contender, seed=0)
    assert list(parts) == [*PARTS, "end to end"]
    assert all(seconds > 0 for seconds in parts.values())
    assert parts["gradient"] + parts["CG"] + parts["line search"] == pytest.approx(parts["policy update"])
    assert parts["policy update"] + parts["critic"] == pytest.approx(parts["update"])
    assert parts["rollout"] + parts["update"] <= parts["end to end"]


@each_device
@pytest.mark.parametrize("side", [contrib, ours])
def test_an_update_leaves_the_policy_as_it_was(side, device):
    contender = side(TINY_UPDATE, 0, device)
    prepare([contender], seed=0)
    before = {name: tensor.clone() for name, tensor in contender.model.policy.state_dict().items()}
    parts = update_once(contender)
    assert "critic" not in parts
    assert "rollout" not in parts
    assert all(torch.equal(before[name], tensor) for name, tensor in contender.model.policy.state_dict().items())


@pytest.mark.parametrize("side", [contrib, ours, ours_by_default])
def test_a_whole_update_has_the_critic_in_it(side):
    contender = side(UpdateCase(64, (4,), critic=True), 0)
    prepare([contender], seed=0)
    parts = update_once(contender, critic=True)
    assert parts["critic"] > 0 and parts["update"] == parts["policy update"] + parts["critic"]


def test_the_defaults_are_ours_and_nothing_is_matched():
    mine = ours_by_default(UpdateCase(64, (4,), critic=True), 0)
    assert mine.settings == {"n_steps": 64, "policy_kwargs": {"net_arch": [4]}}
    assert (mine.model.critic, mine.model.cg_max_steps) == (None, 15)  # None: the one that suits the observations
    assert not mine.does_the_same_work and not contrib(TINY, 0).does_the_same_work
    assert ours(TINY, 0).does_the_same_work and ours(TINY, 0, curvature_sampling_factor=2).does_the_same_work


def test_training_without_settings_has_but_networks_and_the_size_of_a_rollout():
    models = without_settings(TINY, 3)
    assert list(models) == ["ours, as_vec_env", "SB3's PPO", "SB3's A2C"]
    assert [type(model).__name__ for model in models.values()] == ["TRPO", "PPO", "A2C"]
    assert all((model.seed, model.policy_kwargs["net_arch"]) == (3, [4]) for model in models.values())
    assert [model.n_steps * model.n_envs for model in models.values()] == [
        32,
        32,
        2 * A2C("MlpPolicy", make()).n_steps,
    ]
    assert [type(model.env).__name__ for model in models.values()] == [
        "InProcessVecEnv",
        *["DummyVecEnv"] * 2,
    ]
    assert models[OURS_AS_VEC_ENV].target_kl == sb3_trpo_ext.TRPO("MlpPolicy", make()).target_kl


def test_a_single_environment_is_given_as_it_is_and_several_in_sb3s_vec_env():
    assert isinstance(given(TINY), DummyVecEnv) and given(TINY).num_envs == 2
    assert isinstance(given(replace(TINY, n_envs=1)), Monitor)


def test_learning_takes_up_where_it_was_and_counts_the_steps_that_were_taken(monkeypatch):
    model = A2C("MlpPolicy", environment(TINY), n_steps=5, device="cpu")
    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr(contenders, "now", lambda: next(clock))
    assert learn_once(model, 32, seed=0) == 6 * 32 / 40  # four updates of ten steps
    learn_once(model, 32, seed=0)
    assert model.num_timesteps == 80


def test_all_are_prepared_alike():
    sides = [contrib(TINY_UPDATE, 0), ours(TINY_UPDATE, 1)]
    prepare(sides, seed=0)
    for name in ("observations", "actions", "log_probs", "advantages", "returns"):
        np.testing.assert_array_equal(*(getattr(side.model.rollout_buffer, name) for side in sides))
    first, second = (side.model.policy.state_dict() for side in sides)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_parts_of_contrib_come_from_the_moments_of_its_calls():
    watch = Stopwatch()
    watch.spans["train"] = [Span(10, 30)]
    watch.spans["hessian_vector_product"] = [Span(11, 12), Span(13, 14), Span(15, 18)]
    watch.spans["get"] = [Span(10, 10), Span(20, 20), Span(25, 25)]
    theirs = contrib(TINY, 0)
    assert theirs.split(Contender(theirs.model, watch, theirs.split, {})) == {
        "gradient": 1,
        "one Fisher product": 1,
        "CG": 7,
        "line search": 2,
        "policy update": 10,
        "critic": 10,
    }


def test_the_stopwatch_changes_nothing_but_notes_the_time():
    owner = SimpleNamespace(double=lambda x, times=2: times * x)
    watch = Stopwatch()
    watch.watch(owner, "double")
    assert (owner.double(3), owner.double(3, times=5)) == (6, 15)
    assert all(span.seconds > 0 for span in watch.spans["double"])
    assert len(watch.spans["double"]) == 2


def test_the_floor_is_measured():
    assert environment_seconds(environment(TINY), 10) > 0
