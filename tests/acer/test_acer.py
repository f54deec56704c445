"""What the constructor's arguments do, seen in what is built, learned, logged and stored."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import ConvertCallback, EveryNTimesteps
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_trpo_ext import ACER
from sb3_trpo_ext.acer import acer
from tests.acer.cases import BOX, DISCRETE, VECTOR, environments, logged


def test_without_replay(space_env, tiny):
    model = tiny(space_env(VECTOR, DISCRETE), replay_ratio=0, buffer_size=10**12).learn(60)
    figures = logged(model)
    assert figures["n_updates"] == 10 and figures["n_replays"] == 0 and len(model.replay_buffer) == 0


def test_replays_wait_for_their_start_and_follow_their_mean(space_env, tiny):
    model = tiny(space_env(VECTOR, DISCRETE), replay_ratio=3, replay_start=61, buffer_size=120).learn(60)
    assert logged(model)["n_replays"] == 0 and len(model.replay_buffer) == 60
    model.learn(1800, reset_num_timesteps=False)
    assert logged(model)["n_replays"] / 300 == pytest.approx(3, rel=0.15)


def test_the_average_policy_is_the_running_mean_of_the_policies(space_env, tiny):
    model = tiny(space_env(VECTOR, BOX), average_policy_decay=0.8, replay_ratio=0)
    expected = [p.detach().clone() for p in model.policy.parameters()]
    for i in range(1, 6):
        model.learn(6, reset_num_timesteps=False)
        assert logged(model)["n_updates"] == i
        expected = [
            0.8 * old + 0.2 * new.detach() for old, new in zip(expected, model.policy.parameters(), strict=True)
        ]
        for mean, parameter in zip(expected, model.average_policy.parameters(), strict=True):
            torch.testing.assert_close(parameter, mean)


@pytest.mark.parametrize("learned", [True, False])
def test_fixed_and_learned_std(learned, space_env, tiny):
    model = tiny(space_env(VECTOR, BOX), learn_std=learned, policy_kwargs={"log_std_init": -1.0}).learn(60)
    assert bool((model.policy.log_std == -1.0).all()) is not learned


@pytest.mark.parametrize("number", [float, np.float32, np.int64])
def test_numbers_of_steps_may_be_written_as_1e5(number, space_env, tiny, bits, tmp_path):
    sizes = {"n_steps": 6, "buffer_size": 10**5, "replay_start": 12}
    env = space_env(VECTOR, DISCRETE)
    model = tiny(env, **{name: number(size) for name, size in sizes.items()})
    assert all(getattr(model, name) == size for name, size in sizes.items())
    assert not any(isinstance(getattr(model, name), (float, np.floating)) for name in sizes)
    model.learn(30).save(tmp_path / "model")
    assert bits(model.get_parameters()) == bits(tiny(space_env(VECTOR, DISCRETE), **sizes).learn(30).get_parameters())
    loaded = ACER.load(tmp_path / "model", env=env, buffer_size=number(600))
    assert loaded.replay_buffer.capacity == 100 and loaded.learn(12).num_timesteps == 12


@pytest.mark.parametrize("given", ["lin_0.4", "lin_0.4_0.2", lambda progress: 0.1 + progress])
def test_the_weight_of_the_entropy_may_be_a_schedule(given, space_env, tiny, tmp_path):
    """It is read at each update, and is saved with the model."""
    seen = []
    model = tiny(space_env(VECTOR, DISCRETE), ent_coef=given)
    every = EveryNTimesteps(6, ConvertCallback(lambda local, _: seen.append(logged(model).get("ent_coef")) or True))
    model.learn(24, every, log_interval=10**9)
    seen = [*seen[1:], logged(model)["ent_coef"]]  # the first note is of the time before the first update
    start, end = {"lin_0.4": (0.4, 0.0), "lin_0.4_0.2": (0.4, 0.2)}.get(given, (1.1, 0.1))
    assert seen == pytest.approx([start + (end - start) * part for part in (0.25, 0.5, 0.75, 1)])
    model.save(tmp_path / "model")
    loaded = ACER.load(tmp_path / "model", env=model.get_env())
    loaded.learn(24, reset_num_timesteps=True)
    assert logged(loaded)["ent_coef"] == pytest.approx(end)


def test_a_constant_weight_as_schedule_is_that_weight(space_env, tiny, bits):
    def train(weight):
        return bits(tiny(space_env(VECTOR, DISCRETE), ent_coef=weight).learn(60).get_parameters())

    assert train(0.3) == train("lin_0.3_0.3") == train(lambda progress: 0.3) != train("lin_0.3") != train(0.0)


class Steady(gym.Env):
    """Always the same observation and the reward 1, in episodes of one step, which end in a terminal state or not."""

    observation_space, action_space = VECTOR, DISCRETE

    def __init__(self, truncate):
        self.truncate = truncate
        self.observation = np.full(3, 0.5, np.float32)

    def reset(self, *, seed=None, options=None):
        return self.observation, {}

    def step(self, action):
        return self.observation, 1.0, not self.truncate, self.truncate, {}


def value_of(model):
    """V in the only state of :class:`Steady`."""
    return model.policy.predict_values(torch.full((1, 3), 0.5)).item()


@pytest.mark.slow
@pytest.mark.parametrize("truncate, worth", [(False, 1.0), (True, 1 / (1 - 0.9))])
def test_time_limits_are_bootstrapped_and_terminal_states_are_not(truncate, worth, tiny):
    model = tiny(Steady(truncate), gamma=0.9, learning_rate=3e-3, n_steps=10, buffer_size=100)
    model.learn(10_000)
    assert value_of(model) == pytest.approx(worth, rel=0.15)


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("truncate", [False, True])
def test_the_last_step_of_a_sequence_is_like_any_other(n_steps, truncate, tiny):
    """Without a critic that moves, the targets are known exactly."""
    settings = {"gamma": 0.9, "learning_rate": 0.0, "policy_kwargs": {"normalize_observations": False}}
    model = tiny(Steady(truncate), n_steps=n_steps, replay_ratio=0, **settings).learn(n_steps)
    value = value_of(model)
    assert abs(value) > 1e-2, "or the two kinds of ends could not be told apart"
    assert logged(model)["q_retrace_mean"] == pytest.approx(1 + 0.9 * value if truncate else 1, abs=1e-5)


def test_replays_are_normalised_as_the_rollout_is(tiny):
    """A policy that stays the same gives what it did the weight 1 again, and all rewards are alike."""
    env = VecNormalize(DummyVecEnv([lambda: Steady(True)]), training=False)
    env.obs_rms.var[:], env.ret_rms.var = 0.01, np.array(4.0)
    settings = {"gamma": 0.0, "learning_rate": 0.0, "policy_kwargs": {"ortho_init": False}}
    model = tiny(env, replay_ratio=20, **settings).learn(6)  # one update, and what it logs is of its replays too
    figures = logged(model)
    assert figures["n_updates"] == 1 and figures["n_replays"] > 5
    assert figures["q_retrace_mean"] == pytest.approx(0.5, rel=1e-4), "the reward 1 by its standard deviation 2"
    assert figures["importance_weight_max"] == pytest.approx(1, abs=1e-4)
    raw = model.replay_buffer.get(np.array([0]))
    assert (raw.observations == 0.5).all() and (raw.rewards == 1).all(), "stored as it was"
    chances = [model.policy.family(torch.full((1, 3), x)).logits.softmax(1).detach() for x in (0.5, 5.0)]
    assert float((chances[0] - chances[1]).abs().max()) > 0.01, "the policy must tell the two apart"


def numbers_of_replays(model, updates):
    """How many replays there were after each of so many rollouts."""
    totals = [0]

    def note(local, _):
        totals.append(int(logged(model).get("n_replays", 0)))
        return True

    size = model.n_steps * model.n_envs
    model.learn(size * updates, EveryNTimesteps(size, ConvertCallback(note)), log_interval=10**9)
    totals.append(logged(model)["n_replays"])
    return np.diff(totals)[1:]  # the first note is of the time before the first update


@pytest.mark.parametrize("ratio", [0.5, 3])
def test_the_number_of_replays_is_poisson_distributed(ratio, space_env, tiny):
    """Its mean and its variance are both the ratio; at 0.5 more than one is no rarity, and none is usual."""
    counts = numbers_of_replays(tiny(space_env(VECTOR, DISCRETE), replay_ratio=ratio, n_steps=1), 250)
    assert len(counts) > 230 and counts.min() == 0 and counts.max() >= 2
    assert counts.mean() == pytest.approx(ratio, rel=0.3) and counts.var() == pytest.approx(ratio, rel=0.4)


@pytest.mark.parametrize("n_envs", [1, 3])
def test_the_start_of_replays_counts_steps_of_all_environments(n_envs, space_env, tiny):
    env = environments(space_env, DISCRETE, n_envs)
    model = tiny(env, replay_ratio=30, replay_start=12 * n_envs, buffer_size=60 * n_envs)
    assert logged(model.learn(6 * n_envs))["n_replays"] == 0
    model.learn(6 * n_envs, reset_num_timesteps=False)
    assert logged(model)["replay_size"] == 12 * n_envs and logged(model)["n_replays"] > 0


PLAIN = {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {}}  # what it changes is the gradient itself


def change_by_one_update(space_env, tiny, action, **settings):
    """Name → what the first update, on-policy, of step size 1, changes of each parameter; and the model."""
    model = tiny(space_env(VECTOR, action), learning_rate=1.0, replay_ratio=0, policy_kwargs=PLAIN, **settings)
    before = {name: parameter.detach().clone() for name, parameter in model.policy.named_parameters()}
    model.learn(6)
    return {name: new.detach() - before[name] for name, new in model.policy.named_parameters()}, model


@pytest.mark.parametrize("action", [DISCRETE, BOX], ids=["discrete", "box"])
def test_the_critics_gradient_is_proportional_to_its_coefficient(action, space_env, tiny):
    """And the actor's does not depend on it, where they share nothing."""
    settings = {"max_grad_norm": 1e9}
    none, half, twice = (change_by_one_update(space_env, tiny, action, q_coef=q, **settings)[0] for q in (0, 0.5, 2.0))
    moved = 0
    for name in half:
        of_critic = "value_net" in name or "advantage_net" in name
        expected = (0, 4 * half[name]) if of_critic else (half[name], half[name])
        for found, true in zip((none[name], twice[name]), expected, strict=True):
            torch.testing.assert_close(found, torch.as_tensor(true).expand_as(found).float(), rtol=1e-3, atol=1e-5)
        moved += bool(of_critic and half[name].abs().max() > 1e-3)
    assert moved >= 4


