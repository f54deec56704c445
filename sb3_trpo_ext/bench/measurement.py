"""What the speed benchmark measures, as data: times of both sides, turn by turn, and their ratios."""

from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Timing:
    """
    Times of one part of training on both sides; the i-th of each were taken one right after the other.

    :param contrib: sb3-contrib's seconds, one for each turn
    :param ours: our seconds, one for each turn
    """

    contrib: tuple[float, ...]
    ours: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """sb3-contrib's time over ours, turn by turn."""
        return [theirs / mine for theirs, mine in zip(self.contrib, self.ours, strict=True)]

    def summary(self) -> dict[str, float]:
        """Medians and range, ready for JSON."""
        return {
            "ratio": round(median(self.ratios), 3),
            "lowest": round(min(self.ratios), 3),
            "highest": round(max(self.ratios), 3),
            "contrib_seconds": median(self.contrib),
            "ours_seconds": median(self.ours),
        }


@dataclass(frozen=True)
class Measurement:
    """
    A case on one device, with one number of threads.

    :param case: its name
    :param threads: of torch
    :param samples: per update
    :param parts: part of training → its times
    :param cg_steps: steps of the conjugate gradient that ours took, one for each turn; where the work is the same,
        sb3-contrib's took as many
    :param environment: seconds that the environments alone take for a rollout, one for each turn; empty where they are
        synthetic
    :param settings: what ours was constructed with; sb3-contrib's got those of the case that it knows
    :param device: of both policies
    """

    case: str
    threads: int
    samples: int
    parts: dict[str, Timing]
    cg_steps: tuple[int, ...]
    environment: tuple[float, ...]
    settings: dict[str, Any]
    device: str = "cpu"

    @property
    def label(self) -> str:
        """Name of the case, and number of threads or the device that is not the CPU."""
        return f"{self.case}/{self.threads}thread" if self.device == "cpu" else f"{self.case}/{self.device}"

    @property
    def turns(self) -> int:
        """How often each part was measured."""
        return len(next(iter(self.parts.values())).ours)

    @property
    def environment_microseconds(self) -> float | None:
        """Time that the environments alone take for a step; None where they are synthetic."""
        return median(self.environment) / self.samples * 1e6 if self.environment else None

    def over_environment(self) -> dict[str, float]:
        """How many times the environments' own time we take: to collect, and in all."""
        if not self.environment:
            return {}
        floor = median(self.environment)
        return {part: round(median(self.parts[part].ours) / floor, 3) for part in ("rollout", "end to end")}

    def document(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "label": self.label,
            "case": self.case,
            "device": self.device,
            "threads": self.threads,
            "samples": self.samples,
            "turns": self.turns,
            "parts": {name: timing.summary() for name, timing in self.parts.items()},
            "environment_microseconds_per_step": self.environment_microseconds,
            "ours_over_environment": self.over_environment(),
            "cg_steps": list(self.cg_steps),
            "settings": self.settings,
        }
