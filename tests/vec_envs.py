"""What the tests of vectorised environments share: environments that say all sorts of things, and comparison."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

VECTOR = spaces.Box(-1, 1, (3,))
OBSERVATIONS = {
    "box": VECTOR,
    "double": spaces.Box(-1, 1, (2, 2), np.float64),
    "image": spaces.Box(0, 255, (8, 8, 3), np.uint8),
    "discrete": spaces.Discrete(5, start=2),
    "multi_discrete": spaces.MultiDiscrete([3, 4]),
    "multi_binary": spaces.MultiBinary(4),
    "dict": spaces.Dict(a=VECTOR, b=spaces.Discrete(3), c=spaces.Box(0, 255, (4, 4, 1), np.uint8)),
    "tuple": spaces.Tuple((VECTOR, spaces.Discrete(3))),
}
ACTIONS = {
    "box": spaces.Box(-1, 1, (2,)),
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([2, 3]),
    "multi_binary": spaces.MultiBinary(3),
}


class Various(gym.Env):
    """
    Random observations; rewards that depend on the action; short episodes that are terminated, truncated or both.

    :param writes_again: observations are one and the same array, written to in each step and reset
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self, observations=VECTOR, actions=ACTIONS["discrete"], writes_again: bool = False):
        self.observation_space, self.action_space = deepcopy(observations), deepcopy(actions)
        self.writes_again = writes_again
        self.array = np.zeros(self.observation_space.shape or (), self.observation_space.dtype)
        self.setting = 0
        self.options = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.options = options
        self.left, self.end = int(self.np_random.integers(1, 7)), int(self.np_random.integers(3))
        return self._observe(), {"left": self.left}

    def step(self, action):
        self.left -= 1
        reward = float(np.sum(action)) + self.np_random.normal()
        ends = self.left == 0
        return self._observe(), reward, ends and self.end != 1, ends and self.end != 0, self._says()

    def render(self):
        return np.full((2, 2, 3), self.left, np.uint8)

    def add(self, number, twice=False):
        """A method of its own."""
        return self.setting + number * (2 if twice else 1)

    def _says(self):
        return {"left": self.left, "share": 1 / (1 + self.left), "text": "some"}

    def _observe(self):
        observation = self.observation_space.sample()
        if not self.writes_again:
            return observation
        self.array[...] = observation
        return self.array


class Talkative(Various):
    """All kinds of values in ``info``, some of which it goes on writing to."""

    def __init__(self, **spaces_and_more):
        super().__init__(**spaces_and_more)
        self.counts, self.history, self.deep = np.zeros(3), [], {"inside": np.zeros(2)}

    def _says(self):
        self.counts += 1
        self.deep["inside"] += 1
        self.history.append(self.left)
        rare = {"rare": np.float32(0.5)} if self.left % 2 else {}
        numbers = {"none": None, "flag": np.bool_(True), "small": np.int8(3), "pair": (1, (2.0, "x"))}
        return {**super()._says(), **rare, **numbers, "counts": self.counts, "again": self.counts} | {
            "history": self.history,
            "deep": self.deep,
        }


def monitored(make: Callable[[], gym.Env]) -> Callable[[], gym.Env]:
    return lambda: Monitor(make())


def actions_of(env: VecEnv, steps: int, seed: int = 0) -> list[Any]:
    """Of all environments, for some steps."""
    space = deepcopy(env.action_space)
    space.seed(seed)
    return [np.array([space.sample() for _ in range(env.num_envs)]) for _ in range(steps)]


def trajectory(env: VecEnv, actions: list[Any], seed: int = 3) -> list[Any]:
    """
    What is seen from a reset on. That nobody writes to it later is looked at, too.

    :param env: is given a seed and reset
    :param actions: one for each step
    :param seed: of the first environment
    :return: for each step observations, rewards, dones, infos and the infos of resets
    """
    env.seed(seed)
    first = env.reset()
    seen = [(first, env.reset_infos)]
    then = deepcopy(seen)
    for action in actions:
        seen.append((*env.step(action), list(env.reset_infos)))
        then.append(deepcopy(seen[-1]))
    for one, other in zip(seen, then, strict=True):
        assert_same(one[:-1], other[:-1])
    return then


def assert_same(one: Any, other: Any, exact: bool = True, where: str = "") -> None:
    """
    Fails unless two nestings are equal bit for bit; only the time that Monitor reads may differ.

    :param exact: whether numbers must be of the same type, too
    """
    if isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            if not (where.endswith(".episode") and key == "t"):
                assert_same(one[key], other[key], exact, f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert isinstance(other, (list, tuple)) and len(one) == len(other), where
        for i, (first, second) in enumerate(zip(one, other, strict=True)):
            assert_same(first, second, exact, f"{where}[{i}]")
    elif isinstance(one, np.ndarray):
        assert isinstance(other, np.ndarray), where
        assert one.dtype == other.dtype and one.shape == other.shape, where
        assert one.tobytes() == other.tobytes(), where
    else:
        assert not exact or type(one) is type(other), (where, one, other)
        assert one == other, (where, one, other)
