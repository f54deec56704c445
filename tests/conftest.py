"""Settings of the whole test run; an environment of any spaces, a small TRPO, and comparison bit for bit."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from sb3_trpo_ext import TRPO
from tests.cases import SMALL

VECTOR, BOX = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Small matrix products become many times slower when threads outnumber free cores; and sums keep their order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state, whichever tests run with it."""
    torch.manual_seed(0)


class SpaceEnv(gym.Env):
    """
    Random observations of any space; actions near 0 are best; bad values on demand.

    :param length: of an episode, which is truncated then
    :param bad: number of the step since construction, from 1 → ("observation" or "reward", the bad value); step 0 is
        the first reset
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        length: int = 10,
        bad: dict[int, tuple[str, float]] | None = None,
        scale: float = 1.0,
    ):
        self.observation_space, self.action_space = deepcopy(observation_space), deepcopy(action_space)
        self.length, self.bad, self.scale = length, bad or {}, scale
        self.now = self.total = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.now = 0
        return self._observe(), {}

    def step(self, action):
        self.now += 1
        self.total += 1
        reward = -self.scale * float(np.square(np.asarray(action, dtype=float)).mean())
        kind, value = self.bad.get(self.total, ("", 0.0))
        return self._observe(), value if kind == "reward" else reward, False, self.now >= self.length, {}

    def _observe(self):
        observation = self.observation_space.sample()
        kind, value = self.bad.get(self.total, ("", 0.0))
        if kind == "observation":
            spoilt = observation["vector"] if isinstance(observation, dict) else observation
            spoilt.flat[0] = value
        return observation


@pytest.fixture
def space_env() -> type[SpaceEnv]:
    return SpaceEnv


@pytest.fixture
def make_env() -> Callable[..., SpaceEnv]:
    """
    An environment of vectors and two-dimensional actions, or of other spaces:
    ``make_env((number of a step, ("reward", nan)), …, actions=spaces.Discrete(3))``.
    """

    def make(*spoilt: tuple[int, tuple[str, float]], observations: Any = VECTOR, actions: Any = BOX, **kwargs: Any):
        return SpaceEnv(observations, actions, bad=dict(spoilt), **kwargs)

    return make


@pytest.fixture
def bits() -> Callable[[Any], Any]:
    """Any nesting of tensors as bytes: equal only when every bit is, NaN and −0 included."""

    def convert(value: Any) -> Any:
        if isinstance(value, (torch.Tensor, np.ndarray)):
            return np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value).tobytes()
        if isinstance(value, dict):
            return {key: convert(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [convert(item) for item in value]
        return value

    return convert


@pytest.fixture
def tiny() -> Callable[..., TRPO]:
    """A model that is fast to train: ``tiny(env, policy="MlpPolicy", **arguments of TRPO)``."""

    def make(env: Any, policy: Any = "MlpPolicy", **settings: Any) -> TRPO:
        defaults = {"n_steps": 16, "seed": 0, "device": "cpu"}
        small = SMALL[policy] if isinstance(policy, str) else {}
        policy_kwargs = small | settings.pop("policy_kwargs", {})
        return TRPO(policy, env, policy_kwargs=policy_kwargs, **(defaults | settings))

    return make
