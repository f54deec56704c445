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

from sb3_trpo_ext.bench.results import Result, Run, read
from sb3_trpo_ext.bench.store import append, finished, key

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


def workplace(out: Path) -> Path:
    """
    The folder for what is of use until a run is finished.

    :param out: file of the results
    """
    return out.with_name(f"{out.name}.running")


def start(run: Run, out: Path) -> Running:
    """
    :param run: to train
    :param out: file for its result
    """
    path = run.path(workplace(out))
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


def conclude(ended: Running, out: Path) -> Result | str:
    """
    Store a run whose process has ended, and tidy up. The log of a failed run is kept.

    :param ended: whose process has ended
    :param out: file for the results
    :return: the result, or why it failed
    """
    path = ended.run.path(workplace(out))
    code = ended.process.returncode
    if code == 0 and path.is_file():
        return store(path, out)
    ended.progress.unlink(missing_ok=True)
    last = ended.log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-TRACEBACK_LINES:]
    why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    return "\n".join([f"{why}; all of its output is in {ended.log}", *last])


def store(path: Path, out: Path) -> Result:
    """
    Move a result from its own file to that of all.

    :param path: of the result
    :param out: file for the results
    """
    result = read(path)
    if key(result.run) not in finished(out):
        append(out, result.document)
    for suffix in (".log", ".progress", path.suffix):
        path.with_suffix(suffix).unlink(missing_ok=True)
    remove_empty(path.parent)
    return result


def take_in(runs: Iterable[Run], out: Path) -> None:
    """
    Store what was finished by processes that outlived the one that started them.

    :param runs: of which there may be such
    :param out: file for the results
    """
    for path in (run.path(workplace(out)) for run in runs):
        if path.is_file():
            store(path, out)


def remove_empty(folder: Path) -> None:
    """
    :param folder: of a label in the workplace; removed if nothing is left in it, and the workplace likewise
    """
    for one in (folder, folder.parent):
        if one.is_dir() and not any(one.iterdir()):
            one.rmdir()


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
        remove_empty(one.log.parent)
