"""What the speed benchmark measures, as data: times of both sides, turn by turn, and their ratios."""

from dataclasses import dataclass, field
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
    :param without_settings: of training without settings, by the name of who trained: seconds for as many steps, one
        for each turn; empty where the environments are synthetic
    :param own_parts: of ours without settings: rollout, policy update, critic and all of it, seconds for each turn;
        empty where the environments are synthetic
    """

    case: str
    threads: int
    samples: int
    parts: dict[str, Timing]
    cg_steps: tuple[int, ...]
    environment: tuple[float, ...]
    settings: dict[str, Any]
    device: str = "cpu"
    without_settings: dict[str, tuple[float, ...]] = field(default_factory=dict)
    own_parts: dict[str, tuple[float, ...]] = field(default_factory=dict)

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
        """
        How many times the environments' own time training takes: without settings, and ours with sb3-contrib's work, to
        collect and in all.
        """
        if not self.environment:
            return {}
        seconds = {
            **self.without_settings,
            **{f"same work, {part}": self.parts[part].ours for part in ("rollout", "end to end")},
        }
        floor = median(self.environment)
        return {name: round(median(times) / floor, 3) for name, times in seconds.items()}

    def contrib_over(self) -> dict[str, float]:
        """sb3-contrib's time for the case over that of training without settings, median of the turns."""
        theirs = self.parts["end to end"].contrib if self.without_settings else ()
        return {
            name: round(median(one / other for one, other in zip(theirs, times, strict=True)), 3)
            for name, times in self.without_settings.items()
        }

    def microseconds(self) -> dict[str, float]:
        """Of a step of training without settings, by the name of who trained."""
        return {name: median(times) / self.samples * 1e6 for name, times in self.without_settings.items()}

    def where_it_goes(self) -> dict[str, float]:
        """Of a step of ours without settings, in microseconds: the environments, and what comes on top of them."""
        if not self.own_parts:
            return {}
        floor = self.environment_microseconds or 0.0
        rollout, policy, critic, total = (median(times) / self.samples * 1e6 for times in self.own_parts.values())
        return {
            "environment": floor,
            "rest of collecting": rollout - floor,
            "policy update": policy,
            "critic": critic,
            "what is between": total - rollout - policy - critic,
        }

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
            "over_environment": self.over_environment(),
            "without_settings_microseconds_per_step": self.microseconds(),
            "contrib_over_without_settings": self.contrib_over(),
            "our_microseconds_per_step": self.where_it_goes(),
            "cg_steps": list(self.cg_steps),
            "settings": self.settings,
        }
