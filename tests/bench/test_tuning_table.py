"""The table of the runs on which settings were searched for, and the page that quotes it."""

import csv
import gzip
import json
import statistics
from pathlib import Path

import pytest

from sb3_trpo_ext.bench.formatting import figure
from sb3_trpo_ext.bench.store import read_all

CHECKOUT = Path(__file__).parents[2]
#: Reported seeds on which something was tried that was not adopted, as docs/tuning.md says.
SHARED = {
    "Hopper-v4": {0, 1, 21, 22, 23, 24},
    "HalfCheetah-v4": {0, 1},
    "Swimmer-v4": {52},
}
COLUMNS = ["label", "seeds", "return", "without noise"]


@pytest.fixture(scope="module")
def rows():
    with gzip.open(CHECKOUT / "benchmarks/tuning.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_row_has_a_run(rows):
    assert rows
    for row in rows:
        assert int(row["timesteps"]) > 0 and row["label"]
        assert isinstance(float(row["return"]), float) and isinstance(float(row["evaluation"]), float)
        assert isinstance(json.loads(row["settings"]), dict)
    names = {(row["environment"], row["timesteps"], row["label"], row["seed"]) for row in rows}
    assert len(names) == len(rows)


def test_which_reported_seeds_the_search_had_is_said(rows):
    results = read_all(CHECKOUT / f"benchmarks/{name}.jsonl" for name in ("mujoco", "mujoco-v5", "classic", "defaults"))
    reported = {(one.run.environment, one.run.seed) for one in results if one.run.algo == "trpo_ext"}
    # Of that label are runs of what shipped, which were reported then.
    searched = {(one["environment"], int(one["seed"])) for one in rows if one["label"] != "trpo_ext"}
    assert reported & searched == {(name, seed) for name, seeds in SHARED.items() for seed in seeds}
    text = "Hopper-v4 0, 1 and 21 to 24, HalfCheetah-v4 0 and 1 "
    assert text in (CHECKOUT / "docs/tuning.md").read_text(encoding="utf-8").replace("\n ", "")


def quoted():
    """(environment, label, seeds, return, return without noise) of each row of the page's tables."""
    environment = None
    for line in (CHECKOUT / "docs/tuning.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip(" *") for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if cells[1:] == COLUMNS:
            environment = cells[0]
        elif len(cells) == 1 + len(COLUMNS) and not set(cells[0]) <= set("-:"):
            yield environment, *cells[1:]


def test_the_page_says_what_the_table_says(rows):
    page = (CHECKOUT / "docs/tuning.md").read_text(encoding="utf-8")
    assert f"the {len(rows):,} runs".replace(",", " ") in page
    lines = list(quoted())
    assert len(lines) > 20
    for environment, label, seeds, *figures in lines:
        runs = [one for one in rows if (one["environment"], one["label"]) == (environment, label.strip("`"))]
        assert seeds == ", ".join(one["seed"] for one in runs), label
        means = [figure(statistics.fmean(float(one[name]) for one in runs)) for name in ("return", "evaluation")]
        assert figures == means, (environment, label)
