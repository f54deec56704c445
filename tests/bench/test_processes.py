"""One process for each run: what it leaves, and how it is ended. A stand-in takes the place of training."""

import signal
import subprocess
import sys
import time

import pytest

from sb3_trpo_ext.bench import processes
from sb3_trpo_ext.bench.processes import Running, conclude, start, stop


def test_a_run_tells_how_far_it_is(tmp_path, runs):
    progress = tmp_path / "run.progress"
    running = Running(runs(0)[0], None, tmp_path / "run.log", progress, 0.0)
    assert running.state() == (0.0, None)
    progress.write_text('{"steps": 5, "return": 7.5}')
    assert running.state() == (0.5, 7.5)


@pytest.mark.parametrize(
    ("seed", "why", "left"),
    [(0, None, ["json"]), (1, "exit status 1; all of its output is in ", ["log"]), (3, "killed by SIGKILL", ["log"])],
)
def test_the_log_is_kept_of_a_run_that_failed(tmp_path, stand_in, runs, seed, why, left):
    running = start(runs(seed)[0], tmp_path)
    running.process.wait()
    report = conclude(running, tmp_path)
    assert report is None if why is None else report.startswith(why)
    assert [path.name for path in (tmp_path / "trpo_ext").iterdir()] == [f"CartPole-v1_10_{seed}.{end}" for end in left]


def test_a_process_that_does_not_end_is_killed(tmp_path, runs, monkeypatch):
    monkeypatch.setattr(processes, "PATIENCE", 0.2)
    log, progress = tmp_path / "run.log", tmp_path / "run.progress"
    code = (
        "import pathlib, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(progress)])
    while not progress.exists():
        time.sleep(0.05)
    log.touch()
    unfinished = tmp_path / f"run.json.{process.pid}.tmp"
    unfinished.touch()
    stop([Running(runs(0)[0], process, log, progress, 0.0)])
    assert process.returncode == -signal.SIGKILL
    assert not any(path.exists() for path in (log, progress, unfinished))