@pytest.mark.parametrize("action", [DISCRETE, BOX], ids=["discrete", "box"])
def test_the_gradients_norm_is_limited(action, space_env, tiny):
    def norms(limit):
        change, model = change_by_one_update(space_env, tiny, action, max_grad_norm=limit)
        length = float(torch.cat([part.flatten() for part in change.values()]).norm())
        return length, logged(model)["gradient_norm"]

    free, gradient = norms(1e9)
    assert free == pytest.approx(gradient, rel=1e-3) and gradient > 0.01
    clipped, logged_norm = norms(gradient / 10)
    assert clipped == pytest.approx(gradient / 10, rel=1e-3) and logged_norm == pytest.approx(gradient, rel=1e-5)


# Of many actions, which are equally likely at first, one may become that much more likely.
@pytest.mark.parametrize("action, clip", [(spaces.Discrete(30), 10.0), (BOX, 5.0)], ids=["discrete", "box"])
def test_the_limit_of_the_weights_that_is_chosen(action, clip, space_env, tiny, bits):
    """Bit for bit as if it had been given; weights between the two limits occur, so that they differ."""

    def train(limit):
        env = environments(space_env, action)
        return bits(tiny(env, importance_clip=limit, learning_rate=0.03).learn(240).get_parameters())

    assert train(None) == train(clip) != train(15 - clip)


