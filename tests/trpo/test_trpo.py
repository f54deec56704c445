"""One iteration: which samples, settings and modes reach which part of the update."""

from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.common.inputs import Inputs, one_in
from sb3_trpo_ext.kernels.vector import flatten
from sb3_trpo_ext.trpo import trpo
from sb3_trpo_ext.trust_region.batch import Batch
from sb3_trpo_ext.trust_region.critic_fit import fit_by_gradient_descent, fit_in_trust_region
from sb3_trpo_ext.trust_region.direction import Backtracking, KfacNaturalGradient, NaturalGradient, Unsearched
from sb3_trpo_ext.trust_region.policy_step import StepStatus
from sb3_trpo_ext.trust_region.region import EuclideanRegion, KLRegion, averaged, summed
from sb3_trpo_ext.trust_region.step import trust_region_step
from tests.cases import make_actor, reference_kl, torch_reference

N = 32


@pytest.fixture
def make(make_env, tiny):
    def build(**settings):
        environment = DummyVecEnv([make_env, make_env])
        return tiny(environment, **({"target_kl": 0.03, "cg_damping": 0.2} | settings))

    return build


@pytest.fixture
def after_the_rollout():
    """Notes something in ``model.noted`` between a rollout and its update."""

    def install(model, note):
        collect = model._collect

        def noting(*arguments):
            complete = collect(*arguments)
            model.noted = note()
            return complete

        model._collect = noting

    return install


def logged(model):
    return dict(model.logger.name_to_value)


def batch_of(buffer):
    """All samples of a buffer in the update's order, read by other means than the package's."""
    flat = {
        name: torch.from_numpy(np.concatenate([getattr(buffer, name)[:, i] for i in range(buffer.n_envs)]))
        for name in ("observations", "actions", "advantages", "returns", "values")
    }
    return Batch(Inputs(flat.pop("observations")), **flat)


KL = KLRegion(0.03, summed, 0.2)
CG, KFAC, SEARCH = NaturalGradient(15, 1e-4), KfacNaturalGradient(2, 1e-4), Backtracking(0.8, 10)
# Settings → the parts of the policy's update that they stand for, and the weight of the entropy.
UPDATES = {
    "default": ({}, (KL, CG, SEARCH, 0.0)),
    "mean_kl": ({"kl_reduction": "mean"}, (KLRegion(0.03, averaged, 0.2), CG, SEARCH, 0.0)),
    "euclidean": ({"trust_region": "euclidean"}, (EuclideanRegion(0.03, summed), CG, SEARCH, 0.0)),
    "thinned_curvature": ({"curvature_sampling_factor": 3}, (KLRegion(0.03, summed, 0.2, 3), CG, SEARCH, 0.0)),
    "few_steps": ({"cg_max_steps": 2}, (KL, NaturalGradient(2, 1e-4), SEARCH, 0.0)),
    "tolerant": ({"cg_tolerance": 0.5}, (KL, NaturalGradient(15, 0.5), SEARCH, 0.0)),
    "preconditioned": ({"cg_preconditioner": "kfac", "cg_max_steps": 2}, (KL, KFAC, SEARCH, 0.0)),
    "unsearched": ({"line_search_max_iter": 0}, (KL, CG, Unsearched(), 0.0)),
    "large_steps_back": (
        {"target_kl": 3.0, "cg_damping": 0.05, "line_search_shrinking_factor": 0.3},
        (KLRegion(3.0, summed, 0.05), CG, Backtracking(0.3, 10), 0.0),
    ),
    "entropy": ({"ent_coef": 0.3}, (KL, CG, SEARCH, 0.3)),
}


