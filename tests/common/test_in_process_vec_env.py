"""What DummyVecEnv returns is what is returned, and nobody writes to it later."""

import pickle
from collections import OrderedDict
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_trpo_ext.common.in_process_vec_env import InProcessVecEnv, independent
from tests.vec_envs import ACTIONS, OBSERVATIONS, Talkative, Various, actions_of, assert_same, monitored, trajectory


def both(*makers):
    return DummyVecEnv(list(makers)), InProcessVecEnv(list(makers))


def assert_equal_trajectories(makers, steps=60):
    theirs, ours = both(*makers)
    actions = actions_of(ours, steps)
    assert_same(trajectory(theirs, actions), trajectory(ours, actions))


@pytest.mark.parametrize("kind", [Various, Talkative])
@pytest.mark.parametrize("observations", OBSERVATIONS)
def test_it_returns_what_dummy_vec_env_returns(observations, kind):
    make = monitored(partial(kind, observations=OBSERVATIONS[observations]))
    assert_equal_trajectories([make] * 3)


@pytest.mark.parametrize("actions", ACTIONS)
def test_it_steps_with_all_actions(actions):
    assert_equal_trajectories([monitored(partial(Various, actions=ACTIONS[actions]))] * 2)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "HalfCheetah-v5", "Hopper-v5"])
def test_it_returns_what_dummy_vec_env_returns_of_real_environments(env_id, n_envs):
    """Episodes of different lengths, terminated ones and truncated ones."""
    makers = [monitored(partial(gym.make, env_id, max_episode_steps=12 + i)) for i in range(n_envs)]
    assert_equal_trajectories(makers)


def test_without_monitor_nothing_is_added():
    assert_equal_trajectories([Various])


def test_the_last_observation_and_info_of_an_episode_are_those_before_the_reset():
    """Of an environment that writes to its arrays again. DummyVecEnv would show what the reset wrote."""
    careful = DummyVecEnv([monitored(Various)] * 2)
    again = InProcessVecEnv([monitored(partial(Various, writes_again=True))] * 2)
    actions = actions_of(careful, 60)
    assert_same(trajectory(careful, actions), trajectory(again, actions))


class OneInfo(Various):
    """One dictionary for all that it ever says."""

    def reset(self, **kwargs):
        observation, _ = super().reset(**kwargs)
        self.told = getattr(self, "told", {})
        self.told["begun"] = True
        return observation, self.told

    def _says(self):
        self.told |= {**super()._says(), "begun": False}
        return self.told


def test_the_last_info_is_not_what_the_reset_says():
    env = InProcessVecEnv([OneInfo])
    env.seed(0)
    env.reset()
    for action in actions_of(env, 40):
        assert env.step(action)[3][0]["begun"] is False


def test_what_a_step_returned_is_not_written_to_by_a_reset():
    env = InProcessVecEnv([Various])
    env.seed(0)
    first = env.reset()
    before, kept = env.step(np.array([0]))[0], first.copy()
    then = before.copy()
    env.reset()
    assert_same((first, before), (kept, then))


def test_the_observations_belong_to_whoever_gets_them():
    env = InProcessVecEnv([partial(Various, observations=OBSERVATIONS["dict"])])
    env.seed(0)
    one = env.reset()
    for array in one.values():
        array[...] = 0
    other, *_ = env.step(np.array([0]))
    assert not any(np.shares_memory(one[key], other[key]) for key in one)
    assert type(other) is OrderedDict


def test_seeds_and_options_are_those_of_the_next_reset():
    theirs, ours = both(*[monitored(Various)] * 3)
    for env in (theirs, ours):
        assert list(env.seed(7)) == [7, 8, 9]
        env.set_options([{"a": 1}, {}, {"b": 2}])
    assert_same(theirs.reset(), ours.reset())
    assert theirs.get_attr("options") == ours.get_attr("options") == [{"a": 1}, None, {"b": 2}]
    assert_same(theirs.reset(), ours.reset())
    assert ours.get_attr("options") == [None] * 3


def test_attributes_and_methods_are_reached():
    env = InProcessVecEnv([monitored(Various)] * 3)
    assert isinstance(env, DummyVecEnv) and all(env.env_is_wrapped(Monitor))
    env.set_attr("setting", 5, indices=[1])
    assert env.env_method("add", 2, twice=True, indices=[0, 2]) == [4, 4]
    assert env.get_attr("setting", indices=1) == [5]
    assert env.env_method("add", 2, twice=True) == [4, 9, 4]  # the environment itself sees it, beneath Monitor
    env.set_attr("new", 7)
    assert [one.unwrapped.new for one in env.envs] == [7] * 3
    env.reset()
    assert env.render().shape == (4, 4, 3)


def test_it_is_made_by_sb3():
    env = make_vec_env("CartPole-v1", 2, seed=0, vec_env_cls=InProcessVecEnv)
    assert type(env) is InProcessVecEnv
    normalized = VecNormalize(env)
    assert normalized.reset().shape == (2, 4)


def test_a_copy_by_pickle_goes_on_where_it_was():
    env = InProcessVecEnv([monitored(Talkative)] * 2)
    env.seed(0)
    env.reset()
    actions = actions_of(env, 40)
    for action in actions[:10]:
        env.step(action)
    other = pickle.loads(pickle.dumps(env))
    for action in actions[10:]:
        assert_same(env.step(action), other.step(action))


def test_one_environment_given_twice_is_refused():
    env = Various()
    with pytest.raises(ValueError, match="same instance"):
        InProcessVecEnv([lambda: env, lambda: env])


def test_infos_are_copied_as_deepcopy_does_it():
    record = np.zeros(1, [("x", "f4")])[0]
    inner = np.arange(3.0)
    made = {
        "array": inner,
        "objects": np.array([[1], {}], object),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "record": record,
        "list": [1, [inner]],
        "dict": {"deep": {"er": {1, 2}}},
        "numbers": (1, 2.0, np.float32(3)),
        "space": spaces.Discrete(3),
    }
    copied = independent(made)
    assert_same({**copied, "record": None, "objects": None}, {**made, "record": None, "objects": None})
    assert copied["fortran"].flags.f_contiguous
    record["x"] = 1
    made["objects"][0].append(2)
    made["list"][1][0][0] = 9
    made["dict"]["deep"]["er"].add(3)
    assert copied["record"]["x"] == 0 and copied["objects"][0] == [1] and copied["list"][1][0][0] == 0
    assert copied["array"][0] == 0 and copied["dict"]["deep"]["er"] == {1, 2}


def test_an_info_may_hold_itself_and_be_of_another_class():
    info = {"number": 1}
    info["self"] = info
    assert independent(info)["self"]["self"]["number"] == 1
    ordered = OrderedDict(a=[1])
    copied = independent(ordered)
    assert type(copied) is OrderedDict and copied == ordered and copied["a"] is not ordered["a"]


class Costly:
    """Says when it is copied."""

    copies = 0

    def __deepcopy__(self, memo):
        type(self).copies += 1
        return Costly()


def test_only_what_can_change_is_copied():
    text, number = "a text".upper(), np.float64(0.1)
    info = {"text": text, "number": number, "costly": Costly()}
    copied = independent(info)
    assert copied["text"] is text and copied["number"] is number and Costly.copies == 1
