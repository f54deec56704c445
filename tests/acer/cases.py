"""What ACER's tests share: spaces, and environments of them."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_trpo_ext import ACER
from sb3_trpo_ext.acer.buffer import Sequences
from sb3_trpo_ext.acer.step import Settings
from sb3_trpo_ext.common.collection import Timeout

VECTOR = spaces.Box(-1, 1, (3,))
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
DISCRETE, BOX = spaces.Discrete(3), spaces.Box(-1, 1, (2,))
ACTIONS = {
    "discrete": DISCRETE,
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
    "box": BOX,
    "box_matrix": spaces.Box(-2, 1, (2, 2)),
}

T, B = 4, 2  # of the sequences below

# What the constructor's own values are to a gradient step, with discrete actions.
DEFAULTS = Settings(
    gamma=0.99,
    importance_clip=10.0,
    bias_correction=True,
    trust_region_delta=0.1,
    average_policy_decay=0.99,
    ent_coef=0.01,
    q_coef=0.5,
    max_grad_norm=10.0,
    n_action_samples=5,
    learn_std=False,
)


def environments(kind: type[gym.Env[Any, Any]], action: spaces.Space[Any], n: int = 2, **settings: Any) -> VecEnv:
    """
    :param kind: called with the spaces of observations and actions, and ``settings``
    :param action: space of the actions; observations are vectors
    :param n: how many
    """
    return DummyVecEnv([lambda: kind(VECTOR, action, **settings) for _ in range(n)])


def logged(model: ACER) -> dict[str, Any]:
    """What the last update logged, by names without their ``train/``."""
    values = model.logger.name_to_value
    return {key.removeprefix("train/"): value for key, value in values.items() if key.startswith("train/")}


def sequences_of(action, seed=0, cuts=()):
    """Of another policy than the model's. Of the ends at ``cuts``, the first is a time limit."""
    rng = np.random.default_rng(seed)
    dones = np.zeros((T, B), bool)
    for t, b in cuts:
        dones[t, b] = True
    final = rng.normal(size=3).astype(np.float32)
    observations = rng.normal(size=(T + 1, B, 3)).astype(np.float32)
    if action == "discrete":
        actions, statistics = rng.integers(3, size=(T, B)), (T, B, 3)
    elif action == "multi_discrete":
        actions, statistics = rng.integers([3, 2], size=(T, B, 2)), (T, B, 5)
    else:
        actions, statistics = rng.normal(size=(T, B, 2)).astype(np.float32), (T, B, 4)
    rewards = rng.normal(size=(T, B)).astype(np.float32)
    return Sequences(
        observations,
        actions,
        rewards,
        (0.5 + rng.random(statistics) if action == "box" else rng.normal(size=statistics)).astype(np.float32),
        dones,
        tuple(Timeout(t, b, final) for t, b in cuts[:1]),
    )
