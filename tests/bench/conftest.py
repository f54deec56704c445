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
