"""``throughput``: environment steps per second of ours beside a peer, in turns on one thread in one process."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from sb3_contrib import MaskablePPO, RecurrentPPO
from sb3_contrib.common.envs import InvalidActionEnvDiscrete
from stable_baselines3 import A2C
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_trpo_ext import ACER, TRPO, MaskableTRPO, RecurrentTRPO
from sb3_trpo_ext.bench.contenders import Stopwatch, now, undisturbed
from sb3_trpo_ext.bench.learn import number
from sb3_trpo_ext.bench.provenance import command_line, provenance, warn_if_busy
from sb3_trpo_ext.envs import as_vec_env

SEED = 0
# The same work: A2C learns from observations as they are.
AS_THEY_ARE = {"policy_kwargs": {"normalize_observations": False}}
MEMORY = {"lstm_hidden_size": 64, "net_arch": [64]}


def dummy(comparison: "Comparison", environment: str) -> VecEnv:
    """As users have them: monitored, one after the other in this process."""
    return DummyVecEnv([lambda: Monitor(comparison.make(environment))] * comparison.n_envs)


def in_process(comparison: "Comparison", environment: str) -> VecEnv:
    """The same, with fewer copies."""
    return as_vec_env([lambda: comparison.make(environment)] * comparison.n_envs)


def envpool(comparison: "Comparison", environment: str) -> VecEnv:
    """
    EnvPool's, stepped by two threads.

    :raises ModuleNotFoundError: when it is not installed
    """
    import envpool  # optional, and never a dependency

    pool = envpool.make(environment, env_type="gymnasium", num_envs=comparison.n_envs, num_threads=2, seed=SEED)
    return as_vec_env(pool)


class Contender(NamedTuple):
    """
    :param algorithm: to train
    :param settings: of its constructor
    :param policy: its name
    :param vec_env: comparison and name of an environment → what it is trained in
    """

    algorithm: type[OnPolicyAlgorithm]
    settings: dict[str, Any]
    policy: str = "MlpPolicy"
    vec_env: Callable[["Comparison", str], VecEnv] = dummy


class Comparison(NamedTuple):
    """
    :param environment: its name in gymnasium, unless another is asked for
    :param contenders: by what they are called
    :param n_envs: of each
    :param make: name → environment
    """

    environment: str
    contenders: dict[str, Contender]
    n_envs: int = 1
    make: Callable[[str], gym.Env[Any, Any]] = gym.make


def without_velocities(name: str) -> gym.Env[Any, Any]:
    """As RL Zoo's ``…NoVel``: what is left can only be solved by remembering."""
    from rl_zoo3.wrappers import MaskVelocityWrapper  # changes gymnasium, so not before it is asked for

    return MaskVelocityWrapper(gym.make(name))


def with_masks(name: str) -> gym.Env[Any, Any]:
    """Half of twenty choices are forbidden, others in each state."""
    return InvalidActionEnvDiscrete(dim=20, n_invalid_actions=10)


COMPARISONS = {
    # ACER's replays begin at once, as they are what is measured.
    "acer": Comparison(
        "CartPole-v1",
        {
            "A2C, 5 steps": Contender(A2C, {}),
            "A2C, 20 steps": Contender(A2C, {"n_steps": 20}),
            "ACER, 20 steps, no replay": Contender(ACER, {"replay_ratio": 0, **AS_THEY_ARE}),
            "ACER, 20 steps, 4 replays": Contender(ACER, {"replay_start": 0, **AS_THEY_ARE}),
            "ACER, 50 steps, 4 replays": Contender(ACER, {"replay_start": 0, "n_steps": 50, **AS_THEY_ARE}),
        },
    ),
    # Both as many samples for an update; RecurrentPPO with its own minibatches and passes.
    "recurrent": Comparison(
        "CartPole-v1",
        {
            "RecurrentPPO": Contender(RecurrentPPO, {"n_steps": 256, "policy_kwargs": MEMORY}, "MlpLstmPolicy"),
            "RecurrentTRPO": Contender(RecurrentTRPO, {"n_steps": 256, "policy_kwargs": MEMORY}, "MlpLstmPolicy"),
            "RecurrentTRPO, GRU": Contender(
                RecurrentTRPO, {"n_steps": 256, "policy_kwargs": {"recurrent": "gru", **MEMORY}}, "MlpLstmPolicy"
            ),
        },
        n_envs=8,
        make=without_velocities,
    ),
    "masks": Comparison(
        "InvalidActionEnvDiscrete",
        {
            "MaskablePPO": Contender(MaskablePPO, {}),
            "TRPO, without masks": Contender(TRPO, {}),
            "MaskableTRPO": Contender(MaskableTRPO, {}),
        },
        make=with_masks,
    ),
    "environments": Comparison(
        "HalfCheetah-v5",
        {
            "DummyVecEnv": Contender(TRPO, {"n_steps": 128}),
            "as_vec_env": Contender(TRPO, {"n_steps": 128}, vec_env=in_process),
            "EnvPool, 2 threads": Contender(TRPO, {"n_steps": 128}, vec_env=envpool),
        },
        n_envs=16,
    ),
}


