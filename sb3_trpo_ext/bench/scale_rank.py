"""One of the processes that ``scale`` measures: ``python -m sb3_trpo_ext.bench.scale_rank '{…}'``."""

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.common.ranks import ProcessGroup
from sb3_trpo_ext.kernels.vector import count

WARM_UP = 2  # iterations that do not count


@dataclass(frozen=True)
class Task:
    """
    :param environment: its name in gymnasium
    :param n_envs: of each rank
    :param n_steps: of each environment, for an update
    :param iterations: that count
    :param seed: of rank 0
    """

    environment: str
    n_envs: int
    n_steps: int
    iterations: int
    seed: int = 0


@dataclass(frozen=True)
class Measured:
    """
    :param steps_per_second: of the environments of all ranks
    :param rollout_seconds: of an iteration, for collecting
    :param messages: between the ranks for an update
    :param bytes: that an update sums
    :param formula: the same by 4 p (steps of the conjugate gradients + gradients)
    :param curve: steps of all ranks and mean return of the last 100 episodes, for each update
    """

    steps_per_second: float
    rollout_seconds: float
    messages: float
    bytes: float
    formula: float
    curve: list[tuple[int, float]]


class Clock(BaseCallback):
    """Notes when each rollout begins, and what went between the ranks until then."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[tuple[float, int, int, int]] = []
        self.rollouts: list[float] = []
        self.curve: list[tuple[int, float]] = []

    def _on_rollout_start(self) -> None:
        ranks = self.model._ranks  # type: ignore[attr-defined]
        traffic = (ranks.traffic.messages, ranks.traffic.bytes) if isinstance(ranks, ProcessGroup) else (0, 0)
        self.begun.append((time.perf_counter(), self.num_timesteps, *traffic))
        log = self.logger.name_to_value
        if "time/rollout_seconds" in log:
            self.rollouts.append(log["time/rollout_seconds"])
        episodes = self.model.ep_info_buffer or ()
        self.curve.append((self.num_timesteps, float(np.mean([one["r"] for one in episodes])) if episodes else np.nan))

    def _on_training_end(self) -> None:
        self._on_rollout_start()

    def _on_step(self) -> bool:
        return True


def measure(task: Task) -> Measured:
    """
    :param task: of this rank, with the others
    """

    def make() -> gym.Env[Any, Any]:
        return Monitor(gym.make(task.environment))

    env = DummyVecEnv([make] * task.n_envs)
    model = TRPO("MlpPolicy", env, n_steps=task.n_steps, seed=task.seed, device="cpu", num_threads=1)
    clock = Clock()
    steps = task.n_steps * task.n_envs * int(os.environ["WORLD_SIZE"])
    model.learn((WARM_UP + task.iterations) * steps, callback=clock, log_interval=10**9)
    first, last = clock.begun[WARM_UP], clock.begun[-1]
    n = len(clock.begun) - 1 - WARM_UP
    critic = count(model.value_function.parameters) * model.n_critic_steps
    actor = count(model.actor.parameters)
    formula = 4 * (actor * (model.cg_max_steps + 1) + critic * (model.cg_max_steps + 1))
    return Measured(
        steps_per_second=(last[1] - first[1]) / (last[0] - first[0]),
        rollout_seconds=float(np.median(clock.rollouts)),
        messages=(last[2] - first[2]) / n,
        bytes=(last[3] - first[3]) / n,
        formula=formula,
        curve=clock.curve[1:],
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(asdict(measure(Task(**json.loads(sys.argv[1]))))))
