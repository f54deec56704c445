"""
Measures cases: both sides do the same work in turns, in one process, so that a busy moment of the machine strikes both.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import gymnasium as gym
import torch

from sb3_trpo_ext.bench.cases import GYMNASIUM, Case, UpdateCase
from sb3_trpo_ext.bench.contenders import (
    OURS,
    VARIANTS,
    Contender,
    Seconds,
    contrib,
    environment,
    environment_seconds,
    learn_once,
    match_steps,
    ours,
    ours_by_default,
    prepare,
    train_once,
    update_once,
    without_settings,
)
from sb3_trpo_ext.bench.measurement import Measurement, Timing

NO_TIME = "no time left; run without --quick, with more --seconds, or with --cases"
NO_MEMORY = "the GPU's memory is too small for it"
SEED = 0
# Parts of ours without settings, which say where its time goes.
WITHOUT_SETTINGS = ("rollout", "policy update", "critic", "end to end")


class Setting(NamedTuple):
    """
    :param case: to measure
    :param device: of both policies
    :param threads: of torch
    """

    case: Case | UpdateCase
    device: str = "cpu"
    threads: int = 1

    @property
    def name(self) -> str:
        """Of the case, and the device if it is not the CPU."""
        return self.case.name if self.device == "cpu" else f"{self.case.name}/{self.device}"


def measure(
    settings: Iterable[Setting],
    repeats: int,
    show: Callable[[Measurement], None],
    last_start: float = float("inf"),
    begin: Callable[[str], None] = lambda name: None,
) -> tuple[list[Measurement], dict[str, str]]:
    """
    :param settings: one after the other
    :param repeats: turns that count
    :param show: called with each measurement as it comes
    :param last_start: on ``time.perf_counter``; no case begins later, and no turn but the first that counts
    :param begin: called with the name of each case before it is measured
    :return: measurements; name of what was left out → why
    """
    measurements, skipped = [], {}
    before = torch.get_num_threads()
    try:
        for setting in settings:
            torch.set_num_threads(setting.threads)
            reason = why_skipped(setting.case, last_start)
            if reason:
                skipped[setting.name] = reason
                continue
            begin(setting.name)
            compare = compare_updates if isinstance(setting.case, UpdateCase) else compare_training
            try:
                new = compare(setting, repeats, last_start)
            except torch.OutOfMemoryError:
                skipped[setting.name] = NO_MEMORY
                continue
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


def compare_training(setting: Setting, repeats: int, last_start: float = float("inf")) -> list[Measurement]:
    """
    Train both sides in turns.

    :param setting: to measure, of a :class:`Case`
    :param repeats: turns that count; one more warms up
    :param last_start: as in :func:`measure`
    """
    case = setting.case
    assert isinstance(case, Case)
    theirs, mine, plain = (side(case, SEED, setting.device) for side in (contrib, ours, ours_by_default))
    alone = environment(case) if case.environment in GYMNASIUM else None
    others = without_settings(case, SEED, setting.device) if alone is not None else {}
    turns: dict[str, list[Seconds]] = defaultdict(list)
    learned: dict[str, list[float]] = defaultdict(list)
    floor, steps, own = [], [], []
    for turn in turns_in_time(repeats, last_start):
        turns["contrib"].append(train_once(theirs, seed=turn))
        steps.append(match_steps(theirs, mine))
        turns["ours"].append(train_once(mine, seed=turn))
        if alone is None:
            continue
        own.append(train_once(plain, seed=turn))
        learned[OURS].append(own[-1]["end to end"])
        for name, model in others.items():
            learned[name].append(learn_once(model, case.samples, seed=turn))
        floor.append(environment_seconds(alone, case.samples // case.n_envs))
    return [measurement(setting, case.name, mine, turns["contrib"], turns["ours"], steps, floor, learned, own)]


def compare_updates(setting: Setting, repeats: int, last_start: float = float("inf")) -> list[Measurement]:
    """
    Update the same policy on the same rollout in turns, ours once as sb3-contrib does and once for each variant: for
    whole updates that is the one without settings.

    :param setting: to measure, of an :class:`UpdateCase`
    :param repeats: turns that count; one more warms up
    :param last_start: as in :func:`measure`
    """
    case, device = setting.case, setting.device
    assert isinstance(case, UpdateCase)
    theirs, mine = contrib(case, SEED, device), {"": ours(case, SEED, device)}
    if case.critic:
        mine["defaults"] = ours_by_default(case, SEED, device)
    else:
        mine |= {name: ours(case, SEED, device, **variant) for name, variant in VARIANTS.items()}
    prepare([theirs, *mine.values()], SEED)
    turns: dict[str, list[Seconds]] = defaultdict(list)
    steps: dict[str, list[int]] = defaultdict(list)
    for _ in turns_in_time(repeats, last_start):
        turns["contrib"].append(update_once(theirs, case.critic))
        for name, side in mine.items():
            if side.does_the_same_work:
                match_steps(theirs, side)
            turns[name].append(update_once(side, case.critic))
            steps[name].append(int(side.model.logger.name_to_value["train/cg_steps"]))
    return [
        measurement(
            setting, "/".join(filter(None, (case.name, name))), side, turns["contrib"], turns[name], steps[name]
        )
        for name, side in mine.items()
    ]


def turns_in_time(repeats: int, last_start: float) -> Iterator[int]:
    """
    Numbers of the turns: one that warms up, one that counts, and as many more as there is time for.

    :param repeats: turns that count, at most
    :param last_start: on ``time.perf_counter``
    """
    for turn in range(repeats + 1):
        if turn > 1 and time.perf_counter() > last_start:
            return
        yield turn


def measurement(
    setting: Setting,
    name: str,
    mine: Contender,
    contrib: list[Seconds],
    ours: list[Seconds],
    steps: list[int],
    floor: Sequence[float] = (),
    learned: Mapping[str, Sequence[float]] = MappingProxyType({}),
    own: Sequence[Seconds] = (),
) -> Measurement:
    """
    What the turns after the first say.

    :param setting: that was measured
    :param name: of the case, with that of the variant
    :param mine: our side
    :param contrib: for each turn: part → seconds
    :param ours: the same
    :param steps: of our conjugate gradient, for each turn
    :param floor: seconds of the environments alone, for each turn; empty where they are not measured
    :param learned: seconds that training without settings takes, by name, for each turn
    :param own: part → seconds of ours without settings, for each turn
    """
    parts = timings(contrib[1:], ours[1:])
    without = {name: tuple(seconds[1:]) for name, seconds in learned.items()}
    parts_of_ours = {part: tuple(turn[part] for turn in own[1:]) for part in (WITHOUT_SETTINGS if own else ())}
    rest = (tuple(steps[1:]), tuple(floor[1:]), mine.settings, setting.device, without, parts_of_ours)
    return Measurement(name, setting.threads, setting.case.samples, parts, *rest)


def timings(contrib: list[Seconds], ours: list[Seconds]) -> dict[str, Timing]:
    """
    Turn by turn → part by part.

    :param contrib: for each turn: part → seconds
    :param ours: the same
    """
    return {
        part: Timing(tuple(turn[part] for turn in contrib), tuple(turn[part] for turn in ours)) for part in contrib[0]
    }