def test_the_average_policy_begins_as_the_policy_with_parameters_of_its_own(space_env, tiny, bits):
    model = tiny(space_env(VECTOR, BOX))
    assert bits(model.average_policy.state_dict()) == bits(model.policy.state_dict())
    own, others = ({p.data_ptr() for p in one.parameters()} for one in (model.policy, model.average_policy))
    assert not own & others
    assert not any(p.requires_grad for p in model.average_policy.parameters()) and not model.average_policy.training


def test_each_iteration_stores_its_rollout_and_learns_from_it_first(space_env, tiny, monkeypatch):
    model = tiny(environments(space_env, DISCRETE), replay_ratio=3, replay_start=24, buffer_size=120)
    learned = []
    update = model._update
    monkeypatch.setattr(model, "_update", lambda sequences: learned.append(sequences) or update(sequences))
    for i in range(1, 6):
        learned.clear()
        replays = model._n_replays
        model.learn(12, reset_num_timesteps=False)
        newest = model.rollout_buffer.collected.seen
        assert learned[0] is newest
        assert len(model.replay_buffer) == 12 * i and logged(model)["replay_size"] == 12 * i
        assert logged(model)["n_replays"] - replays == len(learned) - 1
        assert i > 1 or len(learned) == 1, "not enough is stored yet"
        stored = model.replay_buffer.get(np.full(2, i - 1))
        np.testing.assert_array_equal(stored.rewards, newest.rewards)
    assert model._n_replays > 0


def test_threads_are_set_for_the_updates_and_put_back(space_env, tiny, monkeypatch):
    seen = []
    step = acer.acer_step
    monkeypatch.setattr(acer, "acer_step", lambda *args: seen.append(torch.get_num_threads()) or step(*args))
    torch.set_num_threads(3)
    try:
        for num_threads in (None, 2):
            tiny(space_env(VECTOR, DISCRETE), num_threads=num_threads, replay_ratio=0).learn(6)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    assert seen == [1, 2]


def test_another_environment_brings_its_own_normalisation(space_env, tiny):
    first, second = (VecNormalize(environments(space_env, DISCRETE)) for _ in range(2))
    model = tiny(first).learn(48)
    model.set_env(second)
    model.learn(48, reset_num_timesteps=False)
    assert model._vec_normalize is second
    model.set_env(environments(space_env, DISCRETE))
    assert model._vec_normalize is None
    model.learn(48, reset_num_timesteps=False)
    assert logged(model)["n_updates"] == 12


def test_names_of_policies_stand_for_the_packages_own():
    assert {name: kind.__name__ for name, kind in ACER.policy_aliases.items()} == {
        name: name for name in ("MlpPolicy", "CnnPolicy", "MultiInputPolicy")
    }
    assert all(kind.__module__ == "sb3_trpo_ext.acer.policies" for kind in ACER.policy_aliases.values())