@dataclass
class Clocked:
    """
    A model whose training is timed, and within it the updates.

    :param model: goes on from where it is in each turn
    :param steps_per_second: of the environments, turn by turn
    :param seconds_per_gradient_step: with what belongs to one, turn by turn
    :param seconds_per_sample: of the updates, for each step of an environment, turn by turn
    """

    model: OnPolicyAlgorithm
    steps_per_second: list[float] = field(default_factory=list)
    seconds_per_gradient_step: list[float] = field(default_factory=list)
    seconds_per_sample: list[float] = field(default_factory=list)

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
        taken = self.model.num_timesteps - timesteps
        self.steps_per_second.append(taken / seconds)
        self.seconds_per_sample.append(updates / taken)
        self.seconds_per_gradient_step.append(updates / (self._gradient_steps() - gradient_steps))

    def figures(self) -> dict[str, list[float]]:
        """Turn by turn, ready for JSON."""
        return {
            "steps_per_second": self.steps_per_second,
            "seconds_per_gradient_step": self.seconds_per_gradient_step,
            "seconds_per_sample": self.seconds_per_sample,
        }

    def _gradient_steps(self) -> int:
        return self.model._n_updates + (self.model._n_replays if isinstance(self.model, ACER) else 0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: of the subcommand
    """
    parser.add_argument("--of", choices=COMPARISONS, default="acer", help="what is compared (default acer)")
    parser.add_argument("--envs", nargs="+", metavar="ENV", default=None, help="(default: the comparison's own)")
    parser.add_argument("--steps", type=number, default=3000, help="of each turn (default 3000)")
    parser.add_argument("--repeats", type=number, default=5, help="turns that count; one more warms up (default 5)")
    parser.add_argument("--out", type=Path, default=None, help="file for the figures of all turns, as JSON")


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
        comparison = COMPARISONS[options.of]
        document: dict[str, Any] = {"origin": origin, "turns": {}}
        for environment in options.envs or [comparison.environment]:
            clocked = measure(comparison, environment, options.steps, options.repeats)
            show(environment, clocked)
            document["turns"][environment] = {name: one.figures() for name, one in clocked.items()}
        if options.out:
            options.out.write_text(json.dumps(document, indent=1), encoding="utf-8")
    except gym.error.Error as error:
        sys.exit(f"--envs {environment}: {error}")
    except ModuleNotFoundError as error:
        sys.exit(f"--of {options.of}: {error}. Install it: pip install {error.name}")
    finally:
        torch.set_num_threads(threads)


def measure(comparison: Comparison, environment: str, steps: int, repeats: int) -> dict[str, Clocked]:
    """
    Train all contenders in turns.

    :param comparison: of which
    :param environment: its name in gymnasium
    :param steps: of each turn
    :param repeats: turns that count; one more warms up
    :return: by name, without the first turn
    """

    def clocked_one(one: Contender) -> Clocked:
        env = one.vec_env(comparison, environment)
        return Clocked(one.algorithm(one.policy, env, seed=SEED, device="cpu", **one.settings))

    clocked = {name: clocked_one(one) for name, one in comparison.contenders.items()}
    for _ in range(repeats + 1):
        for one in clocked.values():
            one.learn(steps)
    for one in clocked.values():
        del one.steps_per_second[0], one.seconds_per_gradient_step[0], one.seconds_per_sample[0]
    return clocked


def show(environment: str, clocked: dict[str, Clocked]) -> None:
    """
    Print a table.

    :param environment: its name
    :param clocked: contenders by name
    """
    turns = len(next(iter(clocked.values())).steps_per_second)
    print(f"\n{environment}, median (lowest – highest) of {turns} turns")
    print(f"  {'':28}{'steps per second':>24}{'gradient step':>16}{'updates per step':>20}")
    for name, one in clocked.items():
        rates = one.steps_per_second
        spread = f"{median(rates):.0f} ({min(rates):.0f} – {max(rates):.0f})"
        print(f"  {name:28}{spread:>24}{1e3 * median(one.seconds_per_gradient_step):13.2f} ms", end="")
        print(f"{1e6 * median(one.seconds_per_sample):17.1f} µs")
    sys.stdout.flush()
