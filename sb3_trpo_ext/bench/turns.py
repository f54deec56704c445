"""
Measures cases: both sides do the same work in turns, in one process, so that a busy moment of the machine strikes both.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import gymnasium as gym
import torch

from sb3_trpo_ext.bench.cases import GYMNASIUM, Case, UpdateCase
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
from sb3_trpo_ext.bench.measurement import Measurement, Timing

NO_TIME = "no time left; run without --quick, or with --cases"
SEED = 0


def measure(
    cases: Iterable[Case | UpdateCase],
    threads: list[int],
    repeats: int,
    show: Callable[[Measurement], None],
    last_start: float = float("inf"),
) -> tuple[list[Measurement], dict[str, str]]:
    """
    :param cases: one after the other
    :param threads: each case once with each of these
    :param repeats: turns that count
    :param show: called with each measurement as it comes
    :param last_start: on ``time.perf_counter``; no case begins later
    :return: measurements; name of a case that was left out → why
    """
    measurements, skipped = [], {}
    before = torch.get_num_threads()
    try:
        for count in threads:
            torch.set_num_threads(count)
            for case in cases:
                reason = why_skipped(case, last_start)
                if reason:
                    skipped[case.name] = reason
                    continue
                if isinstance(case, UpdateCase):
                    new = compare_updates(case, count, repeats)
                else:
                    new = compare_training(case, count, repeats)
                for measurement in new:
                    show(measurement)
                measurements += new
    finally:
        torch.set_num_threads(before)
    return measurements, skipped


def why_skipped(case: Case | UpdateCase, last_start: float) -> str | None:
    """
    :param case: that is next
    :param last_start: on ``time.perf_counter``; no case begins later
    :return: why it is left out; None when it is not
    """
    if time.perf_counter() > last_start:
        return NO_TIME
    if isinstance(case, Case) and not can_make(case):
        return f"it needs the {case.extra} extra: pip install '.[{case.extra}]' in a checkout"
    return None


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


def compare_training(case: Case, threads: int, repeats: int) -> list[Measurement]:
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
    parts = timings(turns["contrib"][1:], turns["ours"][1:])
    settings = {**case.arguments, **SAME_WORK}
    return [Measurement(case.name, threads, case.samples, parts, tuple(steps[1:]), tuple(floor[1:]), settings)]


def compare_updates(case: UpdateCase, threads: int, repeats: int) -> list[Measurement]:
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
    steps: dict[str, list[int]] = defaultdict(list)
    for _ in range(repeats + 1):
        turns["contrib"].append(update_once(theirs))
        for name, side in mine.items():
            steps[name].append(match_steps(theirs, side))
            turns[name].append(update_once(side))
    measurements = []
    for name, variant in variants.items():
        label = "/".join(filter(None, (case.name, name)))
        parts = timings(turns["contrib"][1:], turns[name][1:])
        settings = {**case.arguments, **SAME_WORK, **variant}
        measurements.append(Measurement(label, threads, case.samples, parts, tuple(steps[name][1:]), (), settings))
    return measurements


def timings(contrib: list[Seconds], ours: list[Seconds]) -> dict[str, Timing]:
    """
    Turn by turn → part by part.

    :param contrib: for each turn: part → seconds
    :param ours: the same
    """
    return {
        part: Timing(tuple(turn[part] for turn in contrib), tuple(turn[part] for turn in ours)) for part in contrib[0]
    }
