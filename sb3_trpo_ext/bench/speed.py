"""``speed``: how long each part of training takes here and in sb3-contrib, measured in turns in one process."""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from sb3_trpo_ext.bench import chart
from sb3_trpo_ext.bench.cases import BESIDE_GPU, CASES, GPU, MEMORY, QUICK, Case, UpdateCase
from sb3_trpo_ext.bench.measurement import Measurement
from sb3_trpo_ext.bench.memory import PeakMemory, peak_memory
from sb3_trpo_ext.bench.provenance import command_line, provenance, warn_if_busy
from sb3_trpo_ext.bench.turns import NO_TIME, SEED, Setting, measure

QUICK_REPEATS, REPEATS = 3, 5
# --quick promises a minute: no case begins after this many seconds, each takes a few.
QUICK_LAST_START = 40.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: of the subcommand
    """
    parser.add_argument("--cases", nargs="+", metavar="TEXT", help="only those whose name has one of these in it")
    parser.add_argument("--list", action="store_true", help="print the names of the cases and end")
    parser.add_argument("--repeats", type=positive, help=f"turns of each case (default {REPEATS})")
    parser.add_argument("--threads", type=positive, nargs="+", help="torch threads, one run with each (default 1 2)")
    parser.add_argument("--device", nargs="+", metavar="DEVICE", help="cpu or cuda, one run on each (default cpu)")
    parser.add_argument("--seconds", type=positive, help="no case begins later, and what there is is written")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), help="folder for speed.json and speed.png")
    suite = parser.add_mutually_exclusive_group()
    suite.add_argument("--quick", action="store_true", help="a few cases, within a minute")
    suite.add_argument("--gpu", action="store_true", help="cases for a GPU (default --device cuda cpu), few on the CPU")


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
        chosen = select(GPU if options.gpu else QUICK if options.quick and not options.cases else CASES, options.cases)
        if options.list:
            print("\n".join(case.name for case in chosen))
            return
        settings = settings_of(options, chosen)
    except ValueError as error:
        sys.exit(str(error))
    repeats = options.repeats or (QUICK_REPEATS if options.quick else REPEATS)
    origin = provenance(command_line(arguments))
    warn_if_busy(origin["load_average"])
    warnings.filterwarnings("ignore", module="gymnasium")
    print(json.dumps(origin, indent=1))

    document: dict[str, Any] = {**origin, "repeats": repeats, "seed": SEED, "results": [], "memory": [], "skipped": {}}

    def keep(measurement: Measurement) -> None:
        """What there is stays, whatever happens later."""
        show_measurement(measurement)
        document["results"].append(measurement.document())
        write_document(document, options.out)

    last_start = started + (options.seconds or (QUICK_LAST_START if options.quick else float("inf")))
    _, skipped = measure(settings, repeats, keep, last_start, Progress(len(settings), repeats))
    on_cpu = dict.fromkeys(one.case.name for one in settings if one.device == "cpu" and one.name not in skipped)
    memory, late = measure_memory(() if options.gpu else on_cpu, last_start)
    document["skipped"] = skipped | late
    for name, reason in document["skipped"].items():
        print(f"\n{name} was skipped: {reason}")
    document["memory"] = [one.document() for one in memory]
    write_figures(document, options.out)


def settings_of(options: argparse.Namespace, chosen: list[Case | UpdateCase]) -> list[Setting]:
    """
    What is measured, in this order.

    :param options: parsed
    :param chosen: cases; with ``--gpu`` all on the first device, on others only those of ``BESIDE_GPU``
    :raises ValueError: when a device is not there
    """
    devices = options.device or (["cuda", "cpu"] if options.gpu else ["cpu"])
    threads = options.threads or ([1] if options.quick or options.gpu else [1, 2])
    for device in devices:
        if torch.device(device).type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"--device {device}: torch finds no CUDA here. Give --device cpu")
    return [
        Setting(case, device, count)
        for device in devices
        # The threads of the CPU make no difference to a GPU.
        for count in (threads if device == "cpu" else threads[:1])
        for case in chosen
        if not options.gpu or device == devices[0] or case.name in BESIDE_GPU
    ]


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


def measure_memory(names: Iterable[str], last_start: float) -> tuple[list[PeakMemory], dict[str, str]]:
    """
    Peak memory of those cases of which it is wanted, printed as it comes.

    :param names: of the cases that were measured
    :param last_start: on ``time.perf_counter``; no case begins later
    :return: measured memory; what was left out → why
    """
    measured, skipped = [], {}
    for name in names:
        if name not in MEMORY:
            continue
        if time.perf_counter() > last_start:
            skipped[f"{name}, peak memory"] = NO_TIME
            continue
        measured.append(peak_memory(name))
        show_memory(measured[-1])
    return measured, skipped


class Progress:
    """
    Says which case is next, and about how long the rest takes.

    :param total: number of cases
    :param repeats: turns of each
    """

    def __init__(self, total: int, repeats: int):
        self.total, self.repeats, self.begun, self.started = total, repeats, 0, time.perf_counter()

    def __call__(self, name: str) -> None:
        """
        :param name: of the case that begins
        """
        taken, done = time.perf_counter() - self.started, self.begun
        left = f", about {taken / done * (self.total - done) / 60:.0f} min left" if done else ""
        self.begun += 1
        turns = f"{self.repeats} turn{'s' * (self.repeats > 1)} after one that warms up"
        print(f"\n[{self.begun}/{self.total}] {name}: {turns}{left}", flush=True)


def show_measurement(measurement: Measurement) -> None:
    """
    Print a measurement as a table.

    :param measurement: to print
    """
    where = f"{measurement.threads} thread(s)" if measurement.device == "cpu" else measurement.device
    print(f"\n{measurement.case}, {where}, median of {measurement.turns} turns")
    show_over_environment(measurement)
    print(f"  {'the same work':20}{'sb3-contrib':>13}{'ours':>13}{'ratio':>9}   lowest – highest")
    for name, timing in measurement.parts.items():
        row = timing.summary()
        times = f"{row['contrib_seconds'] * 1e3:10.2f} ms{row['ours_seconds'] * 1e3:10.2f} ms"
        print(f"  {name:20}{times}{row['ratio']:9.2f}   {row['lowest']:.2f} – {row['highest']:.2f}")
    steps = ", ".join(map(str, measurement.cg_steps))
    print(f"  steps of our CG in each turn, and of sb3-contrib's where the work is the same: {steps}")
    sys.stdout.flush()


def show_over_environment(measurement: Measurement) -> None:
    """
    Print what training takes beside the environment alone, without settings first.

    :param measurement: to print
    """
    microseconds = measurement.environment_microseconds
    if microseconds is None:
        return
    print(f"  the environment alone takes {microseconds:.1f} µs a step; times that")
    steps, contrib = measurement.microseconds(), measurement.contrib_over()
    for name, ratio in measurement.over_environment().items():
        own = f"  {steps[name]:8.1f} µs a step, sb3-contrib {contrib[name]:.2f} times as long" if name in steps else ""
        print(f"    {name:24}{ratio:6.2f}{own}")
    parts = (f"{part} {own:.1f}" for part, own in measurement.where_it_goes().items())
    print(f"  a step of ours, µs: {', '.join(parts)}")


def show_memory(memory: PeakMemory) -> None:
    """
    :param memory: to print
    """
    print(
        f"\n{memory.case}, peak memory: sb3-contrib {memory.contrib:.0f} MB, ours {memory.ours:.0f} MB, imports alone "
        f"{memory.imports:.0f} MB; ours over sb3-contrib's {memory.ratio:.2f}, beyond the imports "
        f"{memory.ratio_beyond_imports:.2f}"
    )


def write_document(document: dict[str, Any], out: Path) -> None:
    """
    :param document: ready for JSON
    :param out: folder for ``speed.json``
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "speed.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def write_figures(document: dict[str, Any], out: Path) -> None:
    """
    Write the figures, their ratios alone and their chart.

    :param document: ready for JSON
    :param out: folder for the files
    """
    write_document(document, out)
    (out / "ratios.json").write_text(json.dumps(ratios(document), indent=1) + "\n", encoding="utf-8")
    chart.draw(document, out / "speed.png")
    print(f"\nWrote speed.json, ratios.json and speed.png to {out}")


def ratios(document: dict[str, Any]) -> dict[str, dict[str, float]]:
    """
    Nothing but the ratios: case → part → sb3-contrib's time over ours, and training's over the environment's.

    :param document: as it is written
    """
    found = {
        result["label"]: {
            **{part: summary["ratio"] for part, summary in result["parts"].items()},
            **{f"{name}, over the environment": ratio for name, ratio in result["over_environment"].items()},
            **{f"{name}, without settings": ratio for name, ratio in result["contrib_over_without_settings"].items()},
        }
        for result in document["results"]
    }
    memory = {one["case"]: one["ratio"] for one in document["memory"]}
    return {**found, "peak memory, ours over sb3-contrib's": memory}
