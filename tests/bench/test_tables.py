"""Tables of a report: what is a row and what a column."""

import pytest

from sb3_trpo_ext.bench.__main__ import main
from sb3_trpo_ext.bench.comparison import Comparison
from sb3_trpo_ext.bench.store import read_all
from sb3_trpo_ext.bench.tables import by_task, overall_cell, tables


def test_more_labels_than_fit_side_by_side_are_rows(tmp_path, stored, row):
    for n in range(8):
        stored(tmp_path, f"v{n}", "CartPole-v1", 20_000, [300.0 + n], algo="trpo_ext", params={"gamma": 0.9 + n / 100})
    main(["report", "--results", str(tmp_path), "--out", str(tmp_path)])
    assert "| task | v0 | v1 |" in (tmp_path / "learning.md").read_text()
    stored(tmp_path, "trpo_ext", "CartPole-v1", 20_000, [300.0, 310.0])
    main(["report", "--results", str(tmp_path), "--out", str(tmp_path)])
    text = (tmp_path / "learning.md").read_text()
    assert row(text, "Return at the end", "v7") == ["307.0"]
    assert "| task | CartPole-v1 20k | **all** |\n| --- | ---: | ---: |\n| trpo_ext (ours) | 305.0 [" in text


@pytest.mark.parametrize(("baseline", "variants"), [("trpo", 0), ("wide", 1), ("absent", 0)])
def test_variants_have_a_table_only_with_a_baseline_of_their_own(results, baseline, variants):
    titles = [table.title for table in tables(Comparison.of(read_all([results]), baseline))]
    assert [title.startswith("Variants of") for title in titles].count(True) == variants
    assert [title.startswith("Probability of improvement") for title in titles].count(True) == (baseline != "absent")


def test_tasks_are_rows_and_labels_columns(results):
    comparison = Comparison.of(read_all([results]))
    text = by_task(comparison, lambda label, task: f"{label} {task.timesteps}", last={"trpo": "x"}, labels=["trpo"])
    assert text.splitlines()[2:] == [
        "| CartPole-v1 20k | trpo 20000 |",
        "| Pendulum-v1 40k | trpo 40000 |",
        "| **all** | x |",
    ]


def test_over_all_tasks_there_is_no_interval_where_one_has_a_single_seed():
    several = [[0.1, 0.5, 0.9], [0.3, 0.7, 0.8]]
    assert "[" in overall_cell(several)
    assert "[" not in overall_cell([*several, [0.5]])
