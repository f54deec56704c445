"""``learn``: trains algorithms on a suite through RL Zoo's settings, each run in a process of its own."""

import argparse
import ast
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

import gymnasium as gym

from sb3_trpo_ext.bench.algorithms import ALGOS
from sb3_trpo_ext.bench.results import NEWEST, Run, read
from sb3_trpo_ext.bench.suites import SUITES, Task, short

POLL = 0.5  # seconds between looks at the running processes
PATIENCE = 10.0  # seconds that an interrupted run has to end by itself
TRACEBACK_LINES = 25
SIGN_OF_LIFE = 600.0  # seconds between lines about the running runs where there is no terminal
# One core for each run, no windows, no downloads.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
    "SDL_VIDEODRIVER": "dummy",
    "HF_HUB_OFFLINE": "1",
}


@dataclasses.dataclass(frozen=True)
class Running:
    """
    A run in its process.

    :param run: what it trains
    :param process: that does
    :param log: what it prints
    :param progress: where it tells how far it is
    :param started: on ``time.monotonic``
    """

    run: Run
    process: subprocess.Popen[bytes]
    log: Path
    progress: Path
    started: float

    def state(self) -> tuple[float, float | None]:
        """Share of the timesteps that is done, mean return of the last 100 episodes."""
        try:
            document = json.loads(self.progress.read_text())
        except (OSError, ValueError):
            return 0.0, None
        return document["steps"] / self.run.timesteps, document["return"]


def train_all(runs: Iterable[Run], out: Path, jobs: int) -> dict[str, str]:
    """
    Train what has no result yet.

    :param runs: in the order in which they start
    :param out: folder for the results
    :param jobs: processes at a time
    :return: failed runs → the end of what they printed, traceback included
    :raises ValueError: when a result is there that was made with other settings
    :raises KeyboardInterrupt: after the running processes were ended
    """
    runs = list(runs)
    finished = [run for run in runs if is_finished(run, out)]
    for run in finished:
        tidy(run.path(out))
    waiting = [run for run in runs if run not in finished]
    failed: dict[str, str] = {}
    display = Display(len(runs), len(finished))
    running: list[Running] = []
    with sigterm_as_ctrl_c():
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    running.append(start(waiting.pop(0), out))
                ended = [one for one in running if one.process.poll() is not None]
                running = [one for one in running if one not in ended]
                for one in ended:
                    report = conclude(one, out)
                    if report is not None:
                        failed[str(one.run)] = report
                    display.ended(one, out, report)
                display.show(running, len(waiting))
                if running and not ended:
                    time.sleep(POLL)
        finally:
            # Nothing is left running when this is interrupted, or fails.
            stop(running)
            display.clear()
    return failed


def is_finished(run: Run, out: Path) -> bool:
    """
    Whether a run has its result.

    :param run: in question
    :param out: folder of the results
    :raises ValueError: when the file is there but of a run with other settings
    """
    path = run.path(out)
    if not path.is_file():
        return False
    stored = read(path).run
    if stored != run:
        fields = [field.name for field in dataclasses.fields(Run)]
        different = {
            name: f"{getattr(stored, name)} there, {getattr(run, name)} now"
            for name in fields
            if getattr(stored, name) != getattr(run, name)
        }
        raise ValueError(f"{path} is of another run: {different}. Give another --label or --out")
    return True


def start(run: Run, out: Path) -> Running:
    """
    :param run: to train
    :param out: folder for its result
    """
    path = run.path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    log, progress = path.with_suffix(".log"), path.with_suffix(".progress")
    progress.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "sb3_trpo_ext.bench.run",
        json.dumps(dataclasses.asdict(run)),
        str(path),
        str(progress),
    ]
    with log.open("wb") as output:
        # In a session of its own Ctrl-C does not reach it: RL Zoo would take it for the end of training.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, **ENVIRONMENT},
        )  # fmt: skip
    return Running(run, process, log, progress, time.monotonic())


def conclude(ended: Running, out: Path) -> str | None:
    """
    Tidy up after a process. The log of a failed run is kept.

    :param ended: whose process has ended
    :param out: folder of the results
    :return: why it failed; None if it did not
    """
    path = ended.run.path(out)
    code = ended.process.returncode
    if code == 0 and path.is_file():
        tidy(path)
        return None
    ended.progress.unlink(missing_ok=True)
    last = ended.log.read_text(errors="replace").rstrip().splitlines()[-TRACEBACK_LINES:]
    why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    return "\n".join([f"{why}; all of its output is in {ended.log}", *last])


def tidy(path: Path) -> None:
    """
    Remove what a run leaves besides its result, also when the process that started it was gone before it.

    :param path: of the result
    """
    for suffix in (".log", ".progress"):
        path.with_suffix(suffix).unlink(missing_ok=True)


