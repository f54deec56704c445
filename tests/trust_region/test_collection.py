"""Fast collection against SB3's own loop: the same seed, the same rollout."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from sb3_trpo_ext.common import sampler
from sb3_trpo_ext.trust_region.collection import FastBehaviour
from sb3_trpo_ext.trust_region.heads import Heads

VECTOR = spaces.Box(-1, 1, (3,))
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
BOX = spaces.Box(-1, 1, (2,))
ACTIONS = {
    "box": BOX,
    "matrix": spaces.Box(-1, 1, (2, 2)),
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
    "multi_binary": spaces.MultiBinary(4),
}
OBSERVATIONS = {
    "vector": ("MlpPolicy", VECTOR),
    "matrix": ("MlpPolicy", spaces.Box(-1, 1, (2, 3))),
    "discrete": ("MlpPolicy", spaces.Discrete(4)),
    "multi_discrete": ("MlpPolicy", spaces.MultiDiscrete([3, 2])),
    "image": ("CnnPolicy", IMAGE),
    "dict": ("MultiInputPolicy", spaces.Dict(vector=VECTOR, picture=IMAGE, number=spaces.Discrete(3))),
}
SETTINGS = {
    "plain": {},
    "relu": {"policy_kwargs": {"activation_fn": nn.ReLU}},
    "elu": {"policy_kwargs": {"activation_fn": nn.ELU}},
    "gsde": {"use_sde": True},
    "gsde_resampled": {"use_sde": True, "sde_sample_freq": 4},
    "gsde_squashed": {"use_sde": True, "policy_kwargs": {"squash_output": True}},
}
ARRAYS = ("observations", "actions", "rewards", "episode_starts", "values", "log_probs", "returns", "advantages")


def rollouts(make, updates=2):
    """The last rollout's arrays, collected fast and by SB3's loop, after ``updates`` updates."""
    result = []
    for fast in (True, False):
        # An update between them enlarges what rounding makes different, the more the longer its steps.
        model = make(fast=fast, target_kl=0.01, critic="adam")
        assert Heads(model.policy).can_collect_fast(model.rollout_buffer)
        model.learn(updates * model.n_steps * model.n_envs)
        result.append({name: getattr(model.rollout_buffer, name) for name in ARRAYS})
    return result


def assert_same(make):
    fast, slow = rollouts(make)
    for name in ARRAYS:
        pairs = [(fast[name], slow[name])]
        if isinstance(fast[name], dict):
            pairs = [(fast[name][key], slow[name][key]) for key in slow[name]]
        for ours, theirs in pairs:
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("action", ACTIONS)
def test_every_space(action, observation, n_envs, space_env, tiny):
    policy, observation_space = OBSERVATIONS[observation]

    def make(**settings):
        environment = DummyVecEnv([lambda: space_env(observation_space, ACTIONS[action])] * n_envs)
        return tiny(environment, policy, **settings)

    assert_same(make)


@pytest.mark.parametrize("variant", SETTINGS)
def test_every_setting(variant, space_env, tiny):
    assert_same(lambda **more: tiny(space_env(VECTOR, BOX), **SETTINGS[variant], **more))


def test_with_normalization(space_env, tiny):
    def make(**settings):
        return tiny(VecNormalize(DummyVecEnv([lambda: space_env(VECTOR, BOX)] * 2)), **settings)

    assert_same(make)


def test_time_limits_are_bootstrapped_with_the_terminal_observation(space_env, tiny):
    """Rewards at truncations differ from the environment's by γ V(terminal observation), as in SB3."""
    model = tiny(space_env(VECTOR, BOX, length=3), n_steps=6)
    environment, given, terminal = model.get_env(), [], []
    step = environment.step_wait

    def watched():
        result = step()
        given.append(result[1][0])
        terminal.append(result[3][0].get("terminal_observation"))
        return result

    environment.step_wait = watched
    weights = model.policy.state_dict()
    before = {name: tensor.clone() for name, tensor in weights.items()}
    model.learn(6)
    model.policy.load_state_dict(before)
    ended = [i for i, observation in enumerate(terminal) if observation is not None]
    assert ended == [2, 5]
    for i, reward in enumerate(given):
        extra = 0.0
        if i in ended:
            with torch.no_grad():
                extra = model.gamma * float(model.policy.predict_values(torch.as_tensor(terminal[i])[None].float()))
        assert model.rollout_buffer.rewards.flatten()[i] == pytest.approx(reward + extra, abs=1e-5)


