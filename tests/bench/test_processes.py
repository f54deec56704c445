"""One process for each run: what it leaves, and how it is ended. A stand-in takes the place of training."""

import json
import signal
import subprocess
import sys
import time

import pytest

from sb3_trpo_ext.bench import processes
from sb3_trpo_ext.bench.processes import Running, conclude, start, stop, take_in, workplace
from sb3_trpo_ext.bench.results import Result
from sb3_trpo_ext.bench.store import append, read_all


def test_a_run_tells_how_far_it_is(tmp_path, runs):
    progress = tmp_path / "run.progress"
    running = Running(runs(0)[0], None, tmp_path / "run.log", progress, 0.0)
    assert running.state() == (0.0, None)
    progress.write_text('{"steps": 5, "return": 7.5}')
    assert running.state() == (0.5, 7.5)


@pytest.mark.parametrize(
    ("seed", "why"),
    [(1, "exit status 1; all of its output is in "), (3, "killed by SIGKILL; all of its output is in ")],
)
def test_the_log_is_kept_of_a_run_that_failed(tmp_path, stand_in, runs, seed, why):
    out = tmp_path / "runs.jsonl"
    running = start(runs(seed)[0], out)
    running.process.wait()
    log = tmp_path / f"runs.jsonl.running/trpo_ext/CartPole-v1_10_{seed}.log"
    assert conclude(running, out).startswith(f"{why}{log}\n")
    assert list(log.parent.iterdir()) == [log] and not out.exists()


def test_of_a_finished_run_nothing_is_left_but_its_line(tmp_path, stand_in, runs):
    out = tmp_path / "runs.jsonl"
    running = start(runs(0)[0], out)
    running.process.wait()
    result = conclude(running, out)
    assert isinstance(result, Result) and [result] == read_all([out])
    assert list(tmp_path.glob("runs*")) == [out]


def test_a_run_that_outlived_who_started_it_is_taken_in_once(tmp_path, stored, contents, runs):
    out = tmp_path / "runs.jsonl"
    alone, twice, _ = runs(0, 1, 2, timesteps=1000)
    stored(workplace(out), "trpo_ext", "CartPole-v1", 1000, [8.0, 9.0])
    append(out, contents(twice.path(workplace(out))))
    take_in(runs(0, 1, 2, timesteps=1000), out)
    assert [one.run.seed for one in read_all([out])] == [0, 1]
    assert [json.loads(line)["run"]["seed"] for line in out.read_text().splitlines()] == [1, 0]
    assert list(tmp_path.iterdir()) == [out] and alone.seed == 0


def test_a_process_that_does_not_end_is_killed(tmp_path, runs, monkeypatch):
    monkeypatch.setattr(processes, "PATIENCE", 0.2)
    folder = tmp_path / "runs.jsonl.running/trpo_ext"
    folder.mkdir(parents=True)
    log, progress = folder / "run.log", folder / "run.progress"
    code = (
        "import pathlib, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(progress)])
    while not progress.exists():
        time.sleep(0.05)
    log.touch()
    unfinished = folder / f"run.json.{process.pid}.tmp"
    unfinished.touch()
    stop([Running(runs(0)[0], process, log, progress, 0.0)])
    assert process.returncode == -signal.SIGKILL
    assert not any(tmp_path.iterdir())
