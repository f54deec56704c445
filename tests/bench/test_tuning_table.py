"""The table of the runs on which settings were searched for."""

import csv
import gzip
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def rows():
    with gzip.open(BENCHMARKS / "tuning.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_row_has_a_run(rows):
    assert rows
    for row in rows:
        assert int(row["timesteps"]) > 0 and row["label"]
        assert isinstance(float(row["return"]), float) and isinstance(float(row["evaluation"]), float)
        assert isinstance(json.loads(row["settings"]), dict)
    names = {(row["environment"], row["timesteps"], row["label"], row["seed"]) for row in rows}
    assert len(names) == len(rows)
