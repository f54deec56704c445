"""
TRPO on an environment of one's own: a car has to be parked at position 0::

    python examples/custom_environment.py --timesteps 40000
"""

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_trpo_ext import TRPO


class Parking(gym.Env[np.ndarray, np.ndarray]):
    """The observation is position and speed, the action a force. The road ends at ±3: who leaves it has failed."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        # With finite bounds, as the noise that TRPO begins with is in proportion to them.
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)  # makes self.np_random, which gives the same numbers for the same seed
        self.state = np.array([self.np_random.uniform(-2.0, 2.0), 0.0])
        return self.state.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        position, speed = self.state
        speed += 0.2 * float(action[0])
        position += 0.2 * speed
        self.state = np.array([position, speed])
        failed = bool(abs(position) > 3.0)
        reward = -20.0 if failed else -0.1 * float(position**2 + 0.1 * speed**2)
        # "Terminated" is an end after which no reward can follow. A time limit is none: TimeLimit below "truncates".
        return self.state.astype(np.float32), reward, failed, False, {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=40_000)
    timesteps = parser.parse_args().timesteps

    check_env(Parking())  # raises an error that names what is wrong
    env, test = (Monitor(TimeLimit(Parking(), max_episode_steps=100)) for _ in range(2))
    test.reset(seed=1000)
    model = TRPO("MlpPolicy", env, n_steps=1024, seed=0)
    for moment in ("before", "after"):
        if moment == "after":
            model.learn(timesteps)
        mean, deviation = evaluate_policy(model, test, n_eval_episodes=20)
        print(f"Return {moment} training: {mean:.1f} ± {deviation:.1f}")


if __name__ == "__main__":
    main()
