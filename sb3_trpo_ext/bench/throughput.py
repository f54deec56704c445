"""``throughput``: environment steps per second of ACER and of SB3's A2C, in turns on one thread in one process."""

import argparse
import json
import sys
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3 import A2C
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_trpo_ext import ACER
from sb3_trpo_ext.bench.contenders import Stopwatch, now, undisturbed
from sb3_trpo_ext.bench.learn import number
from sb3_trpo_ext.bench.provenance import command_line, provenance, warn_if_busy

SEED = 0
# The same work: A2C learns from observations as they are.
AS_THEY_ARE = {"policy_kwargs": {"normalize_observations": False}}
# Name → algorithm, and its settings. ACER's replays begin at once, as they are what is measured.
CONTENDERS: dict[str, tuple[type[OnPolicyAlgorithm], dict[str, Any]]] = {
    "A2C, 5 steps": (A2C, {}),
    "A2C, 20 steps": (A2C, {"n_steps": 20}),
    "ACER, 20 steps, no replay": (ACER, {"replay_ratio": 0, **AS_THEY_ARE}),
    "ACER, 20 steps, 4 replays": (ACER, {"replay_start": 0, **AS_THEY_ARE}),
    "ACER, 50 steps, 4 replays": (ACER, {"replay_start": 0, "n_steps": 50, **AS_THEY_ARE}),
}


@dataclass
class Clocked:
    """
    A model whose training is timed, and within it the updates.

    :param model: goes on from where it is in each turn
    :param steps_per_second: of the environments, turn by turn
    :param seconds_per_gradient_step: with what belongs to one, turn by turn
    """

    model: OnPolicyAlgorithm
    steps_per_second: list[float] = field(default_factory=list)
    seconds_per_gradient_step: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._watch = Stopwatch()
        self._watch.watch(self.model, "train")

    def learn(self, steps: int) -> None:
        """
        :param steps: of one turn
        """
        gradient_steps, timesteps = self._gradient_steps(), self.model.num_timesteps
        self._watch.spans.clear()
        with undisturbed():
            started = now()
            self.model.learn(steps, reset_num_timesteps=False)
            seconds = now() - started
        updates = sum(span.seconds for span in self._watch.spans["train"])
        self.steps_per_second.append((self.model.num_timesteps - timesteps) / seconds)
        self.seconds_per_gradient_step.append(updates / (self._gradient_steps() - gradient_steps))

    def _gradient_steps(self) -> int:
        return self.model._n_updates + (self.model._n_replays if isinstance(self.model, ACER) else 0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: of the subcommand
    """
    parser.add_argument("--envs", nargs="+", metavar="ENV", default=["CartPole-v1"], help="(default CartPole-v1)")
    parser.add_argument("--steps", type=number, default=3000, help="of each turn (default 3000)")
    parser.add_argument("--repeats", type=number, default=5, help="turns that count; one more warms up (default 5)")


def run(options: argparse.Namespace, arguments: list[str]) -> None:
    """
    :param options: parsed
    :param arguments: as they were typed
    :raises SystemExit: when an environment can not be made
    """
    origin = provenance(command_line(arguments))
    warn_if_busy(origin["load_average"])
    print(json.dumps(origin, indent=1))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for environment in options.envs:
            show(environment, measure(environment, options.steps, options.repeats))
    except gym.error.Error as error:
        sys.exit(f"--envs {environment}: {error}")
    finally:
        torch.set_num_threads(threads)


def measure(environment: str, steps: int, repeats: int) -> dict[str, Clocked]:
    """
    Train all contenders in turns.

    :param environment: its name in gymnasium
    :param steps: of each turn
    :param repeats: turns that count; one more warms up
    :return: by name, without the first turn
    """
    clocked = {
        name: Clocked(algorithm("MlpPolicy", environment, seed=SEED, device="cpu", **settings))
        for name, (algorithm, settings) in CONTENDERS.items()
    }
    for _ in range(repeats + 1):
        for one in clocked.values():
            one.learn(steps)
    for one in clocked.values():
        del one.steps_per_second[0], one.seconds_per_gradient_step[0]
    return clocked


def show(environment: str, clocked: dict[str, Clocked]) -> None:
    """
    Print a table.

    :param environment: its name
    :param clocked: contenders by name
    """
    turns = len(next(iter(clocked.values())).steps_per_second)
    print(f"\n{environment}, median (lowest – highest) of {turns} turns")
    print(f"  {'':28}{'steps per second':>24}{'gradient step':>16}")
    for name, one in clocked.items():
        rates = one.steps_per_second
        spread = f"{median(rates):.0f} ({min(rates):.0f} – {max(rates):.0f})"
        print(f"  {name:28}{spread:>24}{1e3 * median(one.seconds_per_gradient_step):13.2f} ms")
    sys.stdout.flush()
