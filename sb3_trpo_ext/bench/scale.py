"""``scale``: one training on several processes: steps per second, returns, bytes, and what more of them would bring."""

import argparse
import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any, NamedTuple

from sb3_trpo_ext.bench.learn import number
from sb3_trpo_ext.bench.processes import ENVIRONMENT
from sb3_trpo_ext.bench.provenance import command_line, provenance, warn_if_busy
from sb3_trpo_ext.bench.scale_rank import Measured, Task

SPEED = ("HalfCheetah-v5", "Hopper-v5", "CartPole-v1")
N_STEPS = 2048  # per rank and update
# Returns: as many samples in all, from one process with two environments or from two with one.
LEARNING = "Pendulum-v1"
LEARNING_STEPS, LEARNING_TIMESTEPS = 1024, 100_000
MODEL_RANKS = (1, 2, 8, 64, 512)


class Network(NamedTuple):
    """
    :param latency: seconds from one machine to another
    :param bandwidth: bytes per second of one machine
    """

    latency: float
    bandwidth: float


class Change(NamedTuple):
    """
    What an update could do otherwise, in the model.

    :param name: in words
    :param messages: share of the messages that is left
    :param inside: ranks of one machine, whose sums are made there first at a tenth of the latency; 1 for none
    """

    name: str
    messages: float
    inside: int


