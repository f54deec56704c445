"""How far training is, line by line."""

import os
import sys
import time

from sb3_trpo_ext.bench.processes import Running
from sb3_trpo_ext.bench.results import Result

SIGN_OF_LIFE = 600.0  # seconds between lines about the running runs where there is no terminal


class Display:
    """
    A line for each ended run; below, on a terminal, one that shows the running ones. Elsewhere that one is printed now
    and then.

    :param total: of runs
    :param finished: earlier
    """

    def __init__(self, total: int, finished: int):
        self.total, self.done, self.live = total, finished, sys.stdout.isatty()
        self.durations: list[float] = []
        self.shown = time.monotonic()
        print(f"{total} run{'s' * (total > 1)}, {finished} finished earlier", flush=True)

    def ended(self, one: Running, outcome: Result | str) -> None:
        """
        :param one: run that ended
        :param outcome: its result, or why it failed
        """
        self.clear()
        self.done += 1
        self.durations.append(time.monotonic() - one.started)
        if isinstance(outcome, Result):
            text = f"return {outcome.final:.1f}, evaluation {outcome.evaluated:.1f}, {outcome.minutes:.1f} min"
        else:
            text = f"FAILED: {outcome}"
        print(f"[{self.done}/{self.total}] {time.strftime('%H:%M')} {one.run}: {text}", flush=True)

    def show(self, running: list[Running], waiting: int) -> None:
        """
        :param running: now
        :param waiting: number of runs not started
        """
        if not running or not (self.live or time.monotonic() - self.shown > SIGN_OF_LIFE):
            return
        self.shown = time.monotonic()
        parts = []
        left = 0.0
        for one in running:
            share, mean = one.state()
            elapsed = time.monotonic() - one.started
            left += elapsed / share * (1 - min(share, 1)) if share else 0.0
            parts.append(f"{one.run} {share:.0%}" + ("" if mean is None else f" ({mean:.1f})"))
        if self.durations:
            left += waiting * sum(self.durations) / len(self.durations)
        text = f"[{self.done}/{self.total}] about {left / len(running) / 60:.0f} min left: {'; '.join(parts)}"
        if self.live:
            print(f"\r\x1b[K{text[: os.get_terminal_size().columns - 1]}", end="", flush=True)
        else:
            print(text, flush=True)

    def clear(self) -> None:
        """Remove the line of the running ones."""
        if self.live:
            print("\r\x1b[K", end="", flush=True)
