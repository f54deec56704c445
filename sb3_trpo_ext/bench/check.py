"""
``check``: trains our stored runs afresh; fails when they end below the stored interval.

What is compared is the mean over tasks of each task's interquartile mean. One interquartile mean of all runs together
would not notice a task that is not learnt any more, if its runs are the lowest anyway.
"""

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path

from sb3_trpo_ext.bench.algorithms import OURS
from sb3_trpo_ext.bench.comparison import Comparison
from sb3_trpo_ext.bench.formatting import bracketed, figure
from sb3_trpo_ext.bench.learn import add_execution_arguments, execute
from sb3_trpo_ext.bench.plan import parameters
from sb3_trpo_ext.bench.provenance import commit
from sb3_trpo_ext.bench.results import Result
from sb3_trpo_ext.bench.statistics import Estimate, interquartile_mean, mean_of_interquartile_means
from sb3_trpo_ext.bench.store import finished, read_all
from sb3_trpo_ext.bench.suites import SCALE

STORED = Path("benchmarks/quick.jsonl")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """
    :param label: of the algorithm
    :param rows: what is compared → stored estimate, fresh interquartile mean
    :param passed: whether the mean over all tasks is not below the stored interval
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
            interquartile_mean([before.returns(label, task)]),
            interquartile_mean([now.returns(label, task)]).value,
        )
        for task in before.tasks
    }
    stored_mean, fresh_mean = (mean_of_interquartile_means(one.scores(label)) for one in (before, now))
    rows["mean, scaled"] = stored_mean, fresh_mean.value
    return Verdict(label, rows, fresh_mean.value >= stored_mean.low)


def require_fresh(out: Path, stored: Path) -> None:
    """
    :param out: file for the fresh results
    :param stored: file of the stored ones
    :raises ValueError: when it has results that are not of this code
    """
    if out.resolve() == stored.resolve():
        raise ValueError(f"--out {out} is the file of the stored results: give another")
    now = commit()
    for result in finished(out).values():
        then = result.document.get("commit")
        if then != now:
            raise ValueError(
                f"{result.run} in {out} is of commit {then}, the code here of {now}: remove it, or give another --out"
            )


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
    parser.add_argument("--stored", type=Path, default=STORED, help=f"file of earlier results (default {STORED})")
    parser.add_argument("--out", type=Path, help="file for the fresh results, to go on after Ctrl-C (default: none)")
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
        without = {one.run.environment for one in stored} - set(SCALE)
        if without:
            raise ValueError(f"No scale to average by, see bench/suites.py: {', '.join(sorted(without))}")
        runs = [dataclasses.replace(one.run, params={**one.run.params, **params}) for one in stored]
        with tempfile.TemporaryDirectory() as folder:
            out = options.out or Path(folder, "fresh.jsonl")
            require_fresh(out, options.stored)
            failed = execute(runs, out, options.jobs)
            if failed:
                sys.exit("Runs failed, nothing can be compared:\n  " + "\n  ".join(failed))
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
        sys.exit(f"\n{', '.join(worse)} learns less than the stored results: below their interval")
    print("\nNot below the stored interval")
