"""Results of runs that never took place, for tests of statistics, reports and verdicts."""

import dataclasses
import json
from pathlib import Path

import pytest

from sb3_trpo_ext.bench.results import Run, write

DOCUMENT = {
    "commit": "0123456789ab",
    "versions": {"python": "3.11", "torch": "2.8"},
    "machine": {"cpu": "a processor", "cores": 2, "system": "Linux"},
}


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