def stop(running: Iterable[Running]) -> None:
    """
    End processes and remove what they leave.

    :param running: to end
    """
    running = list(running)
    for one in running:
        one.process.terminate()
    deadline = time.monotonic() + PATIENCE
    for one in running:
        try:
            one.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            one.process.kill()
            one.process.wait()
        for file in (one.log, one.progress, *one.log.parent.glob(f"*.{one.process.pid}.tmp")):
            file.unlink(missing_ok=True)


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

    def ended(self, one: Running, out: Path, report: str | None) -> None:
        """
        :param one: run that ended
        :param out: folder of the results
        :param report: why it failed, if it did
        """
        self.clear()
        self.done += 1
        self.durations.append(time.monotonic() - one.started)
        if report is None:
            result = read(one.run.path(out))
            text = f"return {result.final:.1f}, evaluation {result.evaluated:.1f}, {result.minutes:.1f} min"
        else:
            text = f"FAILED: {report}"
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: of the subcommand
    """
    parser.add_argument("--suite", choices=SUITES, default="quick", help="of tasks (default quick: minutes)")
    parser.add_argument("--envs", nargs="+", metavar="ENV", help="only these; others than the suite's need --timesteps")
    parser.add_argument("--timesteps", type=number, help="instead of the suite's")
    parser.add_argument(
        "--algos",
        nargs="+",
        choices=ALGOS,
        default=["trpo_ext", "trpo"],
        help="by RL Zoo's names (default trpo_ext trpo)",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="one run each (default 0 to 4)")
    add_execution_arguments(parser)
    parser.add_argument("--out", type=Path, default=NEWEST, help=f"folder of the results (default {NEWEST})")
    parser.add_argument(
        "--defaults", action="store_true", help="the constructor's defaults instead of RL Zoo's settings"
    )
    parser.add_argument("--label", help="name for changed settings, in files and reports; with one of --algos")


def add_execution_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Those that ``check`` has too.

    :param parser: of the subcommand
    """
    parser.add_argument("--jobs", type=number, default=1, help="runs at a time, one thread each (default 1)")
    parser.add_argument(
        "--params", nargs="+", metavar="KEY:VALUE", default=[],
        help="settings instead of RL Zoo's, such as target_kl:0.02 policy_kwargs:'dict(log_std_init=-1)'",
    )  # fmt: skip


def number(text: str) -> int:
    """
    :param text: a whole number from 1; 1e6 is one
    :raises argparse.ArgumentTypeError: when it is none
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if value < 1 or not value.is_integer():
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(value)


def parameters(texts: list[str]) -> dict[str, Any]:
    """
    Read settings as RL Zoo's command line does, but what is no plain value stays text, which its files have too.

    :param texts: key:value
    :raises ValueError: when there is no colon
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, colon, value = text.partition(":")
        if not colon or not key:
            raise ValueError(f"--params takes key:value, got {text!r}")
        try:
            found[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[key] = value
        try:
            # As it will be read back from the file.
            found[key] = json.loads(json.dumps(found[key]))
        except TypeError as error:
            raise ValueError(f"--params {text!r} can not be stored: {error}") from error
    return found


def tasks(suite: str, environments: list[str] | None, timesteps: int | None) -> list[Task]:
    """
    :param suite: its name
    :param environments: only these; None for all
    :param timesteps: instead of the suite's
    :raises ValueError: for an environment that gymnasium does not know, or without a number of timesteps
    """
    budgets = dict(SUITES[suite])
    chosen = []
    for environment in dict.fromkeys(environments or budgets):
        # Quick's environments are in the others with more steps, but a name must not mean two budgets by chance.
        steps = timesteps or budgets.get(environment)
        if steps is None:
            names = ", ".join(f"{name} {short(steps)}" for name, steps in budgets.items())
            raise ValueError(
                f"{environment} is not in the suite {suite} ({names}): give another --suite or --timesteps"
            )
        try:
            gym.spec(environment)
        except gym.error.Error as error:
            raise ValueError(f"--envs {environment}: {error}") from error
        chosen.append(Task(environment, steps))
    return chosen


def plan(options: argparse.Namespace) -> list[Run]:
    """
    The runs that were asked for; the seeds outermost, so that an early end leaves a comparison.

    :param options: of the command line
    :raises ValueError: when they contradict each other
    """
    params = parameters(options.params)
    if options.label and len(options.algos) > 1:
        raise ValueError(f"--label names one algorithm's settings, got --algos {' '.join(options.algos)}")
    if options.label in ALGOS and options.label != options.algos[0]:
        raise ValueError(f"--label {options.label} is the name of another algorithm")
    if (params or options.defaults) and (not options.label or options.label in ALGOS):
        option = "--params" if params else "--defaults"
        raise ValueError(f"{option} needs a --label of its own, or these runs could not be told from those without")
    if options.label and not re.fullmatch(r"[\w+=-][\w.+=-]*", options.label):
        raise ValueError(
            f"--label is the name of a folder: letters, digits and -_+=, points not in front, got {options.label!r}"
        )
    return [
        Run(algo, task.environment, task.timesteps, seed, options.label or algo, params, options.defaults)
        for seed in dict.fromkeys(options.seeds)
        for task in tasks(options.suite, options.envs, options.timesteps)
        for algo in dict.fromkeys(options.algos)
    ]


def execute(runs: list[Run], out: Path, jobs: int) -> dict[str, str]:
    """
    :func:`train_all` for a command line.

    :param runs: to train
    :param out: folder for the results
    :param jobs: processes at a time
    :return: failed runs → why
    :raises SystemExit: when interrupted, or something is missing
    """
    if find_spec("rl_zoo3") is None:
        sys.exit("The learning benchmark needs rl_zoo3, which is missing: pip install '.[zoo,bench]' in a checkout")
    try:
        return train_all(runs, out, jobs)
    except KeyboardInterrupt:
        done = sum(run.path(out).is_file() for run in runs)
        print(f"Interrupted: {done} of {len(runs)} runs are finished and kept. The same command goes on from here.")
        sys.exit(128 + signal.SIGINT)


def run(options: argparse.Namespace, arguments: list[str]) -> None:
    """
    :param options: of the command line
    :param arguments: that they were read from
    :raises SystemExit: when a run failed
    """
    try:
        failed = execute(plan(options), options.out, options.jobs)
    except ValueError as error:
        sys.exit(str(error))
    if failed:
        names = "\n  ".join(failed)
        sys.exit(f"{len(failed)} run{'s' * (len(failed) > 1)} failed (tried again by the same command):\n  {names}")
    print(f"All is in {options.out}. Next: python -m sb3_trpo_ext.bench report --results {options.out}")