@pytest.mark.parametrize("update", UPDATES)
def test_the_policys_update_is_the_step_of_the_parts_that_the_settings_name(update, make, after_the_rollout):
    settings, (region, direction, search, ent_coef) = UPDATES[update]
    model = make(**settings)
    twin = deepcopy(model.policy)
    twin.set_training_mode(False)
    after_the_rollout(model, torch.get_rng_state)  # the preconditioner draws actions
    model.learn(N)
    batch = batch_of(model.rollout_buffer)
    spread = (batch.advantages - batch.advantages.mean()) / batch.advantages.std()
    normalised = Batch(batch.inputs, batch.actions, spread, batch.returns, batch.values)
    torch.set_rng_state(model.noted)
    actor = make_actor(twin)
    before = flatten(actor.parameters).clone()
    step = trust_region_step(actor, normalised, region, direction, search, ent_coef)
    ours, expected = flatten(model.actor.parameters) - before, flatten(actor.parameters) - before
    length = float(expected.norm())
    assert step.status is StepStatus.ACCEPTED and length > 0.01
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4 * length)
    assert logged(model)["train/kl_divergence_loss"] == pytest.approx(step.kl_mean, rel=1e-3)


# The critic's settings → its fit.
FITS = {
    "trust_region": (
        {"n_critic_steps": 2, "critic_max_kl": 0.05, "cg_max_steps": 7},
        lambda critic, batch: fit_in_trust_region(critic, batch, critic_max_kl=0.05, n_critic_steps=2, cg_max_steps=7),
    ),
    "adam": (
        {"learning_rate": lambda progress: 0.01 if progress == 1 else 0.02, "batch_size": 8, "n_critic_updates": 3},
        lambda critic, batch: fit_by_gradient_descent(critic, batch, batch_size=8, n_critic_updates=3),
    ),
}


