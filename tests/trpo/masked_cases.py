"""Environments with masks that refuse what they forbid, each telling its masks in another way."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

ACTIONS = {
    "discrete": spaces.Discrete(5),
    "multi_discrete": spaces.MultiDiscrete([2, 3, 4]),
    "multi_binary": spaces.MultiBinary(3),
}


def sizes(space: spaces.Space[Any]) -> list[int]:
    """Options of each choice."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    return space.nvec.tolist() if isinstance(space, spaces.MultiDiscrete) else [2] * space.shape[0]


class Doors(gym.Env[Any, Any]):
    """
    In each state about half of the options of each choice are open; a closed one must never be tried. The reward is the
    share of choices whose first open option was taken.

    :param space: of the actions
    :param length: of an episode
    :param truncates: end by a time limit
    """

    def __init__(self, space: spaces.Space[Any] = ACTIONS["discrete"], length: int = 8, truncates: bool = False):
        self.action_space, self.sizes = space, sizes(space)
        self.observation_space = spaces.Box(0, 1, (sum(self.sizes),), np.float32)
        self.length, self.truncates, self.tried = length, truncates, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.left = self.length
        return self._next(), {}

    def _next(self) -> Any:
        self.open = [self.np_random.random(size) < 0.5 for size in self.sizes]
        for mask in self.open:
            mask[self.np_random.integers(len(mask))] = True
        return np.concatenate(self.open).astype(np.float32)

    def step(self, action: Any) -> Any:
        chosen = np.ravel(action).astype(int)
        assert all(mask[option] for mask, option in zip(self.open, chosen, strict=True)), "a closed door"
        self.tried += 1
        reward = float(np.mean([mask.argmax() == option for mask, option in zip(self.open, chosen, strict=True)]))
        self.left -= 1
        over = self.left == 0
        return self._next(), reward, over and not self.truncates, over and self.truncates, {}

    @property
    def flat_mask(self) -> Any:
        return np.concatenate(self.open)


class WithMethod(Doors):
    def action_masks(self) -> Any:
        return self.flat_mask


class Ragged(Doors):
    """Says so with a list for each choice."""

    def action_masks(self) -> Any:
        return self.open[0] if isinstance(self.action_space, spaces.Discrete) else [mask.tolist() for mask in self.open]


class InInfos(Doors):
    def reset(self, **kwargs: Any) -> Any:
        observation, _ = super().reset(**kwargs)
        return observation, {"action_mask": self.flat_mask.astype(np.int8)}

    def step(self, action: Any) -> Any:
        *rest, _ = super().step(action)
        return *rest, {"action_mask": self.flat_mask.astype(np.int8)}


class InObservations(Doors):
    """Also where masks are not all that is seen."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        mask = spaces.Box(0, 1, (sum(self.sizes),), np.int8)
        self.observation_space = spaces.Dict(seen=self.observation_space, action_mask=mask)

    def _next(self) -> Any:
        seen = super()._next()
        return {"seen": seen, "action_mask": self.flat_mask.astype(np.int8)}


class VecWithMethod(DummyVecEnv):
    """A vectorised environment that knows all masks at once."""

    def action_masks(self) -> Any:
        return np.stack([env.unwrapped.flat_mask for env in self.envs])


SOURCES = {"method": WithMethod, "ragged": Ragged, "infos": InInfos, "observations": InObservations, "vec": Doors}


def vec_env(source: str, action: str, n: int = 3, **settings: Any) -> DummyVecEnv:
    """
    :param source: key of ``SOURCES``
    :param action: key of ``ACTIONS``
    :param n: environments, whose episodes differ in length
    """
    kind = VecWithMethod if source == "vec" else DummyVecEnv
    makers = [
        lambda i=i: SOURCES[source](ACTIONS[action], **{"length": 5 + 2 * i, **settings})  # type: ignore[misc]
        for i in range(n)
    ]
    return kind(makers)


def policy_of(source: str) -> str:
    return "MultiInputPolicy" if source == "observations" else "MlpPolicy"
