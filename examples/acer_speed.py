"""
Environment steps per second and time per gradient step of ACER beside Stable-Baselines3's A2C, in turns on one thread::

    python examples/acer_speed.py CartPole-v1 --steps 5000 --rounds 7

"ACER 50, 4" has sequences of 50 steps and four replays per update. The first round warms up and does not count.
"""

import argparse
import statistics
import time

import torch
from stable_baselines3 import A2C
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_trpo_ext import ACER

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("env")
parser.add_argument("--steps", type=int, default=5000)
parser.add_argument("--rounds", type=int, default=7)
arguments = parser.parse_args()
torch.set_num_threads(1)


class Clocked:
    """A model whose training is timed, and within it the updates."""

    def __init__(self, model: OnPolicyAlgorithm):
        self.model = model
        self.steps_per_second: list[float] = []
        self.seconds_per_gradient_step: list[float] = []
        self._updating = 0.0
        self._train = model.train
        model.train = self._timed_train  # type: ignore[method-assign]

    def learn(self, steps: int) -> None:
        self._updating, before = 0.0, self._gradient_steps()
        started = time.perf_counter()
        self.model.learn(steps, reset_num_timesteps=False)
        self.steps_per_second.append(steps / (time.perf_counter() - started))
        self.seconds_per_gradient_step.append(self._updating / (self._gradient_steps() - before))

    def _timed_train(self) -> None:
        started = time.perf_counter()
        self._train()
        self._updating += time.perf_counter() - started

    def _gradient_steps(self) -> int:
        return self.model._n_updates + getattr(self.model, "_n_replays", 0)


common = {"policy": "MlpPolicy", "env": arguments.env, "seed": 0, "device": "cpu"}
models = {
    "A2C 5": Clocked(A2C(**common)),
    "A2C 20": Clocked(A2C(**common, n_steps=20)),
    "ACER 20, 0": Clocked(ACER(**common, replay_ratio=0)),
    "ACER 20, 4": Clocked(ACER(**common, replay_start=0)),
    "ACER 50, 4": Clocked(ACER(**common, replay_start=0, n_steps=50)),
}
for _ in range(arguments.rounds + 1):
    for clocked in models.values():
        clocked.learn(arguments.steps)
for name, clocked in models.items():
    rates = clocked.steps_per_second[1:]
    step = statistics.median(clocked.seconds_per_gradient_step[1:])
    print(
        f"{arguments.env} {name}: median {statistics.median(rates):.0f}, best {max(rates):.0f} steps/s; "
        f"{1000 * step:.2f} ms per gradient step"
    )