@dataclass(frozen=True)
class Parts:
    """
    Of one iteration of one process by itself, measured.

    :param rollout: seconds for ``N_STEPS`` steps
    :param update: seconds for the rest
    :param messages: that an update passes between ranks
    :param bytes: that it sums
    """

    rollout: float
    update: float
    messages: float
    bytes: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: of the subcommand
    """
    parser.add_argument("--envs", nargs="+", metavar="ENV", default=SPEED, help=f"(default {' '.join(SPEED)})")
    parser.add_argument("--ranks", nargs="+", type=number, default=[1, 2], help="processes (default 1 2)")
    parser.add_argument("--iterations", type=number, default=8, help="that count in each turn (default 8)")
    parser.add_argument("--repeats", type=number, default=5, help="turns (default 5)")
    parser.add_argument("--seeds", type=int, default=5, help="of the comparison of returns; 0 leaves it out (5)")
    parser.add_argument("--latency", type=float, default=50e-6, help="of the model, in seconds (default 50e-6)")
    parser.add_argument("--bandwidth", type=float, default=1.25e9, help="of the model, in bytes per second (1.25e9)")
    parser.add_argument("--out", type=Path, default=None, help="file for all figures, as JSON")


def run(options: argparse.Namespace, arguments: list[str]) -> None:
    """
    :param options: parsed
    :param arguments: as they were typed
    """
    origin = provenance(command_line(arguments))
    warn_if_busy(origin["load_average"])
    print(json.dumps(origin, indent=1), flush=True)
    document: dict[str, Any] = {"origin": origin, "speed": {}, "returns": {}, "model": {}}
    network = Network(options.latency, options.bandwidth)
    for environment in options.envs:
        turns = [
            {n: launch(n, Task(environment, 1, N_STEPS, options.iterations)) for n in options.ranks}
            for _ in range(options.repeats)
        ]
        measured = {n: [turn[n] for turn in turns] for n in options.ranks}
        document["speed"][environment] = {n: [asdict(one) for one in ones] for n, ones in measured.items()}
        print(speed_table(environment, measured), flush=True)
        if {1, 2} <= measured.keys():
            parts = parts_of(measured[1], measured[2])
            document["model"][environment] = asdict(parts)
            print(model_table(parts, network), flush=True)
    if options.seeds:
        returns = {n: [learned(n, seed) for seed in range(options.seeds)] for n in (1, 2)}
        document["returns"] = {n: [asdict(one) for one in ones] for n, ones in returns.items()}
        print(returns_table(returns), flush=True)
    if options.out:
        options.out.write_text(json.dumps(document, indent=1), encoding="utf-8")


def learned(n: int, seed: int) -> Measured:
    """The same number of samples for an update, on n ranks."""
    updates = math.ceil(LEARNING_TIMESTEPS / (2 * LEARNING_STEPS))
    return launch(n, Task(LEARNING, 2 // n, LEARNING_STEPS, updates, seed))


def launch(n: int, task: Task) -> Measured:
    """
    :param n: processes, each on one thread
    :param task: of each
    :return: what rank 0 measured
    :raises SystemExit: when one of them fails
    """
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(n)}
    command = [sys.executable, "-m", "sb3_trpo_ext.bench.scale_rank", json.dumps(asdict(task))]
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, **ENVIRONMENT, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(n)
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        sys.exit(f"{task.environment} on {n} ranks: one of the processes failed")
    return Measured(**json.loads(outputs[0].splitlines()[-1]))


def speed_table(environment: str, measured: dict[int, list[Measured]]) -> str:
    """
    :param environment: its name
    :param measured: turn by turn, by the number of ranks
    """
    lines = [f"\n{environment}, {N_STEPS} steps per rank and update, median (lowest – highest) of the turns"]
    lines.append(f"  {'ranks':>5}{'steps per second':>28}{'times':>8}{'KB summed per update':>23}{'messages':>11}")
    base = median(one.steps_per_second for one in measured[min(measured)])
    for n, turns in measured.items():
        rates = [one.steps_per_second for one in turns]
        spread = f"{median(rates):.0f} ({min(rates):.0f} – {max(rates):.0f})"
        last = turns[-1]
        lines.append(f"  {n:5}{spread:>28}{median(rates) / base:8.2f}{last.bytes / 1e3:23.1f}{last.messages:11.0f}")
    largest = measured[max(measured)][-1]
    lines.append(f"  by the formula 4 p (products + gradients): {largest.formula / 1e3:.1f} KB")
    return "\n".join(lines)


def returns_table(returns: dict[int, list[Measured]]) -> str:
    """
    :param returns: one for each seed, by the number of ranks
    """
    lines = [f"\n{LEARNING}, {2 * LEARNING_STEPS} samples per update in all, {LEARNING_TIMESTEPS} steps"]
    thirds = [len(returns[1][0].curve) * k // 3 - 1 for k in (1, 2, 3)]
    lines.append(f"  {'ranks':>5}" + "".join(f"{f'after {returns[1][0].curve[i][0]}':>22}" for i in thirds))
    for n, ones in returns.items():
        points = [[one.curve[i][1] for one in ones] for i in thirds]
        lines.append(f"  {n:5}" + "".join(f"{mean_and_deviation(values):>22}" for values in points))
    return "\n".join(lines)


def mean_and_deviation(values: Sequence[float]) -> str:
    """As text."""
    return f"{mean(values):.0f} ± {stdev(values) if len(values) > 1 else 0:.0f}"


def parts_of(alone: list[Measured], two: list[Measured]) -> Parts:
    """
    :param alone: one process by itself, turn by turn
    :param two: two ranks
    """
    rollout = median(one.rollout_seconds for one in alone)
    iteration = median(N_STEPS / one.steps_per_second for one in alone)
    return Parts(rollout, iteration - rollout, two[-1].messages, two[-1].bytes)


def seconds_of_messages(parts: Parts, network: Network, ranks: int, change: Change) -> float:
    """
    Of one update: each message takes 2 ⌈log₂ K⌉ latencies there and back, and its bytes go 2 (K − 1) / K times through
    each machine's line. Sums inside a machine are made first, at a tenth of the latency.

    :param ranks: K
    """
    if ranks == 1:
        return 0.0
    machines = math.ceil(ranks / change.inside)
    steps = 2 * math.ceil(math.log2(machines)) + 2 * math.ceil(math.log2(min(ranks, change.inside))) / 10
    through = 2 * (machines - 1) / machines * parts.bytes / network.bandwidth
    return change.messages * (parts.messages * steps * network.latency + through)


CHANGES = (
    Change("as it is", 1.0, 1),
    Change("5 CG steps in place of 15", 0.45, 1),
    Change("8 ranks on a machine, summed there first", 1.0, 8),
    Change("both", 0.45, 8),
)


def model_table(parts: Parts, network: Network) -> str:
    """
    How much faster K ranks take the same number of steps, by the measured parts: with as many steps for each rank and
    update as now, and with as many in all.
    """
    lines = [
        f"  model: rollout {parts.rollout:.3f} s, update {parts.update:.3f} s, {parts.messages:.0f} messages of "
        f"{parts.bytes / 1e3:.1f} KB in all; latency {1e6 * network.latency:.0f} µs, "
        f"{network.bandwidth / 1e9:.2f} GB/s",
        f"  {'times as fast on K ranks':44}" + "".join(f"{f'K = {k}':>9}" for k in MODEL_RANKS),
    ]
    now = parts.rollout + parts.update
    for change in CHANGES:
        fixed = [now * k / (now + seconds_of_messages(parts, network, k, change)) for k in MODEL_RANKS]
        lines.append(f"  {f'{N_STEPS} steps each, {change.name}':44}" + "".join(f"{one:9.1f}" for one in fixed))
    for change in CHANGES:
        shared = [now / (now / k + seconds_of_messages(parts, network, k, change)) for k in MODEL_RANKS]
        lines.append(f"  {f'{N_STEPS} steps in all, {change.name}':44}" + "".join(f"{one:9.1f}" for one in shared))
    return "\n".join(lines)
