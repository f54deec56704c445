"""``report``: tables and plots of what ``learn`` trained, with the commands that make them again."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sb3_trpo_ext.bench import reproduction
from sb3_trpo_ext.bench.algorithms import BASELINE, OURS
from sb3_trpo_ext.bench.comparison import Comparison
from sb3_trpo_ext.bench.conditions import conditions
from sb3_trpo_ext.bench.pictures import draw
from sb3_trpo_ext.bench.results import Result
from sb3_trpo_ext.bench.store import NEWEST, read_all
from sb3_trpo_ext.bench.suites import SUITES
from sb3_trpo_ext.bench.tables import tables


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: of the subcommand
    """
    parser.add_argument("--results", type=Path, nargs="+", default=[NEWEST], help=f"files (default {NEWEST})")
    parser.add_argument("--suite", choices=SUITES, help="only its tasks")
    parser.add_argument("--envs", nargs="+", metavar="ENV", help="only these")
    parser.add_argument(
        "--labels", nargs="+", help=f"only these columns (as trained: {', '.join((*OURS, BASELINE))} …)"
    )
    parser.add_argument(
        "--baseline",
        help=f"label to compare with (default {BASELINE}); with another, a table of variants",
    )
    parser.add_argument("--out", type=Path, default=Path("bench-results"), help="folder for learning.md and PNGs")


def run(options: argparse.Namespace, arguments: list[str]) -> None:
    """
    :param options: of the command line
    :param arguments: that they were read from
    :raises SystemExit: when there is nothing to report
    """
    try:
        results = read_all(options.results)
    except ValueError as error:
        sys.exit(str(error))
    comparison = Comparison.of(select(results, options), options.baseline or BASELINE)
    options.out.mkdir(parents=True, exist_ok=True)
    text = markdown(comparison, draw(comparison, options.out))
    (options.out / "learning.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"Wrote learning.md and its plots to {options.out}")


def select(results: Sequence[Result], options: argparse.Namespace) -> list[Result]:
    """
    :param results: all that there are
    :param options: of the command line
    :return: those that are asked for
    :raises SystemExit: when there are none, or there is nothing of a name that is asked for
    """
    require_known("--labels", options.labels, {one.run.label for one in results})
    require_known("--envs", options.envs, {one.run.environment for one in results})
    if options.baseline:
        require_known("--baseline", [options.baseline], set(options.labels or [one.run.label for one in results]))
    chosen = [
        one
        for one in results
        if (options.labels is None or one.run.label in options.labels)
        and (options.envs is None or one.run.environment in options.envs)
        and (options.suite is None or one.run.task in SUITES[options.suite])
    ]
    if not chosen:
        there = ", ".join(dict.fromkeys(f"{one.run.label} {one.run.task}" for one in results))
        sys.exit(f"No run fits --labels, --envs and --suite. There are: {there}")
    return chosen


def require_known(option: str, named: Sequence[str] | None, known: set[str]) -> None:
    """
    :param option: of the command line
    :param named: by it
    :param known: what there are runs of
    :raises SystemExit: when a name is none of these: misspelt, it would leave a gap that looks like a result
    """
    unknown = [name for name in named or () if name not in known]
    if unknown:
        sys.exit(f"{option} {' '.join(unknown)}: there are only runs of {', '.join(sorted(known))}")


def markdown(comparison: Comparison, pictures: dict[str, str]) -> str:
    """
    :param comparison: of results
    :param pictures: file name → what it shows
    :return: the report
    """
    parts = ["# Learning benchmark", "Made by `python -m sb3_trpo_ext.bench report`.", conditions(comparison)]
    for title, explanation, text in tables(comparison):
        parts += [f"## {title}", explanation, text]
    parts.append("## Plots")
    parts += [f"![{shows}]({name})" for name, shows in pictures.items()]
    parts += ["## Reproduce a row", reproduction.EXPLANATION, reproduction.commands(comparison)]
    return "\n\n".join(parts) + "\n"