class Watcher(BaseCallback):
    def __init__(self):
        super().__init__()
        self.seen, self.at_end = [], {}

    def _on_step(self):
        self.seen.append({name: np.copy(self.locals[name]) for name in ("actions", "rewards", "dones", "new_obs")})
        assert len(self.locals["infos"]) == self.training_env.num_envs
        return True

    def _on_rollout_end(self):
        self.at_end = {name: np.asarray(self.locals[name]) for name in ("values", "log_probs")}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("settings", [{}, {"use_sde": True}], ids=["by hand", "by autograd"])
def test_states_that_are_not_finite_are_evaluated_as_zeros(settings, bad, space_env, tiny):
    model = tiny(space_env(VECTOR, BOX), **settings)
    model.learn(model.n_steps)
    buffer, whole = model.rollout_buffer, slice(0, model.n_steps)
    behaviour = FastBehaviour(lambda: (model.actor, model.value_function), buffer, 0.99, None)
    buffer.observations[2, 0, 1] = 0
    behaviour.evaluate(whole)
    expected = buffer.values.copy(), buffer.log_probs.copy()
    buffer.observations[2, 0, 1] = bad
    behaviour.evaluate(whole)
    np.testing.assert_array_equal((buffer.values, buffer.log_probs), expected)


def test_large_networks_are_asked_once_for_actions_and_their_likelihood(space_env, tiny, monkeypatch):
    """Their log-probabilities are noted when the actions are drawn."""
    model = tiny(space_env(IMAGE, BOX), "CnnPolicy")
    monkeypatch.setattr(sampler, "LARGE", 1)
    asked = []
    monkeypatch.setattr(type(model.actor), "family", lambda *_: asked.append(1))
    _, callback = model._setup_learn(100)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    assert not asked
    noted = model.rollout_buffer.log_probs.copy()
    monkeypatch.undo()
    behaviour = FastBehaviour(lambda: (model.actor, model.value_function), model.rollout_buffer, 0.99, None)
    behaviour.evaluate(slice(0, model.n_steps))
    np.testing.assert_allclose(noted, model.rollout_buffer.log_probs, rtol=1e-5, atol=1e-5)


def test_callbacks_see_every_step_and_the_values_at_the_end(space_env, tiny):
    callback = Watcher()
    model = tiny(space_env(VECTOR, spaces.Discrete(3)))
    model.learn(model.n_steps, callback)
    buffer = model.rollout_buffer
    assert len(callback.seen) == model.n_steps
    assert [int(step["actions"][0]) for step in callback.seen] == buffer.actions.flatten().tolist()
    np.testing.assert_array_equal(callback.at_end["values"].flatten(), buffer.values.flatten())
    np.testing.assert_array_equal(callback.at_end["log_probs"].flatten(), buffer.log_probs.flatten())


class OwnForward(ActorCriticPolicy):
    def forward(self, observations, deterministic=False):
        return super().forward(observations, deterministic)


class OwnBuffer(RolloutBuffer):
    pass


def test_what_has_ways_of_its_own_is_left_to_sb3s_loop(space_env, tiny):
    model = tiny(space_env(VECTOR, BOX), OwnForward)
    assert not Heads(model.policy).can_collect_fast(model.rollout_buffer)
    model = tiny(space_env(VECTOR, BOX), rollout_buffer_class=OwnBuffer)
    assert not Heads(model.policy).can_collect_fast(model.rollout_buffer)
