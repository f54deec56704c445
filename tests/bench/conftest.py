"""Runs that never took place: their results for reports and verdicts, and a stand-in for training."""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sb3_trpo_ext.bench import jobs
from sb3_trpo_ext.bench.results import Run, write

DOCUMENT = {
    "commit": "0123456789ab",
    "versions": {"python": "3.11", "torch": "2.8"},
    "machine": {"cpu": "a processor", "cores": 2, "system": "Linux"},
}
# Stands in for training: seed 1 fails, seed 2 takes too long, seed 3 is killed; the others write a result.
STAND_IN = """
import json, os, signal, sys, time
run, path, progress = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
open(progress, "w").write('{"steps": 1, "return": null}')
print("seed", run["seed"], flush=True)
if run["seed"] == 1:
    raise RuntimeError("no luck")
if run["seed"] == 2:
    time.sleep(60)
if run["seed"] == 3:
    os.kill(os.getpid(), signal.SIGKILL)
curve = {"steps": [5, 10], "returns": [1.0, 2.0], "seconds": [0.5, 1.0]}
json.dump({"run": run, "curve": curve, "evaluation": [3.0]}, open(path, "w"))
"""


def store(out: Path, label: str, environment: str, timesteps: int, finals: list[float], **fields) -> list[Run]:
    """
    Write a run for each seed.

    :param out: folder
    :param finals: returns at the end, one for each seed from 0
    :param fields: of the run
    """
    runs = [
        Run(fields.get("algo", label), environment, timesteps, seed, label, fields.get("params", {}))
        for seed in range(len(finals))
    ]
    for run, final in zip(runs, finals, strict=True):
        steps = [timesteps // 2, timesteps]
        curve = {"steps": steps, "returns": [final / 2, final], "seconds": [30.0, 60.0]}
        run_fields = dataclasses.asdict(run)
        write(run.path(out), {"run": run_fields, "curve": curve, "evaluation": [final, final + 2], **DOCUMENT})
    return runs


@pytest.fixture
def stored():
    return store


@pytest.fixture
def contents():
    """A JSON file."""
    return lambda path: json.loads(Path(path).read_text())


@pytest.fixture
def results(tmp_path, stored):
    """Folder of three labels, two of which lack a task."""
    folder = tmp_path / "results"
    stored(folder, "trpo_ext", "CartPole-v1", 20_000, [300.0, 310.0, 320.0, 900.0])
    stored(folder, "trpo", "CartPole-v1", 20_000, [100.0, 305.0])
    stored(folder, "trpo_ext", "Pendulum-v1", 40_000, [-150.0, -1238.9])
    stored(folder, "wide", "CartPole-v1", 20_000, [400.0], algo="trpo_ext", params={"target_kl": 0.05})
    return folder


@pytest.fixture
def measured_otherwise(contents):
    """Leave of a result what another script might have written."""

    def strip(path):
        document = contents(path)
        curve = {**document["curve"], "seconds": None}
        bare = {"run": document["run"], "curve": curve, "evaluation": [], "origin": "another script"}
        path.write_text(json.dumps(bare))

    return strip


@pytest.fixture
def row():
    """Cells of the row of a task in the table under a title."""

    def cells(text, title, task):
        section = text.split(f"## {title}")[1].split("\n## ")[0]
        line = next(line for line in section.splitlines() if line.startswith(f"| {task}"))
        return [cell.strip() for cell in line.strip("|").split("|")][1:]

    return cells


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Start the stand-in instead of training; returns the seeds that were started."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    seeds = []
    popen = subprocess.Popen

    def start(command, **options):
        if "sb3_trpo_ext.bench.run" not in command:
            return popen(command, **options)
        seeds.append(json.loads(command[3])["seed"])
        return popen([sys.executable, str(script), *command[3:]], **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(jobs, "POLL", 0.05)
    return seeds


@pytest.fixture
def signals_of_a_terminal():
    """Ctrl-C and ``kill`` work, also where the tests are a background job of a script, which ignores Ctrl-C."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def runs():
    """Runs of some seeds."""

    def of(*seeds, **fields):
        settings = {"algo": "trpo_ext", "environment": "CartPole-v1", "timesteps": 10, "label": "trpo_ext", **fields}
        return [Run(seed=seed, **settings) for seed in seeds]

    return of
