"""Vector environments, however they reset, look like DummyVecEnv with Monitor: no transition that never was."""

import warnings
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorWrapper
from gymnasium.wrappers import NormalizeObservation, TimeLimit, TransformReward
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_trpo_ext.envs import GymnasiumVecEnv, as_vec_env
from tests.vec_envs import ACTIONS, OBSERVATIONS, Talkative, Various, actions_of, assert_same, monitored, trajectory

NEXT_STEP, SAME_STEP, DISABLED = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED
KINDS = {
    "sync": SyncVectorEnv,
    "sync, its own buffer": partial(SyncVectorEnv, copy=False),
    "sync, wrapped": lambda makers, **mode: VectorWrapper(SyncVectorEnv(makers, **mode)),
    "async": AsyncVectorEnv,
    "async, its own buffer": partial(AsyncVectorEnv, copy=False),
    "async, by pipes": partial(AsyncVectorEnv, shared_memory=False),
    "async, wrapped": lambda makers, **mode: VectorWrapper(AsyncVectorEnv(makers, **mode)),
}
WAYS = [(kind, mode) for kind in KINDS for mode in AutoresetMode if (kind, mode) != ("async, by pipes", NEXT_STEP)]
each_way = pytest.mark.parametrize("kind, mode", WAYS, ids=[f"{kind}-{mode.name}" for kind, mode in WAYS])


@pytest.fixture
def converted():
    """What makes a VecEnv, which is closed at the end."""
    made = []

    def convert(makers, kind="async", mode=SAME_STEP):
        made.append(GymnasiumVecEnv(KINDS[kind](makers, autoreset_mode=mode)))
        return made[-1]

    yield convert
    for env in made:
        env.close()


def assert_as_dummy_vec_env(ours, makers, steps=50):
    theirs = DummyVecEnv(makers)
    actions = actions_of(ours, steps)
    trajectory(ours, actions[:5]), trajectory(theirs, actions[:5])  # so that the next begins amid episodes
    seen = trajectory(ours, actions)
    assert_same(seen, trajectory(theirs, actions), exact=False)
    infos = [info for *_, infos, _ in seen[1:] for info in infos]
    assert {info["TimeLimit.truncated"] for info in infos if "episode" in info} == {True, False}


@each_way
@pytest.mark.parametrize("env", [Various, Talkative])
def test_it_looks_like_dummy_vec_env(env, kind, mode, converted):
    assert_as_dummy_vec_env(converted([env] * 3, kind, mode), [monitored(env)] * 3)


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("space", OBSERVATIONS)
def test_of_all_observations(space, kind, mode, converted):
    make = partial(Various, observations=OBSERVATIONS[space])
    assert_as_dummy_vec_env(converted([make] * 2, kind, mode), [monitored(make)] * 2)


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("space", ACTIONS)
def test_with_all_actions(space, mode, converted):
    make = partial(Various, actions=ACTIONS[space])
    assert_as_dummy_vec_env(converted([make] * 2, "async", mode), [monitored(make)] * 2)


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "HalfCheetah-v5"])
def test_real_environments_of_unequal_lengths(env_id, mode, converted):
    makers = [partial(gym.make, env_id, max_episode_steps=10 + 3 * i) for i in range(3)]
    ours, theirs = converted(makers, "async", mode), DummyVecEnv([monitored(make) for make in makers])
    actions = actions_of(ours, 40)
    assert_same(trajectory(ours, actions), trajectory(theirs, actions), exact=False)


@pytest.mark.parametrize("mode", [NEXT_STEP, DISABLED])
@pytest.mark.parametrize("kind", ["sync", "sync, its own buffer", "async"])
def test_environments_may_write_to_their_observations_again(kind, mode, converted):
    makers = [partial(Various, writes_again=True)] * 3
    assert_as_dummy_vec_env(converted(makers, kind, mode), [monitored(Various)] * 3)


@each_way
def test_seeds_and_options_are_those_of_the_next_reset(kind, mode, converted):
    env = converted([Various] * 3, kind, mode)
    env.set_options({"a": 1})
    assert list(env.seed(np.int64(7))) == [7, 8, 9]
    one = env.reset()
    assert env.get_attr("options") == [{"a": 1}] * 3
    env.seed(7)
    assert np.array_equal(env.reset(), one) and env.get_attr("options") == [None] * 3
    assert not np.array_equal(env.reset(), one)
    env.set_options([{"a": 2}] * 3)
    env.reset()
    assert env.get_attr("options") == [{"a": 2}] * 3
    with pytest.raises(ValueError, match="one dictionary of options for all, got"):
        env.set_options([{"a": 1}, {}, {}])


