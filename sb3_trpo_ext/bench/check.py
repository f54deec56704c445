"""``check``: trains our stored runs afresh; fails when their interquartile mean is below the stored interval."""

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path

from sb3_trpo_ext.bench.learn import OURS, add_execution_arguments, execute, parameters
from sb3_trpo_ext.bench.report import Comparison, bracketed, figure
from sb3_trpo_ext.bench.results import Result, read_all
from sb3_trpo_ext.bench.statistics import Estimate, interquartile_mean

STORED = Path("benchmarks/quick")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """
    :param label: of the algorithm
    :param rows: what is compared → stored estimate, fresh interquartile mean
    :param passed: whether the fresh one over all tasks is not below the stored interval
    """

    label: str
    rows: dict[str, tuple[Estimate, float]]
    passed: bool


def judge(stored: list[Result], fresh: list[Result]) -> Verdict:
    """
    :param stored: results of one label
    :param fresh: the same tasks and seeds
    :raises ValueError: when a task has no scale
    """
    before, now = Comparison.of(stored), Comparison.of(fresh)
    if before.shared() != before.tasks or before.tasks != now.tasks:
        raise ValueError(f"Fresh and stored runs must be of the same tasks, with a scale: {before.tasks}, {now.tasks}")
    label = stored[0].run.label
    rows = {
        str(task): (
            interquartile_mean([before.finals(label, task)]),
            interquartile_mean([now.finals(label, task)]).value,
        )
        for task in before.tasks
    }
    together = interquartile_mean(before.scores(label)), interquartile_mean(now.scores(label)).value
    rows["all, scaled"] = together
    return Verdict(label, rows, together[1] >= together[0].low)


def show(verdict: Verdict) -> None:
    """
    :param verdict: to print
    """
    print(f"\n{verdict.label}: interquartile mean of the return at the end of training")
    print(f"  {'task':28}{'stored [95 % interval]':>34}{'fresh':>12}")
    for name, (stored, fresh) in verdict.rows.items():
        print(f"  {name:28}{bracketed(stored):>34}{figure(fresh):>12}{'  below' if fresh < stored.low else ''}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: of the subcommand
    """
    parser.add_argument("--stored", type=Path, default=STORED, help=f"folder of earlier results (default {STORED})")
    parser.add_argument("--out", type=Path, help="folder for the fresh results, to go on after Ctrl-C (default: none)")
    add_execution_arguments(parser)


def run(options: argparse.Namespace, arguments: list[str]) -> None:
    """
    :param options: of the command line
    :param arguments: that they were read from
    :raises SystemExit: when we learn less than before, or it cannot be told
    """
    try:
        stored = [one for one in read_all([options.stored]) if one.run.label in OURS]
        params = parameters(options.params)
        if not stored:
            raise ValueError(f"None of the results in {options.stored} is of {', '.join(OURS)}")
        runs = [dataclasses.replace(one.run, params={**one.run.params, **params}) for one in stored]
        with tempfile.TemporaryDirectory() as folder:
            out = options.out or Path(folder)
            outcome = execute(runs, out, options.jobs)
            if outcome.failed:
                sys.exit("Runs failed, nothing can be compared:\n  " + "\n  ".join(outcome.failed))
            fresh = read_all([out])
        wanted = {(one.run.label, one.run.task, one.run.seed) for one in stored}
        fresh = [one for one in fresh if (one.run.label, one.run.task, one.run.seed) in wanted]
        verdicts = [
            judge([one for one in stored if one.run.label == label], [one for one in fresh if one.run.label == label])
            for label in dict.fromkeys(one.run.label for one in stored)
        ]
    except ValueError as error:
        sys.exit(str(error))
    for verdict in verdicts:
        show(verdict)
    worse = [verdict.label for verdict in verdicts if not verdict.passed]
    if worse:
        sys.exit(f"\n{', '.join(worse)} learns less than the stored results: below their interval over all tasks")
    print("\nNot below the stored interval")
