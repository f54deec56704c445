"""An environment by itself is stepped by InProcessVecEnv; everything else is as Stable-Baselines3 wraps it."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize, VecTransposeImage

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.common.in_process_vec_env import InProcessVecEnv
from tests.common.cases import DICT, IMAGE, VECTOR, each_algorithm, made
from tests.vec_envs import Various


def layers(env):
    found = [type(env)]
    while isinstance(env, VecNormalize | VecTransposeImage):
        env = env.venv
        found.append(type(env))
    (inner,) = env.envs
    while isinstance(inner, gym.Wrapper):
        found.append(type(inner))
        inner = inner.env
    return found


@pytest.mark.parametrize("several", [SyncVectorEnv([Various]), [Various], Various], ids=["vector", "list", "function"])
def test_several_environments_that_are_no_vec_env_are_refused(several):
    with pytest.raises(ValueError, match=r"sb3_trpo_ext\.envs\.as_vec_env makes a VecEnv"):
        TRPO("MlpPolicy", several)


@pytest.mark.parametrize("monitor", [True, False])
@pytest.mark.parametrize("wrap", [lambda env: env, Monitor], ids=["bare", "monitored"])
@pytest.mark.parametrize("observations", [VECTOR, IMAGE, DICT], ids=["vector", "image", "dict"])
def test_the_wrappers_are_those_of_sb3(observations, wrap, monitor):
    def make():
        return wrap(Various(observations=observations))

    theirs = layers(OnPolicyAlgorithm._wrap_env(make(), monitor_wrapper=monitor))
    assert layers(TRPO._wrap_env(make(), monitor_wrapper=monitor)) == [
        InProcessVecEnv if layer is DummyVecEnv else layer for layer in theirs
    ]


def test_what_is_said_is_said_once(capsys):
    image = partial(Various, observations=IMAGE)
    OnPolicyAlgorithm._wrap_env(image(), verbose=1)
    theirs = capsys.readouterr().out
    TRPO._wrap_env(image(), verbose=1)
    assert capsys.readouterr().out == theirs


@pytest.mark.parametrize("vec_env", [DummyVecEnv, SubprocVecEnv])
def test_a_vec_env_is_left_alone(vec_env):
    env = make_vec_env("CartPole-v1", 2, vec_env_cls=vec_env)
    assert TRPO._wrap_env(env) is env
    normalized = VecNormalize(env)
    assert TRPO._wrap_env(normalized) is normalized
    env.close()


@each_algorithm
def test_an_id_an_environment_and_a_later_one(algorithm, tmp_path):
    model = made(algorithm, "CartPole-v1")
    assert layers(model.env)[:2] == [InProcessVecEnv, Monitor]
    env = gym.make("CartPole-v1")
    model.set_env(env)
    assert type(model.env) is InProcessVecEnv and model.env.envs[0].env is env
    model.save(tmp_path / "model")
    assert type(algorithm.load(tmp_path / "model", env=gym.make("CartPole-v1")).env) is InProcessVecEnv


@each_algorithm
@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.Box(-1, 1, (2,))], ids=["discrete", "box"])
def test_what_is_learnt_is_the_same_bit_for_bit(algorithm, space, bits):
    def make():
        return Various(actions=space)

    one = made(algorithm, make()).learn(80)
    other = made(algorithm, DummyVecEnv([lambda: Monitor(make())])).learn(80)
    assert bits(one.policy.state_dict()) == bits(other.policy.state_dict())
    assert np.array_equal(one._last_obs, other._last_obs)
    assert [(e["r"], e["l"]) for e in one.ep_info_buffer] == [(e["r"], e["l"]) for e in other.ep_info_buffer]
    assert len(one.ep_info_buffer) > 10
