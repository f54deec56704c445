"""``speed``: how long each part of training takes here and in sb3-contrib, measured in turns in one process."""

import argparse
import json
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium as gym
import torch

from sb3_trpo_ext.bench import chart
from sb3_trpo_ext.bench.cases import CASES, GYMNASIUM, MEMORY, QUICK, Case, UpdateCase
from sb3_trpo_ext.bench.contenders import (
    SAME_WORK,
    VARIANTS,
    Seconds,
    contrib,
    environment,
    environment_seconds,
    match_steps,
    ours,
    prepare,
    train_once,
    update_once,
)
from sb3_trpo_ext.bench.memory import PeakMemory, peak_memory
from sb3_trpo_ext.bench.provenance import command_line, provenance, warn_if_busy

QUICK_REPEATS, REPEATS = 3, 5
# --quick promises a minute: no case begins after this many seconds, each takes a few.
QUICK_LAST_START = 40.0
NO_TIME = "no time left; run without --quick, or with --cases"
SEED = 0


@dataclass(frozen=True)
class Comparison:
    """
    The same part on both sides; the i-th measurements were taken one right after the other.

    :param contrib: seconds, one for each turn
    :param ours: seconds, one for each turn
    """

    contrib: tuple[float, ...]
    ours: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """sb3-contrib's time over ours, turn by turn."""
        return [theirs / mine for theirs, mine in zip(self.contrib, self.ours, strict=True)]

    def summary(self) -> dict[str, Any]:
        """Medians and range, ready for JSON."""
        return {
            "ratio": round(median(self.ratios), 3),
            "lowest": round(min(self.ratios), 3),
            "highest": round(max(self.ratios), 3),
            "contrib_seconds": median(self.contrib),
            "ours_seconds": median(self.ours),
        }


@dataclass(frozen=True)
class Result:
    """
    :param case: its name
    :param threads: of torch
    :param samples: per update
    :param parts: part of training → comparison
    :param cg_steps: that both took, one for each turn
    :param environment: seconds that the environments alone take for a rollout, one for each turn; empty where they are
        synthetic
    :param settings: what ours was constructed with; sb3-contrib's got those that it knows
    """

    case: str
    threads: int
    samples: int
    parts: dict[str, Comparison]
    cg_steps: tuple[int, ...]
    environment: tuple[float, ...]
    settings: dict[str, Any]

    @property
    def label(self) -> str:
        return f"{self.case}/{self.threads}thread"

    def over_environment(self) -> dict[str, float]:
        """How many times the environments' own time we take: to collect, and in all."""
        if not self.environment:
            return {}
        floor = median(self.environment)
        return {part: round(median(self.parts[part].ours) / floor, 3) for part in ("rollout", "end to end")}

    def document(self) -> dict[str, Any]:
        """Ready for JSON."""
        microseconds = median(self.environment) / self.samples * 1e6 if self.environment else None
        return {
            "case": self.case,
            "threads": self.threads,
            "samples": self.samples,
            "turns": len(next(iter(self.parts.values())).ours),
            "parts": {name: comparison.summary() for name, comparison in self.parts.items()},
            "environment_microseconds_per_step": microseconds,
            "ours_over_environment": self.over_environment(),
            "cg_steps": list(self.cg_steps),
            "settings": self.settings,
        }


