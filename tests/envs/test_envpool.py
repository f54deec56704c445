"""EnvPool's environments: no transition that never was, and the same episodes as gymnasium has."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_trpo_ext.envs import GymnasiumVecEnv, as_vec_env
from tests.vec_envs import actions_of, trajectory

envpool = pytest.importorskip("envpool")
LIMIT = 12


def made(task="CartPole-v1", num_envs=4, **settings):
    return as_vec_env(envpool.make(task, **{"env_type": "gymnasium", "num_envs": num_envs, "seed": 3} | settings))


@pytest.mark.parametrize("env_type", ["gymnasium", "gym"])
def test_each_step_is_the_one_of_gymnasium(env_type):
    env = made(env_type=env_type, max_episode_steps=LIMIT)
    assert type(env) is GymnasiumVecEnv
    beside = [gym.make("CartPole-v1").unwrapped for _ in range(4)]
    rewards, ends = [[] for _ in beside], set()

    def begin(i, observation):
        beside[i].reset()
        beside[i].state = observation.astype(np.float64)
        rewards[i].clear()

    for i, observation in enumerate(env.reset()):
        begin(i, observation)
    for action in actions_of(env, 300):
        observations, got, dones, infos = env.step(action)
        for i, other in enumerate(beside):
            expected, reward, terminated, _, _ = other.step(action[i])
            rewards[i].append(reward)
            timeout = len(rewards[i]) == LIMIT
            assert got[i] == reward and dones[i] == (terminated or timeout)
            assert infos[i]["elapsed_step"] == len(rewards[i])
            assert ("terminal_observation" in infos[i]) == ("episode" in infos[i]) == dones[i]
            last = infos[i]["terminal_observation"] if dones[i] else observations[i]
            np.testing.assert_allclose(last, expected, atol=1e-5)
            assert infos[i]["TimeLimit.truncated"] == timeout
            if dones[i]:
                ends.add(timeout)
                assert (infos[i]["episode"]["r"], infos[i]["episode"]["l"]) == (sum(rewards[i]), len(rewards[i]))
                assert np.abs(observations[i]).max() <= 0.05 and env.reset_infos[i] == {"elapsed_step": 0}
                begin(i, observations[i])
    assert ends == {True, False}


@pytest.mark.parametrize(
    "task", ["HalfCheetah-v4", "Hopper-v5", "Pendulum-v1", "Pong-v5", "FrozenLake-v1", "FetchReach-v4"]
)
def test_of_all_kinds_of_tasks(task):
    env = made(task, 3, max_episode_steps=7)
    seen = trajectory(env, actions_of(env, 40))
    at, returns = np.zeros(3, int), np.zeros(3)
    for observations, rewards, dones, infos, _ in seen[1:]:
        at, returns = at + 1, returns + rewards
        assert [info["elapsed_step"] for info in infos] == at.tolist() or task == "Pong-v5"
        if isinstance(observations, dict):
            assert all(env.observation_space[key].contains(value[0]) for key, value in observations.items())
        for i in np.flatnonzero(dones):
            episode, last = infos[i]["episode"], infos[i]["terminal_observation"]
            assert env.observation_space.contains(last)
            assert episode["l"] == at[i] and episode["r"] == pytest.approx(returns[i], abs=1e-4)
            assert infos[i]["TimeLimit.truncated"] == (at[i] == 7)
            at[i] = returns[i] = 0
    assert sum(dones.sum() for _, _, dones, *_ in seen[1:]) >= 15


def test_after_a_lost_life_the_game_goes_on():
    """As EnvPool does it by itself. Its ``reset`` would begin a new game, so that only first lives were played."""
    env = made("Breakout-v5", 2, episodic_life=True)
    env.reset()
    before, lives_at_ends = np.full(2, 5), []
    for action in actions_of(env, 350):
        _, _, dones, infos = env.step(action)
        for i in np.flatnonzero(dones):
            assert infos[i]["lives"] == before[i] - 1
            lives_at_ends.append(int(infos[i]["lives"]))
            assert env.reset_infos[i]["lives"] == (infos[i]["lives"] or 5)
            before[i] = env.reset_infos[i]["lives"]
    assert {0, 1, 2, 3, 4} <= set(lives_at_ends)


def test_two_pools_of_one_seed_do_the_same():
    one, other = made(), made()
    actions = actions_of(one, 50)
    for first, second in zip(trajectory(one, actions), trajectory(other, actions), strict=True):
        assert np.array_equal(first[0], second[0])


def test_seeds_are_given_when_it_is_made():
    env = made(seed=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert env.seed(5) == [5, 6, 7, 8]
    with pytest.warns(UserWarning, match=r"made with 5.*envpool\.make\(…, seed=7\)"):
        assert env.seed(7) == [5, 6, 7, 8]


def test_options_and_attributes_are_refused_with_a_remedy():
    env = made()
    env.set_options(None)
    with pytest.raises(ValueError, match=r"no options of a reset, got {'low': 1}.*envpool\.make"):
        env.set_options({"low": 1})
    for ask in (env.get_attr, env.env_method, lambda name: env.set_attr(name, 1)):
        with pytest.raises(AttributeError, match=r"CartPoleGymnasiumEnvPool .*'masscart' can not be reached"):
            ask("masscart")
    assert not env.has_attr("masscart") and env.get_attr("render_mode") == [None] * 4
    assert env.env_is_wrapped(Monitor) == [True] * 4 and env.env_is_wrapped(gym.wrappers.TimeLimit) == [False] * 4


def test_it_is_rendered():
    env = made(num_envs=2, render_mode="rgb_array")
    env.reset()
    assert env.render().shape == (800, 600, 3)


@pytest.mark.parametrize(
    "settings, said",
    [({"batch_size": 2}, "returns 2 of 4 environments in a step"), ({"env_type": "dm"}, 'env_type="gymnasium"')],
)
def test_other_pools_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        made(**settings)


def test_trpo_learns_on_it_and_is_evaluated(tiny):
    model = tiny(made(seed=0))
    model.learn(192)
    lengths = [episode["l"] for episode in model.ep_info_buffer]
    assert lengths and sum(lengths) <= 192
    assert evaluate_policy(model, made(), n_eval_episodes=4)[0] > 5


def test_closing_is_silent():
    made().close()
