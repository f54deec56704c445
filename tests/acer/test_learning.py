"""Learning, over fixed seeds. ``make slow`` runs these."""

import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_trpo_ext import ACER

pytestmark = pytest.mark.slow


def final_return(env_id, seed, timesteps, n_envs, **settings):
    """Mean return of 20 episodes without exploration, in environments of other seeds."""
    env, test = make_vec_env(env_id, n_envs, seed=seed), make_vec_env(env_id, 5, seed=1000 + seed)
    model = ACER("MlpPolicy", env, seed=seed, device="cpu", **settings).learn(timesteps)
    return evaluate_policy(model, test, n_eval_episodes=20)[0]


def test_cartpole():
    returns = [final_return("CartPole-v1", seed, 50_000, 8) for seed in range(5)]
    assert sum(value >= 475 for value in returns) >= 4, returns


def test_acrobot():
    assert final_return("Acrobot-v1", 0, 150_000, 8) >= -110


def test_lunar_lander():
    """Random actions score about -220."""
    assert final_return("LunarLander-v3", 0, 1_000_000, 8) >= 180


def test_pendulum():
    """Random actions score about -1200."""
    settings = {"gamma": 0.9, "n_steps": 10, "learning_rate": 1.5e-3, "buffer_size": 5000}
    settings |= {"policy_kwargs": {"log_std_init": 0.0}}
    assert final_return("Pendulum-v1", 0, 100_000, 4, **settings) >= -400


def test_half_cheetah_beats_chance():
    """Random actions score about -280."""
    pytest.importorskip("mujoco")
    assert final_return("HalfCheetah-v5", 0, 100_000, 4, n_steps=50, learning_rate=3e-4) >= 300
