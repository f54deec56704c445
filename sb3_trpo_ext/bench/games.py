"""The games of the suite "replay": few and costly steps, small images, rewards that come late."""

from contextlib import suppress
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

CATCH, MINATAR = "Catch-v0", "MinAtar/"
HEIGHT, WIDTH = 10, 5
STAY = 1


def register(environment: str) -> None:
    """
    Make a game known to gymnasium, where it is one and what it needs is installed: the extra ``games`` for MinAtar.

    :param environment: name of any environment
    """
    if environment in gym.registry:
        return
    if environment == CATCH:
        gym.register(CATCH, f"{__name__}:Catch")
    if environment.startswith(MINATAR):
        # Importing it takes a second, which the runs of other tasks need not spend.
        with suppress(ModuleNotFoundError):
            from minatar.gym import register_envs

            register_envs()


class Catch(gym.Env[np.ndarray, np.integer]):
    """
    A ball falls from a random column, a line at each step, and a paddle at the bottom is to be under it at the end:
    the only reward, 1 or −1 (Osband et al. 2020, "Behaviour suite for reinforcement learning", arXiv:1908.03568).

    The observation is the board, 1 where ball and paddle are, shape (10, 5). The actions are left, stay, right.
    """

    observation_space = spaces.Box(0.0, 1.0, (HEIGHT, WIDTH), np.float32)
    action_space = spaces.Discrete(3)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._ball, self._paddle, self._line = int(self.np_random.integers(WIDTH)), WIDTH // 2, 0
        return self._board(), {}

    def step(self, action: np.integer) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._paddle = int(np.clip(self._paddle + int(action) - STAY, 0, WIDTH - 1))
        self._line += 1
        over = self._line == HEIGHT - 1
        reward = (1.0 if self._paddle == self._ball else -1.0) if over else 0.0
        return self._board(), reward, over, False, {}

    def _board(self) -> np.ndarray:
        board = np.zeros((HEIGHT, WIDTH), np.float32)
        board[self._line, self._ball] = 1.0
        board[-1, self._paddle] = 1.0
        return board
