"""One process for each run: its start, its end, and what is left of it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from sb3_trpo_ext.bench.results import Run

PATIENCE = 10.0  # seconds that an interrupted run has to end by itself
TRACEBACK_LINES = 25
# One core for each run, no windows, no downloads; UTF-8, or RL Zoo would read settings in the encoding of the locale.
ENVIRONMENT = {
    "PYTHONUTF8": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
    "SDL_VIDEODRIVER": "dummy",
    "HF_HUB_OFFLINE": "1",
}


@dataclass(frozen=True)
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
            document = json.loads(self.progress.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0.0, None
        return document["steps"] / self.run.timesteps, document["return"]


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
        json.dumps(asdict(run)),
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
    last = ended.log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-TRACEBACK_LINES:]
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