@pytest.mark.parametrize("kind", ["sync, wrapped", "async"])
def test_attributes_and_methods_are_reached(kind, converted):
    env = converted([partial(TimeLimit, Various(), 3)] * 2, kind)
    assert env.get_attr("setting") == [0, 0] and env.get_attr("setting", [1]) == [0]
    env.set_attr("setting", [5])
    assert env.get_attr("setting") == [[5], [5]]
    env.set_attr("setting", 5)
    assert env.env_method("add", 2, twice=True) == [9, 9]
    assert env.has_attr("add") and not env.has_attr("subtract")
    for ask in (env.get_attr, env.env_method):
        with pytest.raises(AttributeError, match="subtract"):
            ask("subtract")
    assert env.env_is_wrapped(TimeLimit) == [True, True] and env.env_is_wrapped(NormalizeObservation) == [False, False]
    assert env.env_is_wrapped(Monitor, [0]) == [True]
    env.reset()
    assert env.render_mode == "rgb_array" and env.render().shape == (4, 2, 3)


def test_some_of_the_environments_in_other_processes_can_not_be_reached(converted):
    env = converted([Various] * 2)
    for call in (partial(env.env_method, "add", 1), partial(env.set_attr, "setting", 1)):
        with pytest.raises(ValueError, match=r"all of its environments or none, got indices=\[1\]\. .* SubprocVecEnv"):
            call(indices=[1])


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_monitor_inside_has_the_last_word(kind, mode, converted):
    def make():
        return TransformReward(Monitor(Various()), lambda reward: 2 * reward)

    assert_as_dummy_vec_env(converted([make] * 2, kind, mode), [make] * 2)


@pytest.mark.parametrize("wrapper", [DictInfoToList, RecordEpisodeStatistics])
def test_wrappers_that_reset_in_their_own_way_are_right_in_the_same_step(wrapper):
    ours = GymnasiumVecEnv(wrapper(SyncVectorEnv([Various] * 2, autoreset_mode=SAME_STEP)))
    actions, theirs = actions_of(ours, 50), DummyVecEnv([monitored(Various)] * 2)
    for one, other in zip(trajectory(ours, actions), trajectory(theirs, actions), strict=True):
        assert_same(one[:-1], other[:-1], exact=False)  # RecordEpisodeStatistics writes into the infos of resets
    for mode in (NEXT_STEP, DISABLED):
        with pytest.raises(ValueError, match=rf"{wrapper.__name__} has a reset of its own.*SAME_STEP"):
            as_vec_env(wrapper(SyncVectorEnv([Various] * 2, autoreset_mode=mode)))


def test_a_model_learns_the_same_as_on_dummy_vec_env(converted, tiny, bits):
    one = tiny(converted([Various] * 2, "async", NEXT_STEP)).learn(96)
    other = tiny(DummyVecEnv([monitored(Various)] * 2)).learn(96)
    assert bits(one.policy.state_dict()) == bits(other.policy.state_dict())
    assert [(e["r"], e["l"]) for e in one.ep_info_buffer] == [(e["r"], e["l"]) for e in other.ep_info_buffer]


def test_an_async_vector_env_that_says_nothing_is_next_step(converted):
    env = as_vec_env(gym.make_vec("CartPole-v1", 2, vectorization_mode="async"))
    assert type(env) is GymnasiumVecEnv
    env.close()


def test_no_final_observation_is_an_error():
    class Forgetful(VectorWrapper):
        def step(self, actions):
            *seen, told = self.env.step(actions)
            return *seen, {name: value for name, value in told.items() if "final" not in name}

    env = GymnasiumVecEnv(Forgetful(SyncVectorEnv([Various] * 2, autoreset_mode=SAME_STEP)))
    with pytest.raises(ValueError, match="final_obs is not in its info"):
        trajectory(env, actions_of(env, 20))


def test_what_all_are_told_together_is_told_to_each():
    class Together(VectorWrapper):
        def step(self, actions):
            *seen, told = self.env.step(actions)
            return *seen, {**told, "temperature": 20.0}

    env = GymnasiumVecEnv(Together(SyncVectorEnv([Various] * 2)))
    env.reset()
    assert [info["temperature"] for info in env.step(np.zeros(2, int))[3]] == [20.0, 20.0]


def test_human_rendering_is_left_to_the_environments():
    class Shown(Various):
        render_mode = "human"
        shown = 0

        def render(self):
            type(self).shown += 1

    env = GymnasiumVecEnv(VectorWrapper(SyncVectorEnv([Shown] * 2)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert env.render() is None
    assert Shown.shown == 2
