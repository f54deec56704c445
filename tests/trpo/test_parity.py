"""
The same rollout and weights given to sb3-contrib's TRPO and to ours.

sb3-contrib averages the KL over the dimensions of Box and MultiBinary actions. Its update is therefore ours with
``kl_reduction="mean"``, and also ours with the true KL when ``target_kl`` and ``cg_damping`` are d times as large.
"""

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import TRPO as ContribTRPO
from stable_baselines3.common.logger import Logger

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.common.inputs import one_in
from tests.cases import ACTIONS, DIM, OBSERVATION

STEPS = 256
DELTA, DAMPING = 0.01, 0.1
DIMENSIONS = {"box": DIM, "discrete": 1, "multi_discrete": 1, "multi_binary": DIM}  # over which a KL is averaged
COMMON = {
    "n_steps": STEPS,
    "batch_size": 64,
    "n_critic_updates": 5,
    "cg_max_steps": 25,
    "gae_lambda": 0.95,
    "device": "cpu",
}


class Anything(gym.Env):
    """Only its spaces matter."""

    def __init__(self, action_space):
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (OBSERVATION,))
        self.action_space = action_space


def actor_and_critic(model):
    names = model.policy.state_dict()
    critic = [name for name in names if "value" in name]
    return [
        torch.cat([names[name].flatten() for name in names if (name in critic) == wanted]) for wanted in (False, True)
    ]


class Pair:
    """sb3-contrib's model and ours, alike in weights and rollout, and what one update changed in each."""

    def __init__(self, name, ours, contribs=None, rng=3):
        env = Anything(ACTIONS[name])
        theirs = {"target_kl": DELTA, "cg_damping": DAMPING} | (contribs or {})
        self.contrib = ContribTRPO("MlpPolicy", env, seed=1, **(COMMON | theirs))
        raw = {"normalize_observations": False}
        self.ours = TRPO(
            "MlpPolicy", env, seed=2, cg_tolerance=1e-6, critic="adam", policy_kwargs=raw, **(COMMON | ours)
        )
        torch.manual_seed(rng)
        state = {key: value + 0.2 * torch.randn_like(value) for key, value in self.contrib.policy.state_dict().items()}
        self.moves = []
        for model in (self.contrib, self.ours):
            model.policy.load_state_dict(state)
            self._fill(model, rng)
            before = actor_and_critic(model)
            model.set_logger(Logger(None, []))
            np.random.seed(rng)  # the order of the critic's minibatches
            model.train()
            self.moves.append([new - old for new, old in zip(actor_and_critic(model), before, strict=True)])
        self.after = [actor_and_critic(model) for model in (self.contrib, self.ours)]

    def _fill(self, model, rng):
        """The same rollout of random observations, the policy's actions, and noise for returns."""
        torch.manual_seed(rng)
        buffer, random = model.rollout_buffer, np.random.default_rng(rng)
        observations = torch.randn(STEPS, OBSERVATION)
        with torch.no_grad():
            actions, values, log_probs = model.policy(observations)
        buffer.observations[:, 0] = observations.numpy()
        buffer.actions[:, 0] = actions.reshape(STEPS, -1).numpy()
        buffer.values[:, 0] = values.flatten().numpy()
        buffer.log_probs[:, 0] = log_probs.numpy()
        buffer.advantages[:, 0] = random.normal(2, 3, STEPS)
        buffer.returns[:] = buffer.advantages + buffer.values
        buffer.full, buffer.pos = True, STEPS

    def logged(self, key):
        return [model.logger.name_to_value[f"train/{key}"] for model in (self.contrib, self.ours)]


def scaled(name):
    return {"target_kl": DIMENSIONS[name] * DELTA, "cg_damping": DIMENSIONS[name] * DAMPING}


SETTINGS = {
    "sum, scaled by d": scaled,
    "mean": lambda name: {"target_kl": DELTA, "cg_damping": DAMPING, "kl_reduction": "mean"},
}

each_space = pytest.mark.parametrize("name", ACTIONS.keys())
each_setting = pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS.keys())
each_way = pytest.mark.parametrize("fast", [True, False], ids=["by hand", "autograd"])


@each_space
@each_setting
@each_way
def test_update_is_that_of_sb3_contrib(name, setting, fast):
    pair = Pair(name, setting(name) | {"fast": fast})
    contribs, ours = (actor for actor, _ in pair.moves)
    assert pair.logged("is_line_search_success") == [1, 1]
    cosine = torch.nn.functional.cosine_similarity(contribs, ours, dim=0)
    assert float(cosine) > 0.999999
    assert float(ours.norm() / contribs.norm()) == pytest.approx(1, rel=1e-4)
    torch.testing.assert_close(pair.after[1][0], pair.after[0][0], rtol=0, atol=5e-4 * float(contribs.abs().max()))


@each_space
@each_way
def test_critic_is_that_of_sb3_contrib(name, fast):
    pair = Pair(name, scaled(name) | {"fast": fast})
    assert float(pair.moves[0][1].abs().max()) > 0.01, "the example must not be trivial"
    torch.testing.assert_close(pair.after[1][1], pair.after[0][1], rtol=0, atol=1e-6)
    for key in ("value_loss", "explained_variance"):
        contribs, ours = pair.logged(key)
        assert ours == pytest.approx(contribs, rel=1e-4)


@each_space
def test_logged_divergence_is_d_times_as_large(name):
    """Up to the direction of the KL, which matters little over so short a step."""
    contribs, ours = Pair(name, scaled(name)).logged("kl_divergence_loss")
    assert ours == pytest.approx(DIMENSIONS[name] * contribs, rel=0.1)
    contribs, ours = Pair(name, SETTINGS["mean"](name)).logged("kl_divergence_loss")
    assert ours == pytest.approx(contribs, rel=0.1)


@pytest.mark.parametrize("name", ["box", "multi_binary"])
def test_unscaled_settings_are_another_update(name):
    """So that agreement above means something: with the same numbers and no damping, our full step is shorter by √d."""
    undamped = {"target_kl": 1e-4, "cg_damping": 0.0, "cg_max_steps": 10}
    pair = Pair(name, undamped, undamped)
    ratio = float(pair.moves[1][0].norm() / pair.moves[0][0].norm())
    assert ratio == pytest.approx(DIM**-0.5, rel=1e-3)


@each_space
def test_sub_sampling_has_the_same_meaning(name, monkeypatch):
    """Up to which samples are taken: sb3-contrib shuffles them before, here such that it takes those that ours does."""

    def order(n):
        rows = np.arange(n)
        fourth, ours = rows[::4].copy(), one_in(4, n).numpy()
        rows[fourth], rows[ours] = ours, fourth
        return rows

    monkeypatch.setattr(np.random, "permutation", order)
    pair = Pair(name, scaled(name) | {"sub_sampling_factor": 4}, {"sub_sampling_factor": 4})
    torch.testing.assert_close(
        pair.after[1][0], pair.after[0][0], rtol=0, atol=5e-4 * float(pair.moves[0][0].abs().max())
    )


@pytest.mark.parametrize("name", ["box", "discrete"])
def test_without_normalization_of_advantages(name):
    pair = Pair(name, scaled(name) | {"normalize_advantage": False}, {"normalize_advantage": False})
    torch.testing.assert_close(
        pair.after[1][0], pair.after[0][0], rtol=0, atol=5e-4 * float(pair.moves[0][0].abs().max())
    )
