"""``learn``: trains algorithms on a suite through RL Zoo's settings, each run in a process of its own."""

import argparse
import shlex
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

from sb3_trpo_ext.bench.algorithms import ALGOS
from sb3_trpo_ext.bench.jobs import train_all
from sb3_trpo_ext.bench.plan import plan
from sb3_trpo_ext.bench.results import Run
from sb3_trpo_ext.bench.store import NEWEST, finished, key
from sb3_trpo_ext.bench.suites import SUITES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: of the subcommand
    """
    parser.add_argument("--suite", choices=SUITES, default="quick", help="of tasks (default quick: minutes)")
    parser.add_argument("--envs", nargs="+", metavar="ENV", help="only these; others than the suite's need --timesteps")
    parser.add_argument("--timesteps", type=number, help="instead of the suite's")
    parser.add_argument(
        "--algos",
        nargs="+",
        choices=ALGOS,
        default=["trpo_ext", "trpo"],
        help="by RL Zoo's names (default trpo_ext trpo)",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="one run each (default 0 to 4)")
    add_execution_arguments(parser)
    parser.add_argument(
        "--out", type=Path, default=NEWEST, help=f"file for the results, a line each (default {NEWEST})"
    )
    parser.add_argument(
        "--defaults", action="store_true", help="the constructor's defaults instead of RL Zoo's settings"
    )
    parser.add_argument("--label", help="name for changed settings, in files and reports; with one of --algos")


def add_execution_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Those that ``check`` has too.

    :param parser: of the subcommand
    """
    parser.add_argument("--jobs", type=number, default=1, help="runs at a time, one thread each (default 1)")
    parser.add_argument(
        "--params", nargs="+", metavar="KEY:VALUE", default=[],
        help="settings instead of RL Zoo's, such as target_kl:0.02 policy_kwargs:'dict(log_std_init=-1)'",
    )  # fmt: skip


def number(text: str) -> int:
    """
    :param text: a whole number from 1; 1e6 is one
    :raises argparse.ArgumentTypeError: when it is none
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if value < 1 or not value.is_integer():
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(value)


def run(options: argparse.Namespace, arguments: list[str]) -> None:
    """
    :param options: of the command line
    :param arguments: that they were read from
    :raises SystemExit: when a run failed
    """
    try:
        failed = execute(plan(options), options.out, options.jobs)
    except ValueError as error:
        sys.exit(str(error))
    if failed:
        names = "\n  ".join(failed)
        sys.exit(f"{len(failed)} run{'s' * (len(failed) > 1)} failed (tried again by the same command):\n  {names}")
    print(
        f"All is in {options.out}. Next: python -m sb3_trpo_ext.bench report --results {shlex.quote(str(options.out))}"
    )


def execute(runs: list[Run], out: Path, jobs: int) -> dict[str, str]:
    """
    :func:`train_all` for a command line.

    :param runs: to train
    :param out: file for the results
    :param jobs: processes at a time
    :return: failed runs → why
    :raises SystemExit: when interrupted, or something is missing
    """
    if find_spec("rl_zoo3") is None:
        sys.exit("The learning benchmark needs rl_zoo3, which is missing: pip install '.[zoo,bench]' in a checkout")
    try:
        return train_all(runs, out, jobs)
    except KeyboardInterrupt:
        there = finished(out)
        done = sum(key(run) in there for run in runs)
        print(f"Interrupted: {done} of {len(runs)} runs are finished and kept. The same command goes on from here.")
        sys.exit(128 + signal.SIGINT)
