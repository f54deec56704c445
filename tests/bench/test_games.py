"""The games of the suite of replay."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from sb3_trpo_ext.bench import games
from sb3_trpo_ext.bench.suites import SUITES

GAMES = [task.environment for task in SUITES["replay"]]
for game in GAMES:
    games.register(game)


def test_catch_is_an_environment():
    check_env(gym.make("Catch-v0").unwrapped)


def play(env, action_at):
    """The rewards of an episode."""
    observation, over, rewards = env.reset(seed=3)[0], False, []
    while not over:
        observation, reward, over, _, _ = env.step(action_at(observation))
        rewards.append(reward)
    return rewards


def follow(board):
    """Under the ball: a cell at 1 above the last line, or in it when the episode ends."""
    ball, paddle = int(board[:-1].max(axis=0).argmax()), int(board[-1].argmax())
    return 1 + int(np.sign(ball - paddle))


def test_a_ball_that_is_followed_is_caught_and_only_the_end_is_rewarded():
    for seed in range(10):
        env = games.Catch()
        env.reset(seed=seed)
        assert play(env, follow) == [0.0] * 8 + [1.0]


def test_a_ball_that_is_fled_is_missed():
    assert play(games.Catch(), lambda board: 2 - follow(board))[-1] == -1.0


@pytest.mark.parametrize("name", GAMES)
def test_all_games_of_the_suite_exist(name):
    env = gym.make(name)
    observation, _ = env.reset(seed=0)
    assert np.asarray(observation).shape == env.observation_space.shape


def test_registering_twice_changes_nothing():
    before = dict(gym.registry)
    for game in (*GAMES, "HalfCheetah-v5", "Unknown-v0"):
        games.register(game)
    assert dict(gym.registry) == before
