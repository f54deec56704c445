"""Trains many runs, some at a time. What has its result already is left alone."""

import dataclasses
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from sb3_trpo_ext.bench.display import Display
from sb3_trpo_ext.bench.processes import Running, conclude, start, stop, take_in
from sb3_trpo_ext.bench.results import Result, Run
from sb3_trpo_ext.bench.store import Key, finished, key

POLL = 0.5  # seconds between looks at the running processes


def train_all(runs: Iterable[Run], out: Path, jobs: int) -> dict[str, str]:
    """
    Train what has no result yet.

    :param runs: in the order in which they start
    :param out: file for the results
    :param jobs: processes at a time
    :return: failed runs → the end of what they printed, traceback included
    :raises ValueError: when a result is there that was made with other settings
    :raises KeyboardInterrupt: after the running processes were ended
    """
    runs = list(runs)
    take_in(runs, out)
    there = finished(out)
    waiting = [run for run in runs if not is_among(there, run, out)]
    failed: dict[str, str] = {}
    display = Display(len(runs), len(runs) - len(waiting))
    running: list[Running] = []
    with sigterm_as_ctrl_c():
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    running.append(start(waiting.pop(0), out))
                ended = [one for one in running if one.process.poll() is not None]
                running = [one for one in running if one not in ended]
                for one in ended:
                    outcome = conclude(one, out)
                    if isinstance(outcome, str):
                        failed[str(one.run)] = outcome
                    display.ended(one, outcome)
                display.show(running, len(waiting))
                if running and not ended:
                    time.sleep(POLL)
        finally:
            # Nothing is left running when this is interrupted, or fails.
            stop(running)
            display.clear()
    return failed


def is_among(there: Mapping[Key, Result], run: Run, out: Path) -> bool:
    """
    Whether a run has its result.

    :param there: the finished runs
    :param run: in question
    :param out: file of the results
    :raises ValueError: when there is one of its name, but with other settings
    """
    if key(run) not in there:
        return False
    stored = there[key(run)].run
    if stored != run:
        fields = [field.name for field in dataclasses.fields(Run)]
        different = {
            name: f"{getattr(stored, name)} there, {getattr(run, name)} now"
            for name in fields
            if getattr(stored, name) != getattr(run, name)
        }
        raise ValueError(f"{out} has another {run}: {different}. Give another --label or --out")
    return True


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """A polite ``kill`` ends the runs too."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
