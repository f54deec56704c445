"""What becomes of a list of functions, of a vector environment, of a VecEnv; and of something else."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.envs import GymnasiumVecEnv, InProcessVecEnv, as_vec_env
from tests.vec_envs import Various, actions_of, assert_same, monitored, trajectory


def test_functions_are_monitored_and_stepped_in_this_process():
    theirs, ours = DummyVecEnv([monitored(Various)] * 3), as_vec_env([Various] * 3)
    assert type(ours) is InProcessVecEnv and all(ours.env_is_wrapped(Monitor))
    actions = actions_of(ours, 60)
    assert_same(trajectory(theirs, actions), trajectory(ours, actions))


def test_a_monitor_that_is_there_stays():
    def make():
        return gym.wrappers.TransformReward(Monitor(Various(), info_keywords=("text",)), lambda reward: 2 * reward)

    env = as_vec_env([make])
    episodes = [
        info["episode"]
        for *_, infos, _ in trajectory(env, actions_of(env, 20))[1:]
        for info in infos
        if "episode" in info
    ]
    assert episodes and all(episode["text"] == "some" for episode in episodes)
    theirs = DummyVecEnv([make])
    assert_same(trajectory(theirs, actions_of(env, 60)), trajectory(env, actions_of(env, 60)))


@pytest.mark.parametrize("mode", AutoresetMode)
def test_of_a_sync_vector_env_the_environments_are_taken(mode):
    theirs = DummyVecEnv([monitored(Various)] * 3)
    vector_env = SyncVectorEnv([Various] * 3, autoreset_mode=mode)
    ours = as_vec_env(vector_env)
    assert type(ours) is InProcessVecEnv and [env.unwrapped for env in ours.envs] == vector_env.envs
    actions = actions_of(ours, 60)
    assert_same(trajectory(theirs, actions), trajectory(ours, actions))


def test_a_sync_vector_env_with_a_space_of_its_own_keeps_it():
    wide = spaces.Box(-2, 2, (3,))
    vector_env = SyncVectorEnv([Various] * 2, observation_mode=(spaces.Box(-2, 2, (2, 3)), wide))
    env = as_vec_env(vector_env)
    assert type(env) is GymnasiumVecEnv and env.observation_space == wide


def test_of_dummy_vec_env_the_environments_are_monitored():
    env = as_vec_env(DummyVecEnv([Various] * 2))
    assert all(env.env_is_wrapped(Monitor))
    model = TRPO("MlpPolicy", env, n_steps=64).learn(128)
    assert len(model.ep_info_buffer) > 0


def test_dummy_vec_env_is_exchanged_with_its_seeds():
    theirs, given = (make_vec_env("CartPole-v1", 2, seed=5) for _ in range(2))
    given.set_options({"low": -0.01, "high": 0.01})
    theirs.set_options({"low": -0.01, "high": 0.01})
    ours = as_vec_env(given)
    assert type(ours) is InProcessVecEnv and ours.envs == given.envs
    assert_same(theirs.reset(), ours.reset())
    assert_same(theirs.reset(), ours.reset())


def test_every_other_vec_env_is_returned():
    for env in (VecNormalize(make_vec_env("CartPole-v1", 1)), InProcessVecEnv([Various])):
        assert as_vec_env(env) is env


@pytest.mark.parametrize(
    "wrong, said",
    [
        ("CartPole-v1", r"got 'CartPole-v1'\. Write .*gymnasium\.make\(id\)"),
        (Various(), r"got <.*Various.*Write \[lambda: env\]"),
        (3, "got 3"),
        ([], "got an empty list"),
        ([Various, "CartPole-v1"], r"got 'CartPole-v1' at index 1\. Write lambda: env"),
        ([Various()], r"at index 0\. Write lambda: env"),
    ],
    ids=["an id", "an environment", "a number", "nothing", "a list with an id", "a list with an environment"],
)
def test_something_else_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        as_vec_env(wrong)


def test_trpo_learns_the_same_as_on_dummy_vec_env(tiny, bits):
    made = partial(gym.make, "CartPole-v1", max_episode_steps=15)
    one = tiny(as_vec_env([made] * 2)).learn(96)
    other = tiny(DummyVecEnv([monitored(made)] * 2)).learn(96)
    assert bits(one.policy.state_dict()) == bits(other.policy.state_dict())
    assert np.array_equal(one._last_obs, other._last_obs)


def test_a_checkpoint_goes_on_in_the_midst_of_an_episode(tmp_path, bits):
    def model():
        env = as_vec_env([partial(gym.make, "CartPole-v1")] * 2)
        return TRPO("MlpPolicy", env, n_steps=16, seed=0, device="cpu")

    first, second = model(), model()
    first.learn(64).save_checkpoint(str(tmp_path))
    first.learn(64, reset_num_timesteps=False)
    assert second.resume_from(str(tmp_path))
    second.learn(64, reset_num_timesteps=False)
    assert bits(first.policy.state_dict()) == bits(second.policy.state_dict())
    assert np.array_equal(first._last_obs, second._last_obs)


@pytest.mark.filterwarnings("error")
def test_a_policy_is_evaluated_on_it(tiny):
    env = as_vec_env([partial(gym.make, "CartPole-v1", max_episode_steps=15)] * 2)
    mean, _ = evaluate_policy(tiny(env), env, n_eval_episodes=3)
    assert 0 < mean <= 15
