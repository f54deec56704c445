"""The report of given results: what its tables say, its plots, its commands."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sb3_trpo_ext.bench.__main__ import main
from sb3_trpo_ext.bench.comparison import Comparison, improvements
from sb3_trpo_ext.bench.conditions import conditions
from sb3_trpo_ext.bench.store import read_all
from sb3_trpo_ext.bench.tables import gained_per_minute, tables

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STORED = [BENCHMARKS / f"{name}.jsonl" for name in ("quick", "classic", "mujoco", "ablation", "defaults")]
README = BENCHMARKS.parent / "README.md"
#: Folder under docs → the options that its report is made with.
REPORTS = {
    words[1]: words[2:]
    for line in (BENCHMARKS / "reports.sh").read_text().splitlines()
    if (words := line.split())[:1] == ["report"]
}


def test_report(tmp_path, results, capsys, row):
    main(["report", "--results", str(results), "--out", str(tmp_path / "out")])
    text = (tmp_path / "out/learning.md").read_text()
    assert text in capsys.readouterr().out
    assert "trpo_ext (ours) | sb3-contrib trpo | wide" in text
    assert row(text, "Return at the end", "CartPole-v1 20k") == ["457.5 ± 295.1", "202.5 ± 145.0", "400.0"]
    assert row(text, "Return at the end", "Pendulum-v1 40k")[1:] == ["–", "–"]
    assert row(text, "Interquartile mean", "CartPole-v1 20k")[0].startswith("315.0 [")
    assert row(text, "Deterministic policy", "CartPole-v1 20k")[2] == "401.0"
    # Two of four beat 305 and all beat 100; 310 and above beat both: (1 + 2 + 2 + 2) / 8.
    assert row(text, "Probability of improvement", "CartPole-v1 20k")[0].startswith("0.88 [")
    assert row(text, "Return per minute", "CartPole-v1 20k")[2] == "375.5 (1.00 min)"
    # The curves are read after half a minute, at half of the end's return, and after a minute.
    assert row(text, "Minutes to a score", "CartPole-v1 20k") == ["– (1 of 4)", "– (0 of 2)", "– (0 of 1)"]
    assert "| Pendulum-v1" not in text.split("## Minutes to a score")[1].split("##")[0]
    assert "- trpo: seeds 0 1; no runs of Pendulum-v1 40k." in text
    assert "- trpo_ext: seeds 0 1 2 3 (CartPole-v1 20k); 0 1 (Pendulum-v1 40k)." in text
    assert (
        "python -m sb3_trpo_ext.bench learn --algos trpo_ext --envs Pendulum-v1 --timesteps 40000 --seeds 0 1" in text
    )
    start = "python -m sb3_trpo_ext.bench learn --algos"
    assert (
        "# CartPole-v1 20k\n"
        f"{start} trpo_ext --envs CartPole-v1 --timesteps 20000 --seeds 0 1 2 3 && \\\n"
        f"  {start} trpo --envs CartPole-v1 --timesteps 20000 --seeds 0 1 && \\\n"
        f"  {start} trpo_ext --envs CartPole-v1 --timesteps 20000 --seeds 0 --params target_kl:0.05 --label wide\n"
    ) in text
    for name in ("curves.png", "time.png", "profile.png", "improvement.png"):
        assert f"]({name})" in text
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")


def test_minutes_to_a_score(tmp_path, stored, measured_otherwise, row):
    """Between the two in the middle the later one counts, and what was not timed does not."""
    runs = stored(tmp_path / "r", "trpo", "CartPole-v1", 20_000, [960.0, 480.0, 480.0, 400.0, 960.0])
    measured_otherwise(runs[4].path(tmp_path / "r"))
    assert [run.minutes_to(475.0) for run in read_all([tmp_path / "r"])][:4] == [0.5, 1.0, 1.0, math.inf]
    main(["report", "--results", str(tmp_path / "r"), "--out", str(tmp_path / "out")])
    text = (tmp_path / "out/learning.md").read_text()
    assert row(text, "Minutes to a score", "CartPole-v1 20k") == ["1.00 (3 of 4)"]


@pytest.mark.parametrize("encoding", [None, "ascii", "latin-1"])
def test_a_locale_without_our_signs(tmp_path, results, stored, row, encoding):
    """The file is the same, and what is printed has another sign in their place."""
    stored(results, "größe", "CartPole-v1", 20_000, [400.0, 410.0], algo="trpo_ext", params={"note": "größer"})
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONIOENCODING", "LANG")}
    clean |= {"LC_ALL": "C", "PYTHONUTF8": "0"} | ({"PYTHONIOENCODING": encoding} if encoding else {})
    command = ["report", "--results", str(results), "--out"]
    result = subprocess.run(
        [sys.executable, "-m", "sb3_trpo_ext.bench", *command, str(tmp_path / "c")], env=clean, capture_output=True
    )
    assert result.returncode == 0, result.stderr
    main([*command, str(tmp_path / "here")])
    text = (tmp_path / "here/learning.md").read_text(encoding="utf-8")
    assert (tmp_path / "c/learning.md").read_text(encoding="utf-8") == text
    assert "größe" in text and "±" in text
    assert result.stdout.startswith(text.encode(encoding or "ascii", "replace"))


def test_what_is_not_known_is_left_out(tmp_path, stored, contents, measured_otherwise, row):
    out = tmp_path / "out"
    runs = stored(tmp_path / "r", "trpo", "CartPole-v1", 20_000, [300.0, 400.0])
    path = runs[0].path(tmp_path / "r")
    path.write_text(json.dumps({**contents(path), "all_settings": {"gamma": 0.9}, "zoo_settings": {"gamma": 0.9}}))
    measured_otherwise(runs[1].path(tmp_path / "r"))
    main(["report", "--results", str(tmp_path / "r"), "--out", str(out)])
    text = (out / "learning.md").read_text()
    assert row(text, "Return at the end", "CartPole-v1 20k") == ["350.0 ± 70.7"]
    assert row(text, "Deterministic policy", "CartPole-v1 20k") == ["301.0"]
    assert row(text, "Return per minute", "CartPole-v1 20k") == ["275.5 (1.00 min)"]
    assert "- trpo: 1 of 2 runs measured otherwise: another script." in text and "torch 2.8" in text
    assert "same settings" not in text
    assert (out / "time.png").exists()


def test_a_report_without_times_versions_and_evaluations(tmp_path, stored, measured_otherwise, row):
    out = tmp_path / "out"
    for run in stored(tmp_path / "r", "trpo", "CartPole-v1", 20_000, [300.0, 400.0]):
        measured_otherwise(run.path(tmp_path / "r"))
    main(["report", "--results", str(tmp_path / "r"), "--out", str(out)])
    text = (out / "learning.md").read_text()
    for title in ("Deterministic policy", "Return per minute"):
        assert row(text, title, "CartPole-v1 20k") == ["–"]
    assert "Commits: unknown." in text and "Versions: unknown." in text and "Machine: unknown." in text
    assert (out / "curves.png").exists() and not (out / "time.png").exists() and "time.png" not in text


@pytest.mark.parametrize("folder", STORED, ids=lambda folder: folder.name)
def test_stored_results_can_be_reported(folder):
    comparison = Comparison.of(read_all([folder]))
    assert comparison.shared() and len(tables(comparison)) >= 4
    assert "same settings" not in conditions(comparison)


@pytest.mark.parametrize("name", REPORTS)
def test_docs_are_what_the_report_says(name, tmp_path, monkeypatch):
    monkeypatch.chdir(BENCHMARKS.parent)
    main(["report", *REPORTS[name], "--out", str(tmp_path)])
    assert (tmp_path / "learning.md").read_text() == Path(f"docs/{name}/learning.md").read_text()
    assert f"`bench report {' '.join(REPORTS[name])}`" in Path("docs/results.md").read_text()


def test_the_readme_has_the_figures_of_the_report(row):
    """With the noise of training and, in brackets, without; the column without settings comes first."""
    text = Path(BENCHMARKS.parent, "docs/learning/learning.md").read_text()
    readme = {line.split(" | ")[0]: line.strip("| ").split(" | ")[1:] for line in README.read_text().splitlines()}

    def without_settings_first(cells):
        return [cells[1], cells[0], *cells[2:]]

    def both(noisy, bare, task, cut):
        cells = zip(row(text, noisy, task), row(text, bare, task), strict=True)
        return without_settings_first([f"{one} ({other.split(cut)[0]})" for one, other in cells])

    for task in (f"{name}-v4 1M" for name in ("HalfCheetah", "Ant", "Hopper", "Walker2d", "Humanoid", "Swimmer")):
        assert readme[f"| {task}"] == both("Return at the end of training", "Deterministic policy", task, " ±")
    for task, score in (("HalfCheetah-v4", "3 000"), ("Hopper-v4", "2 500"), ("Walker2d-v4", "3 000")):
        assert readme[f"| {task}: {score}"] == without_settings_first(row(text, "Minutes to a score", task))
    titles = ("Interquartile mean", "Deterministic policy: interquartile mean")
    assert readme["| **all**, interquartile mean of scaled returns"] == both(*titles, "**all**", " [")
    titles = ("Probability of improvement over sb3-contrib", "Deterministic policy: probability of improvement")
    *ours, ppo = both(*titles, "**all**", " [")
    assert readme["| probability that a run is better than one of sb3-contrib's"] == [*ours, "", ppo]


def test_selection(tmp_path, results):
    out = tmp_path / "out"
    main(["report", "--results", str(results), "--out", str(out), "--labels", "trpo_ext", "--envs", "Pendulum-v1"])
    text = (out / "learning.md").read_text()
    assert "CartPole" not in text and "Probability" not in text and not (out / "improvement.png").exists()
    with pytest.raises(SystemExit, match="There are: trpo CartPole-v1 20k, "):
        main(["report", "--results", str(results), "--labels", "trpo_ext", "--suite", "box2d"])


@pytest.mark.parametrize(
    "arguments",
    [
        ("--labels", "trpo", "wid"),
        ("--envs", "wid"),
        ("--baseline", "wid"),
        ("--baseline", "wide", "--labels", "trpo", "trpo_ext"),
    ],
)
def test_misspelt_names(tmp_path, results, arguments):
    with pytest.raises(SystemExit, match=f"{arguments[0]} wide?: there are only runs of .*, "):
        main(["report", "--results", str(results), "--out", str(tmp_path), *arguments])


def test_an_environment_without_a_scale_is_reported_but_not_averaged(tmp_path, stored):
    stored(tmp_path / "r", "trpo_ext", "Pusher-v5", 10_000, [-5.0, -6.0])
    comparison = Comparison.of(read_all([tmp_path / "r"]))
    assert comparison.shared() == () and improvements(comparison) == {}
    assert math.isnan(gained_per_minute(comparison.results))
    main(["report", "--results", str(tmp_path / "r"), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out/profile.png").exists()


def test_nothing_to_report(tmp_path):
    with pytest.raises(SystemExit, match="no finished runs"):
        main(["report", "--results", str(tmp_path)])
