"""A stopwatch for the parts of an update, which follow one another."""

import time


class Laps:
    """Starts at once."""

    seconds: dict[str, float]
    """Wall-clock time of each part that has ended."""

    def __init__(self) -> None:
        self.seconds = {}
        self._last = time.perf_counter()

    def end(self, part: str) -> None:
        """A part ends now, and the next one begins."""
        now = time.perf_counter()
        self.seconds[part] = now - self._last
        self._last = now
