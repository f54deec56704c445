"""What the tests share: spaces, a small model of each algorithm, an environment without a state."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from sb3_trpo_ext import ACER, TRPO

VECTOR, BOX = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,))
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
DICT = spaces.Dict(vector=VECTOR, picture=IMAGE, choice=spaces.Discrete(3), matrix=spaces.Box(-1, 1, (2, 2)))
ALGORITHMS = {"TRPO": TRPO, "ACER": ACER}
each_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)


def made(algorithm, env, **settings):
    steps = {"n_steps": 16, "seed": 0, "device": "cpu"}
    if algorithm is ACER:
        steps |= {"replay_start": 16, "buffer_size": 64}
    return algorithm(settings.pop("policy", "MlpPolicy"), env, **(steps | settings))


class WithHandle(gym.Wrapper):
    """Holds what can not be pickled."""

    def __init__(self, env):
        super().__init__(env)
        self.handle = (number for number in range(3))
