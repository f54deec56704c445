"""The state of environments: what follows is what would have followed."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecMonitor, VecNormalize

from sb3_trpo_ext.common.environment_state import environment_state, restore_environment
from sb3_trpo_ext.common.in_process_vec_env import InProcessVecEnv
from tests.common.cases import WithHandle

IDS = ["CartPole-v1", "Pendulum-v1", "MountainCarContinuous-v0", "Acrobot-v1", "HalfCheetah-v5", "Hopper-v4", "Ant-v5"]
WRAPPERS = {
    "plain": lambda env: env,
    "normalized": VecNormalize,
    "stacked": lambda env: VecFrameStack(VecNormalize(env), 3),
    "monitored": VecMonitor,
}


def steps(env, actions):
    """All that is seen, as text in which every bit shows."""
    seen = []
    for action in actions:
        observations, rewards, dones, infos = env.step(action)
        episodes = [(info["episode"]["r"], info["episode"]["l"]) for info in infos if "episode" in info]
        last = [info["terminal_observation"].tobytes() for info in infos if "terminal_observation" in info]
        seen.append((observations.tobytes(), rewards.tobytes(), dones.tobytes(), episodes, last))
    return seen


def actions_of(env, n):
    rng = np.random.default_rng(0)
    if isinstance(env.action_space, spaces.Discrete):
        return rng.integers(env.action_space.n, size=(n, env.num_envs))
    return rng.uniform(-1, 1, (n, env.num_envs, *env.action_space.shape)).astype(np.float32)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("env_id", IDS)
def test_what_follows_is_what_would_have_followed(env_id, wrapper, tmp_path):
    # SB3's and ours in turns: each comes with every task and with every wrapper.
    kind = InProcessVecEnv if (IDS.index(env_id) + list(WRAPPERS).index(wrapper)) % 2 else DummyVecEnv

    def make():
        return WRAPPERS[wrapper](make_vec_env(env_id, 2, seed=0, monitor_dir=str(tmp_path), vec_env_cls=kind))

    one = make()
    one.reset()
    actions = actions_of(one, 260)
    steps(one, actions[:30])
    state = environment_state(one)
    expected = steps(one, actions[30:])

    other = make()
    other.seed(99)
    other.reset()
    restore_environment(other, state)
    assert steps(other, actions[30:]) == expected


def test_wrappers_and_open_files_stay_what_they_are(tmp_path):
    env = VecNormalize(make_vec_env("CartPole-v1", 1, monitor_dir=str(tmp_path)))
    env.reset()
    state = environment_state(env)
    inner, monitor = env.venv, env.venv.envs[0]
    writer = monitor.results_writer
    restore_environment(env, state)
    assert env.venv is inner and env.venv.envs[0] is monitor
    assert monitor.results_writer is writer


def test_there_is_none_where_something_can_not_be_pickled():
    assert environment_state(make_vec_env(lambda: WithHandle(gym.make("CartPole-v1")), 1)) is None


def test_there_is_none_of_other_processes():
    env = make_vec_env("CartPole-v1", 1, vec_env_cls=SubprocVecEnv)
    assert environment_state(env) is None
    env.close()
