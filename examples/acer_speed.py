"""
Environment steps per second of ACER beside Stable-Baselines3's A2C, in turns on one thread::

    python examples/acer_speed.py CartPole-v1 --steps 5000 --rounds 7

"ACER 50, 4" has sequences of 50 steps and four replays per update. The first round warms up and does not count.
"""

import argparse
import statistics
import time

import torch
from stable_baselines3 import A2C

from sb3_trpo_ext import ACER

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("env")
parser.add_argument("--steps", type=int, default=5000)
parser.add_argument("--rounds", type=int, default=7)
arguments = parser.parse_args()
torch.set_num_threads(1)

common = {"policy": "MlpPolicy", "env": arguments.env, "seed": 0, "device": "cpu"}
models = {
    "A2C 5": A2C(**common),
    "A2C 20": A2C(**common, n_steps=20),
    "ACER 20, 0": ACER(**common, replay_ratio=0),
    "ACER 20, 4": ACER(**common),
    "ACER 50, 4": ACER(**common, n_steps=50),
}
seconds: dict[str, list[float]] = {name: [] for name in models}
for _ in range(arguments.rounds + 1):
    for name, model in models.items():
        started = time.perf_counter()
        model.learn(arguments.steps, reset_num_timesteps=False)
        seconds[name].append(time.perf_counter() - started)
for name, times in seconds.items():
    rates = [arguments.steps / each for each in times[1:]]
    print(f"{arguments.env} {name}: median {statistics.median(rates):.0f}, best {max(rates):.0f} steps/s")
