"""
Behaviour cloning, then TRPO: MountainCarContinuous-v0, where whoever begins with noise hardly ever sees the flag::

    python examples/behaviour_cloning.py --timesteps 20000
"""

import argparse

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_trpo_ext import TRPO


def expert(observation: np.ndarray) -> np.ndarray:
    """Push with all strength to where the car rolls. It finds the flag, and wastes fuel."""
    return np.where(observation[1:] >= 0, 1.0, -1.0).astype(np.float32)


def demonstrations(env: gym.Env, episodes: int) -> list[torch.Tensor]:
    """Observations and actions of the expert."""
    pairs = []
    for episode in range(episodes):
        observation, done = env.reset(seed=episode)[0], False
        while not done:
            pairs.append((observation, expert(observation)))
            observation, _, terminated, truncated, _ = env.step(pairs[-1][1])
            done = terminated or truncated
    return [torch.as_tensor(np.array(column)) for column in zip(*pairs, strict=True)]


def clone(model: TRPO, observations: torch.Tensor, actions: torch.Tensor, epochs: int) -> None:
    """Fit the means of the policy's actions to the expert's. The noise stays as it is, for TRPO to explore with."""
    policy = model.policy
    # First the statistics by which the policy normalises: weights belong to them. Without any, TRPO would warn and go
    # on with observations as they come.
    policy.normalizer.take_in(observations)
    # An optimizer of one's own: policy.optimizer has the critic's parameters only.
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(observations)).split(64):
            means = policy.get_distribution(observations[rows]).mode()
            loss = (means - actions[rows]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=20_000)
    timesteps = parser.parse_args().timesteps
    env, test = (Monitor(gym.make("MountainCarContinuous-v0")) for _ in range(2))
    model = TRPO("MlpPolicy", env, seed=0, device="cpu")

    def report(moment: str) -> None:
        test.reset(seed=1000)
        mean, deviation = evaluate_policy(model, test, n_eval_episodes=5)
        print(f"Return {moment}: {mean:.1f} ± {deviation:.1f}")

    report("before")
    clone(model, *demonstrations(env, episodes=10), epochs=20)
    report("after behaviour cloning")
    model.learn(timesteps)
    report("after TRPO")


if __name__ == "__main__":
    main()
