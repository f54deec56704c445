"""Observations normalised inside the policy: the statistics, where they act, when they move, and who has none."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_trpo_ext import ACER, TRPO
from sb3_trpo_ext.common.normalization import CLIP, Normalizer, RunningMoments, normalizer_of
from tests.common.cases import BOX, DICT, VECTOR, each_algorithm, made
from tests.conftest import SpaceEnv

NAN = float("nan")


# --------------------------------------------------------------------------------------------- statistics
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_moments_of_parts_are_those_of_the_whole(offset):
    rows = offset + np.random.default_rng(0).normal(size=(100, 2, 3)) * [1, 10, 1e-3]
    moments = RunningMoments((2, 3))
    for part in (rows[:1], rows[1:8], rows[8:]):
        moments.take_in(torch.as_tensor(part))
    assert int(moments.count) == 100
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.m2 / 100, rows.var(axis=0), rtol=1e-5 if offset else 1e-12)


def test_the_formula_by_hand():
    moments = RunningMoments((2,))
    rows = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    torch.testing.assert_close(moments(rows), rows, rtol=0, atol=0)  # nothing is known yet
    moments.take_in(rows)  # means 2 and 5, variances 1 and 0
    expected = torch.tensor([[-1.0, 0.0], [CLIP, -CLIP], [0.5, 0.0]])
    torch.testing.assert_close(moments(torch.tensor([[1.0, 5.0], [99.0, 4.0], [2.5, 5.0]])), expected)


def test_a_device_without_float64():
    def to_a_device(tensor):
        if tensor.dtype == torch.float64:
            raise TypeError("no float64 here")
        return tensor.clone()

    moments = RunningMoments((3,))
    moments.take_in(torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]))
    before = moments(torch.ones(1, 3))
    moments._apply(to_a_device)
    assert (moments.mean.dtype, moments.m2.dtype, moments.count.dtype) == (torch.float32, torch.float32, torch.int64)
    moments.take_in(torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]))
    torch.testing.assert_close(moments(torch.ones(1, 3)), before)


def test_of_a_dictionary_only_the_chosen_parts():
    normalizer = Normalizer(DICT, ["matrix"])
    observations = {"matrix": torch.randn(9, 2, 2), "vector": torch.randn(9, 3)}
    normalizer.take_in(observations)
    normalized = normalizer(observations)
    assert normalized["vector"] is observations["vector"]
    torch.testing.assert_close(normalized["matrix"].mean(dim=0), torch.zeros(2, 2), atol=1e-6, rtol=0)
    torch.testing.assert_close(normalized["matrix"].std(dim=0, correction=0), torch.ones(2, 2))


# --------------------------------------------------------------------------------------------- where they act
class Noting(BaseFeaturesExtractor):
    """Remembers what it is given."""

    def __init__(self, observation_space, features_dim=3):
        super().__init__(observation_space, features_dim)
        self.seen = []

    def forward(self, observations):
        self.seen.append(observations.detach().clone())
        return observations


@each_algorithm
@pytest.mark.parametrize("share", [True, False], ids=["one extractor", "two"])
def test_every_way_to_the_networks_normalises_once(algorithm, share):
    policy_kwargs = {"features_extractor_class": Noting, "share_features_extractor": share}
    model = made(algorithm, SpaceEnv(VECTOR, BOX), policy_kwargs=policy_kwargs)
    model.policy.normalizer.take_in(5 + 2 * torch.randn(50, 3))
    rows = torch.randn(4, 3)
    expected = model.policy.normalizer(rows)
    assert not torch.allclose(expected, rows)
    policy, actions = model.policy, torch.zeros(4, 2)
    ways = {
        "forward": lambda: policy(rows),
        "evaluate_actions": lambda: policy.evaluate_actions(rows, actions),
        "get_distribution": lambda: policy.get_distribution(rows),
        "predict_values": lambda: policy.predict_values(rows),
        "predict": lambda: model.predict(rows.numpy()),
    }
    for name, way in ways.items():
        extractors = {policy.pi_features_extractor, policy.vf_features_extractor}
        for extractor in extractors:
            extractor.seen.clear()
        way()
        seen = [one for extractor in extractors for one in extractor.seen]
        assert seen, name
        for one in seen:
            torch.testing.assert_close(one, expected, rtol=0, atol=0, msg=name)


@each_algorithm
@pytest.mark.parametrize("critic", ["trust_region", "adam"])
def test_a_normalizing_policy_learns_what_a_plain_one_learns_from_normalised_observations(algorithm, critic, bits):
    """The same numbers into the same networks: with statistics that stand still nothing else may differ."""
    mean, std = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.5, 2.0, 4.0])

    class Normalised(SpaceEnv):
        def _observe(self):
            return ((super()._observe() - mean.numpy()) / std.numpy()).astype(np.float32)

    settings = {} if algorithm is ACER else {"critic": critic}
    off = {"policy_kwargs": {"normalize_observations": False}}
    plain = made(algorithm, Normalised(VECTOR, BOX), **settings, **off).learn(48)
    inside = made(algorithm, SpaceEnv(VECTOR, BOX), **settings)
    moments = inside.policy.normalizer.moments[0]
    moments.count.fill_(10**12)
    moments.mean.copy_(mean)
    moments.m2.copy_(std.double().square() * 10**12)
    inside.learn(48)
    for name, parameter in plain.policy.named_parameters():
        torch.testing.assert_close(inside.policy.get_parameter(name), parameter, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("n_envs", [1, 3])
def test_fast_collection_takes_the_same_trajectory(n_envs):
    buffers = []
    for fast in (True, False):
        env = DummyVecEnv([lambda: SpaceEnv(spaces.Box(-9, 99, (3,)), BOX)] * n_envs)
        model = made(TRPO, env, fast=fast, n_steps=32).learn(3 * 32 * n_envs)
        assert model._collects_fast() == fast
        buffers.append(model.rollout_buffer)
    for name in ("observations", "actions", "rewards", "values", "log_probs"):
        one, other = (getattr(buffer, name) for buffer in buffers)
        np.testing.assert_allclose(one.reshape(other.shape), other, rtol=1e-3, atol=1e-4, err_msg=name)


class Acting(torch.nn.Module):
    """What is exported of a policy: observations → actions without noise."""

    def __init__(self, policy):
        super().__init__()
        self.policy = policy

    def forward(self, observations):
        return self.policy._predict(observations, deterministic=True)


@pytest.mark.parametrize("trained", [False, True])
def test_an_exported_policy_normalises_too(trained):
    model = made(TRPO, SpaceEnv(spaces.Box(-9, 99, (3,)), BOX))
    if trained:
        model.learn(32)
    model.policy.set_training_mode(False)
    first, rows = torch.rand(1, 3), 90 * torch.rand(7, 3)
    exported = torch.jit.trace(Acting(model.policy), first)
    torch.testing.assert_close(exported(rows).detach().numpy(), model.predict(rows.numpy(), deterministic=True)[0])


# --------------------------------------------------------------------------------------------- when they move
class Watching(BaseCallback):
    """Notes the statistics at every hook."""

    def __init__(self, bits):
        super().__init__()
        self.bits, self.noted = bits, []

    def note(self):
        self.noted.append(self.bits(normalizer_of(self.model.policy).state_dict()))

    def _on_rollout_start(self):
        self.note()

    def _on_step(self):
        self.note()
        return True

    def _on_rollout_end(self):
        self.note()


@each_algorithm
def test_they_move_once_between_an_update_and_the_next_rollout(algorithm, bits):
    watching, env = Watching(bits), DummyVecEnv([lambda: SpaceEnv(VECTOR, BOX)] * 2)
    model = made(algorithm, env)
    states = []
    original = model.train
    model.train = lambda: (states.append(as_array(model)), original())[1]
    model.learn(3 * 32, callback=watching)
    first, second, third = (watching.noted[i * 18 : (i + 1) * 18] for i in range(3))
    assert all(len(set(map(str, part))) == 1 for part in (first, second, third))
    assert len(set(map(str, watching.noted))) == 3
    rows = np.concatenate(states)
    moments = model.policy.normalizer.moments[0]
    assert int(moments.count) == len(rows) == 96
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(moments.m2 / 96, rows.var(axis=0), rtol=1e-6)


def as_array(model):
    return model.rollout_buffer.observations.reshape(-1, 3).astype(np.float64)


def test_the_policy_that_acted_is_the_one_that_learns():
    """ρ = 1 at θ_old: what the buffer holds is the log-probability under the policy that the update starts from."""
    model = made(TRPO, SpaceEnv(spaces.Box(-9, 99, (3,)), BOX))
    original, differences = model.train, []

    def train():
        buffer = model.rollout_buffer
        rows, actions = torch.as_tensor(buffer.observations[:, 0]), torch.as_tensor(buffer.actions[:, 0])
        with torch.no_grad():
            log_prob = model.policy.evaluate_actions(rows, actions)[1]
        differences.append(float((log_prob - torch.as_tensor(buffer.log_probs[:, 0])).abs().max()))
        original()

    model.train = train
    model.learn(64)
    assert len(differences) == 4 and max(differences) < 1e-5


@each_algorithm
def test_a_skipped_rollout_moves_nothing(algorithm, bits):
    model = made(algorithm, SpaceEnv(VECTOR, BOX, bad={20: ("observation", NAN)}))
    model.learn(16)
    before = bits(model.policy.normalizer.state_dict())
    with pytest.warns(UserWarning, match="Update skipped"):
        model.learn(16, reset_num_timesteps=False)
    assert bits(model.policy.normalizer.state_dict()) == before
    model.learn(16, reset_num_timesteps=False)
    assert bits(model.policy.normalizer.state_dict()) != before


def test_acer_replays_what_came_and_averages_with_the_same_statistics(bits):
    model = made(ACER, SpaceEnv(spaces.Box(-9, 99, (3,)), BOX), replay_ratio=4).learn(48)
    stored = model.replay_buffer.sample(None).observations
    assert stored.min() < 0 and stored.max() > 60
    model._learner.copy_what_is_not_averaged()
    average, present = (bits(normalizer_of(p).state_dict()) for p in (model.average_policy, model.policy))
    assert average == present


@pytest.mark.parametrize("frozen", ["policy", "actor", "by hand"])
def test_what_a_frozen_policy_does_stays(frozen, bits):
    model = made(TRPO, SpaceEnv(VECTOR, BOX)).learn(16)
    if frozen == "by hand":
        model.policy.normalizer.moves = False
    else:
        for parameter in model.policy.parameters() if frozen == "policy" else model.actor.parameters:
            parameter.requires_grad_(False)
    before = bits(model.policy.normalizer.state_dict())
    model.learn(32, reset_num_timesteps=False)
    assert bits(model.policy.normalizer.state_dict()) == before


@pytest.mark.parametrize("kind", [np.int64, np.float16, np.uint8])
def test_observations_of_other_types_are_normalised_as_the_numbers_they_are(kind):
    model = made(TRPO, SpaceEnv(spaces.Box(-9, 99, (3,)), BOX)).learn(32)
    rows = np.array([[1, 0, 3], [7, 9, 2]])
    actions = [model.predict(rows.astype(dtype), deterministic=True)[0] for dtype in (kind, np.float32)]
    np.testing.assert_array_equal(*actions)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_observations_far_from_0_are_told_apart(dtype):
    """What acts, what is stored and what learns is one policy, as far as the observations' own precision goes."""
    far = 1e8 if dtype is np.float64 else 1e4
    buffers = []
    for fast in (True, False):
        env = SpaceEnv(spaces.Box(far - 1, far + 1, (3,), dtype), BOX)
        model = made(TRPO, env, fast=fast, n_steps=32).learn(3 * 32)
        buffers.append(model.rollout_buffer)
        values = model.policy.predict_values(torch.as_tensor(env.observation_space.sample())[None])
        assert bool(values.isfinite().all())
    for name in ("actions", "values", "log_probs"):
        one, other = (getattr(buffer, name) for buffer in buffers)
        np.testing.assert_allclose(one.reshape(other.shape), other, rtol=1e-3, atol=1e-3, err_msg=name)