@pytest.mark.parametrize("critic", FITS)
def test_the_critic_learns_from_all_samples_although_the_policy_from_some(critic, make, after_the_rollout):
    settings, fit = FITS[critic]
    settings = settings | {"gae_lambda": 0.95}  # for the critic too: its targets are then the buffer's
    twin = make(critic=critic, **settings)
    model = make(critic=critic, sub_sampling_factor=4, **settings)
    after_the_rollout(model, np.random.get_state)
    model.learn(N)
    np.random.set_state(model.noted)
    np.random.permutation(N)  # which SB3 draws when it reads a buffer
    for group in twin.policy.optimizer.param_groups:
        group["lr"] = 0.02
    expected = fit(twin.value_function, batch_of(model.rollout_buffer))
    torch.testing.assert_close(
        flatten(model.value_function.parameters), flatten(twin.value_function.parameters), rtol=1e-3, atol=1e-5
    )
    assert logged(model)["train/critic_steps"] == expected.steps == {"trust_region": 2, "adam": 3 * N // 8}[critic]
    assert logged(model)["train/value_loss"] == pytest.approx(expected.value_loss, rel=1e-4)


@pytest.mark.parametrize("factor", [2, 5])
def test_the_policy_learns_from_one_sample_in_k(factor, make):
    model = make(sub_sampling_factor=factor)
    twin = deepcopy(model.policy)
    model.learn(N)
    batch = batch_of(model.rollout_buffer)
    rows = one_in(factor, batch.size)
    advantages = batch.advantages[rows]
    thinned = Batch(
        Inputs(batch.inputs.observations[rows]),
        batch.actions[rows],
        (advantages - advantages.mean()) / advantages.std(),
        batch.returns[rows],
        batch.values[rows],
    )
    actor = make_actor(twin)
    trust_region_step(actor, thinned, KL, CG, SEARCH)
    torch.testing.assert_close(flatten(model.actor.parameters), flatten(actor.parameters), rtol=1e-3, atol=1e-4)


class Noisy(BaseFeaturesExtractor):
    """Half of the features are dropped in training mode."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 8)
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5))

    def forward(self, observations):
        return self.layers(observations)


class TrainingMode(BaseCallback):
    """Leaves the policy in training mode, and other random numbers, when a rollout has ended."""

    def __init__(self, seed):
        super().__init__()
        self.seed = seed

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.model.policy.set_training_mode(True)
        torch.manual_seed(self.seed)


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
@pytest.mark.parametrize("rollouts", [1, 2])
def test_a_callback_in_training_mode_brings_no_dropout_into_the_step(rollouts, fast, make, bits):
    policy_kwargs = {"features_extractor_class": Noisy, "normalize_observations": False}
    settings = {"policy_kwargs": policy_kwargs, "fast": fast, "rollouts_per_update": rollouts}
    models = [make(**settings).learn(N, TrainingMode(seed)) for seed in (1, 2)]
    assert bits(models[0].actor.parameters) == bits(models[1].actor.parameters)
    # And what is measured is the policy that acts.
    model, old = models[0], make(**settings)
    observations = batch_of(model.rollout_buffer).inputs.observations
    for policy in (old.policy, model.policy):
        policy.set_training_mode(False)
    references = (torch_reference(policy, observations) for policy in (old.policy, model.policy))
    kl = reference_kl(*references).mean().item()
    assert logged(model)["train/kl_divergence_loss"] == pytest.approx(kl, rel=1e-3) and 0 < kl <= 0.03


@pytest.mark.parametrize(("critic", "told"), [("trust_region", False), ("adam", True)])
def test_a_learning_rate_is_told_and_set_only_where_there_is_one(critic, told, make):
    rate = {"learning_rate": "lin_0.5"} if told else {}
    model = make(critic=critic, **rate).learn(2 * N)
    assert ("train/learning_rate" in logged(model)) == told
    assert model.policy.optimizer.param_groups[0]["lr"] == (0.0 if told else 1e-3)


@pytest.mark.parametrize(("num_threads", "inside"), [(None, 1), (2, 2)])
def test_threads_are_set_for_the_update_and_put_back(num_threads, inside, make, monkeypatch):
    seen = []

    def watched(function):
        def call(*arguments):
            seen.append(torch.get_num_threads())
            return function(*arguments)

        return call

    for name in ("trust_region_step", "fit_in_trust_region"):
        monkeypatch.setattr(trpo, name, watched(getattr(trpo, name)))
    torch.set_num_threads(3)
    try:
        make(num_threads=num_threads).learn(N)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    assert seen == [inside, inside]


def test_rollouts_are_kept_up_to_their_number_and_forgotten_when_training_begins_anew(make, make_env):
    model = make(rollouts_per_update=3)
    kept = []
    for _ in range(4):
        model.learn(N, reset_num_timesteps=model.num_timesteps == 0)
        kept.append(len(model._earlier))
    assert kept == [1, 2, 2, 2]
    model.learn(N)
    assert len(model._earlier) == 1
    model.rollouts_per_update = 1
    model.learn(N, reset_num_timesteps=False)
    assert len(model._earlier) == 0


def test_names_of_policies_stand_for_the_packages_own(make_env):
    assert {name: kind.__name__ for name, kind in TRPO.policy_aliases.items()} == {
        name: name for name in ("MlpPolicy", "CnnPolicy", "MultiInputPolicy")
    }
    assert all(kind.__module__ == "sb3_trpo_ext.trpo.policies" for kind in TRPO.policy_aliases.values())


def test_a_variant_says_how_its_policy_is_asked(make_env):
    """Its own heads are asked in all parts of an iteration, for networks that are run by hand and for others."""
    asked = set()

    class Watched(trpo.Heads):
        def __getattribute__(self, name):
            asked.add(name)
            return super().__getattribute__(name)

    class Variant(TRPO):
        def _heads(self):
            return Watched(self.policy)

    for use_sde in (False, True):
        env = DummyVecEnv([partial(make_env, length=4)])
        Variant("MlpPolicy", env, n_steps=16, use_sde=use_sde, device="cpu").learn(16)
    asks = {"blank", "present", "recorded", "actions", "family", "family_of_output", "values", "evaluate", "sampler"}
    assert asks | {"actor_network", "critic_network", "can_collect_fast"} <= asked