def compare_training(case: Case, threads: int, repeats: int) -> list[Result]:
    """
    Train both sides in turns.

    :param case: to measure
    :param threads: of torch
    :param repeats: turns that count; one more warms up
    """
    theirs, mine = contrib(case, SEED), ours(case, SEED)
    alone = environment(case) if case.environment in GYMNASIUM else None
    turns: dict[str, list[Seconds]] = defaultdict(list)
    floor, steps = [], []
    for turn in range(repeats + 1):
        turns["contrib"].append(train_once(theirs, seed=turn))
        steps.append(match_steps(theirs, mine))
        turns["ours"].append(train_once(mine, seed=turn))
        if alone is not None:
            floor.append(environment_seconds(alone, case.samples // case.n_envs))
    parts = comparisons(turns["contrib"][1:], turns["ours"][1:])
    settings = {**case.arguments, **SAME_WORK}
    return [Result(case.name, threads, case.samples, parts, tuple(steps[1:]), tuple(floor[1:]), settings)]


def compare_updates(case: UpdateCase, threads: int, repeats: int) -> list[Result]:
    """
    Update the same policy on the same rollout in turns, ours once as sb3-contrib does and once for each variant.

    :param case: to measure
    :param threads: of torch
    :param repeats: turns that count; one more warms up
    """
    variants: dict[str, dict[str, Any]] = {"": {}, **VARIANTS}
    theirs = contrib(case, SEED)
    mine = {name: ours(case, SEED, **variant) for name, variant in variants.items()}
    prepare([theirs, *mine.values()], SEED)
    turns: dict[str, list[Seconds]] = defaultdict(list)
    steps = []
    for _ in range(repeats + 1):
        turns["contrib"].append(update_once(theirs))
        for name, side in mine.items():
            steps.append(match_steps(theirs, side))
            turns[name].append(update_once(side))
    results = []
    for name, variant in variants.items():
        label = "/".join(filter(None, (case.name, name)))
        parts = comparisons(turns["contrib"][1:], turns[name][1:])
        settings = {**case.arguments, **SAME_WORK, **variant}
        results.append(Result(label, threads, case.samples, parts, tuple(steps[len(mine) :: len(mine)]), (), settings))
    return results


def comparisons(contrib: list[Seconds], ours: list[Seconds]) -> dict[str, Comparison]:
    """
    Turn by turn → part by part.

    :param contrib: for each turn: part → seconds
    :param ours: the same
    """
    return {
        part: Comparison(tuple(turn[part] for turn in contrib), tuple(turn[part] for turn in ours))
        for part in contrib[0]
    }


def measure(
    cases: Iterable[Case | UpdateCase],
    threads: list[int],
    repeats: int,
    show: Callable[[Result], None],
    last_start: float = float("inf"),
) -> tuple[list[Result], dict[str, str]]:
    """
    :param cases: one after the other
    :param threads: each case once with each of these
    :param repeats: turns that count
    :param show: called with each result as it comes
    :param last_start: on ``time.perf_counter``; no case begins later
    :return: results; name of a case that was left out → why
    """
    results, skipped = [], {}
    before = torch.get_num_threads()
    try:
        for count in threads:
            torch.set_num_threads(count)
            for case in cases:
                if time.perf_counter() > last_start:
                    skipped[case.name] = NO_TIME
                    continue
                if isinstance(case, Case) and not can_make(case):
                    skipped[case.name] = f"it needs the {case.extra} extra: pip install '.[{case.extra}]' in a checkout"
                    continue
                if isinstance(case, UpdateCase):
                    new = compare_updates(case, count, repeats)
                else:
                    new = compare_training(case, count, repeats)
                for result in new:
                    show(result)
                results += new
    finally:
        torch.set_num_threads(before)
    return results, skipped


def can_make(case: Case | UpdateCase) -> bool:
    """
    Whether the packages that an environment needs are installed.

    :param case: whose environment
    """
    try:
        case.make().close()
    except (gym.error.DependencyNotInstalled, ModuleNotFoundError):
        return False
    return True


def show(result: Result) -> None:
    """
    Print a result as a table.

    :param result: to print
    """
    first = next(iter(result.parts.values()))
    print(f"\n{result.case}, {result.threads} thread(s), median of {len(first.ours)} turns")
    print(f"  {'part':20}{'sb3-contrib':>13}{'ours':>13}{'ratio':>9}   lowest – highest")
    for name, comparison in result.parts.items():
        row = comparison.summary()
        times = f"{row['contrib_seconds'] * 1e3:10.2f} ms{row['ours_seconds'] * 1e3:10.2f} ms"
        print(f"  {name:20}{times}{row['ratio']:9.2f}   {row['lowest']:.2f} – {row['highest']:.2f}")
    print(f"  steps of CG in each turn, the same on both sides: {', '.join(map(str, result.cg_steps))}")
    if result.environment:
        over = result.over_environment()
        microseconds = median(result.environment) / result.samples * 1e6
        print(
            f"  environment alone: {microseconds:.1f} µs per step; ours takes {over['rollout']:.2f} times that to "
            f"collect, {over['end to end']:.2f} times in all"
        )
    sys.stdout.flush()


def show_memory(memory: PeakMemory) -> None:
    """
    :param memory: to print
    """
    print(
        f"\n{memory.case}, peak memory: sb3-contrib {memory.contrib:.0f} MB, ours {memory.ours:.0f} MB, imports alone "
        f"{memory.imports:.0f} MB; ours over sb3-contrib's {memory.ratio:.2f}, beyond the imports "
        f"{memory.ratio_beyond_imports:.2f}"
    )


def memory_document(memory: PeakMemory) -> dict[str, Any]:
    """
    Ready for JSON.

    :param memory: to write
    """
    ratios = {"ratio": round(memory.ratio, 3), "ratio_beyond_imports": round(memory.ratio_beyond_imports, 3)}
    return {**asdict(memory), **ratios}


def ratios(document: dict[str, Any]) -> dict[str, dict[str, float]]:
    """
    Nothing but the ratios: case → part → sb3-contrib's time over ours.

    :param document: as it is written
    """
    found = {
        f"{result['case']}/{result['threads']}thread": {
            **{part: summary["ratio"] for part, summary in result["parts"].items()},
            **{f"ours over environment: {part}": ratio for part, ratio in result["ours_over_environment"].items()},
        }
        for result in document["results"]
    }
    memory = {one["case"]: one["ratio"] for one in document["memory"]}
    return {**found, "peak memory, ours over sb3-contrib's": memory}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: of the subcommand
    """
    parser.add_argument("--cases", nargs="+", metavar="TEXT", help="only those whose name has one of these in it")
    parser.add_argument("--list", action="store_true", help="print the names of the cases and end")
    parser.add_argument("--repeats", type=positive, help=f"turns of each case (default {REPEATS})")
    parser.add_argument("--threads", type=positive, nargs="+", help="torch threads, one run with each (default 1 2)")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), help="folder for speed.json and speed.png")
    parser.add_argument("--quick", action="store_true", help="a few cases, within a minute")


def positive(text: str) -> int:
    """
    :param text: a whole number from 1
    :raises argparse.ArgumentTypeError: when it is none
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


def run(options: argparse.Namespace, arguments: list[str]) -> None:
    """
    :param options: parsed
    :param arguments: as they were typed
    """
    started = time.perf_counter()
    try:
        chosen = select(QUICK if options.quick and not options.cases else CASES, options.cases)
    except ValueError as error:
        sys.exit(str(error))
    if options.list:
        print("\n".join(case.name for case in chosen))
        return
    repeats = options.repeats or (QUICK_REPEATS if options.quick else REPEATS)
    threads = options.threads or ([1] if options.quick else [1, 2])
    origin = provenance(command_line(arguments))
    warn_if_busy(origin["load_average"])
    warnings.filterwarnings("ignore", module="gymnasium")
    print(json.dumps(origin, indent=1))

    last_start = started + QUICK_LAST_START if options.quick else float("inf")
    results, skipped = measure(chosen, threads, repeats, show, last_start)
    memory = []
    for name in [case.name for case in chosen if case.name in MEMORY and case.name not in skipped]:
        if time.perf_counter() > last_start:
            skipped[f"{name}, peak memory"] = NO_TIME
            continue
        memory.append(peak_memory(name))
        show_memory(memory[-1])
    for name, reason in skipped.items():
        print(f"\n{name} was skipped: {reason}")
    document = {
        **origin,
        "repeats": repeats,
        "seed": SEED,
        "results": [result.document() for result in results],
        "memory": [memory_document(one) for one in memory],
        "skipped": skipped,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "speed.json").write_text(json.dumps(document, indent=1) + "\n")
    chart.draw(document, options.out / "speed.png")
    print(f"\nWrote speed.json and speed.png to {options.out}")
    print(json.dumps(ratios(document)))


def select(cases: list[Case | UpdateCase], wanted: list[str] | None) -> list[Case | UpdateCase]:
    """
    :param cases: to choose from
    :param wanted: parts of names, in any case; None for all
    :raises ValueError: when none has such a name
    """
    chosen = [case for case in cases if wanted is None or any(text.lower() in case.name.lower() for text in wanted)]
    if not chosen:
        names = ", ".join(case.name for case in cases)
        raise ValueError(f"--cases {' '.join(wanted or [])} is in the name of no case. There are: {names}")
    return chosen
