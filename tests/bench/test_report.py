"""The report of given results: what its tables say, its plots, its commands."""

import json
import math
from pathlib import Path

import pytest

from sb3_trpo_ext.bench import plots
from sb3_trpo_ext.bench.__main__ import main
from sb3_trpo_ext.bench.plots import colours, line_styles
from sb3_trpo_ext.bench.report import (
    Comparison,
    bracketed,
    conditions,
    draw,
    figure,
    gained_per_minute,
    improvements,
    settings,
    tables,
)
from sb3_trpo_ext.bench.results import Run, read_all
from sb3_trpo_ext.bench.statistics import Estimate

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STORED = [BENCHMARKS / name for name in ("quick", "classic", "mujoco", "ablation", "defaults")]
README = BENCHMARKS.parent / "README.md"
#: Folder under docs → the options that its report is made with; compared with sb3-contrib's shipped settings.
REPORTS = {
    "learning": ("--results", "benchmarks/mujoco", "--labels", "trpo_ext", "trpo", "ppo", "--suite", "mujoco"),
    "small-tasks": ("--results", "benchmarks/classic"),
}
OTHER_REPORTS = {
    "learning-v5": ("--results", "benchmarks/mujoco-v5", "--labels", "trpo_ext", "--suite", "mujoco-v5"),
    "ablation": ("--results", "benchmarks/ablation", "--baseline", "shipped"),
    "defaults": ("--results", "benchmarks/defaults", "--baseline", "contrib-defaults"),
}


@pytest.fixture
def results(tmp_path, stored):
    folder = tmp_path / "results"
    stored(folder, "trpo_ext", "CartPole-v1", 20_000, [300.0, 310.0, 320.0, 900.0])
    stored(folder, "trpo", "CartPole-v1", 20_000, [100.0, 305.0])
    stored(folder, "trpo_ext", "Pendulum-v1", 40_000, [-150.0, -1238.9])
    stored(folder, "wide", "CartPole-v1", 20_000, [400.0], algo="trpo_ext", params={"target_kl": 0.05})
    return folder


def row(text, title, task):
    """Cells of the row of a task in the table under a title."""
    section = text.split(f"## {title}")[1].split("\n## ")[0]
    line = next(line for line in section.splitlines() if line.startswith(f"| {task}"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_report(tmp_path, results, capsys):
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


def test_more_labels_than_fit_side_by_side_are_rows(tmp_path, stored):
    for n in range(8):
        stored(tmp_path, f"v{n}", "CartPole-v1", 20_000, [300.0 + n], algo="trpo_ext", params={"gamma": 0.9 + n / 100})
    main(["report", "--results", str(tmp_path), "--out", str(tmp_path)])
    assert "| task | v0 | v1 |" in (tmp_path / "learning.md").read_text()
    stored(tmp_path, "trpo_ext", "CartPole-v1", 20_000, [300.0, 310.0])
    main(["report", "--results", str(tmp_path), "--out", str(tmp_path)])
    text = (tmp_path / "learning.md").read_text()
    assert row(text, "Return at the end", "v7") == ["307.0"]
    assert "| task | CartPole-v1 20k | **all** |\n| --- | ---: | ---: |\n| trpo_ext (ours) | 305.0 [" in text


def test_one_command_trains_all_that_have_the_same_seeds(tmp_path, stored):
    for label in ("trpo", "trpo_ext"):
        stored(tmp_path, label, "CartPole-v1", 20_000, [300.0, 310.0])
    stored(tmp_path, "wide", "CartPole-v1", 20_000, [300.0, 310.0], algo="trpo_ext", params={"target_kl": 0.05})
    main(["report", "--results", str(tmp_path), "--out", str(tmp_path)])
    start = "python -m sb3_trpo_ext.bench learn --algos"
    assert (
        f"{start} trpo_ext trpo --envs CartPole-v1 --timesteps 20000 --seeds 0 1 && \\\n"
        f"  {start} trpo_ext --envs CartPole-v1 --timesteps 20000 --seeds 0 1 --params target_kl:0.05 --label wide\n"
    ) in (tmp_path / "learning.md").read_text()


def test_variants_of_another_baseline(tmp_path, results):
    main(["report", "--results", str(results), "--out", str(tmp_path), "--baseline", "trpo_ext"])
    text = (tmp_path / "learning.md").read_text()
    title = "Variants of trpo_ext"
    assert (
        "| variant | settings | CartPole-v1 20k | Pendulum-v1 40k | all |\n| --- | --- | ---: | ---: | ---: |" in text
    )
    assert row(text, title, "trpo_ext") == ["as shipped", "457.5 ± 295.1", "−694.5 ± 770.0 (2)", "–"]
    # Scaled by 500 − 24.5; one seed tells no interval.
    assert row(text, title, "wide") == ["`target_kl:0.05`", "400.0 (1)", "–", "−0.12"]
    assert row(text, title, "sb3-contrib trpo")[3].startswith("−0.54 [")
    main(["report", "--results", str(results), "--out", str(tmp_path)])
    assert "Variants" not in (tmp_path / "learning.md").read_text()


def test_a_variant_is_compared_over_what_it_shares_with_the_baseline(tmp_path, stored, results):
    """Whatever tasks the other variants lack."""
    stored(results, "both", "CartPole-v1", 20_000, [500.0], algo="trpo_ext", params={"gamma": 0.9})
    stored(results, "both", "Pendulum-v1", 40_000, [-150.0], algo="trpo_ext", params={"gamma": 0.9})
    main(["report", "--results", str(results), "--out", str(tmp_path), "--baseline", "trpo_ext"])
    # (500 − 457.5) / (500 − 24.5) = 0.09 and half of Pendulum's scale.
    assert row((tmp_path / "learning.md").read_text(), "Variants of trpo_ext", "both")[-1] == "0.29"


def test_settings_of_a_variant():
    def run(environment, defaults=False, **params):
        return Run("trpo_ext", environment, 1000, 0, "mine", params, defaults)

    assert settings([run("Hopper-v4", n_steps=8, target_kl=0.06), run("Ant-v4", n_steps=8, target_kl=0.16)]) == (
        "`n_steps:8`, `target_kl:…`"
    )
    assert settings([run("Ant-v4", True)]) == "constructor's defaults"
    assert settings([run("Ant-v4")]) == "as shipped"


@pytest.mark.parametrize(
    ("arguments", "zoo", "noticed"),
    [
        ({"target_kl": 0.5}, {"target_kl": 0.5}, True),
        ({"target_kl": 0.1}, {"normalize": True}, True),
        ({"target_kl": 0.1}, {"target_kl": 0.1}, False),  # written down in one, the default in the other
        ({"target_kl": 0.1, "of a later version": 1}, {}, False),
        ({"target_kl": 0.1, "of a later version": 1}, {"of a later version": 1}, True),
        ({"target_kl": 0.1}, {"n_timesteps": 1e6}, False),  # the run's own number of steps is what counts
    ],
)
def test_seeds_of_different_settings_are_noticed(arguments, zoo, noticed, tmp_path, stored, contents):
    runs = stored(tmp_path, "trpo_ext", "CartPole-v1", 20_000, [1.0, 2.0])
    settings = ({"target_kl": 0.1, "seed": 0}, {}), ({**arguments, "seed": 1}, zoo)
    for run, (all_settings, zoo_settings) in zip(runs, settings, strict=True):
        path = run.path(tmp_path)
        path.write_text(json.dumps({**contents(path), "all_settings": all_settings, "zoo_settings": zoo_settings}))
    text = "trpo_ext: not all seeds were trained with the same settings: CartPole-v1 20k"
    assert (text in conditions(Comparison.of(read_all([tmp_path])))) == noticed


@pytest.fixture
def measured_otherwise(contents):
    """Leave of a result what another script might have written."""

    def strip(path):
        document = contents(path)
        curve = {**document["curve"], "seconds": None}
        bare = {"run": document["run"], "curve": curve, "evaluation": [], "origin": "another script"}
        path.write_text(json.dumps(bare))

    return strip


def test_what_is_not_known_is_left_out(tmp_path, stored, contents, measured_otherwise):
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


def test_a_report_without_times_versions_and_evaluations(tmp_path, stored, measured_otherwise):
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
def test_docs_and_readme_have_what_the_report_of_the_stored_results_says(name, tmp_path, monkeypatch):
    monkeypatch.chdir(BENCHMARKS.parent)
    main(["report", *REPORTS[name], "--out", str(tmp_path)])
    text = (tmp_path / "learning.md").read_text()
    assert text == Path("docs", name, "learning.md").read_text()
    readme = README.read_text()
    assert f"bench report {' '.join(REPORTS[name])}" in readme
    figures = figures_of(readme)
    for task in map(str, Comparison.of(read_all([Path(REPORTS[name][1])])).tasks):
        returns, probability = row(text, "Return at the end", task), row(text, "Probability of improvement", task)[0]
        assert figures[f"| {task}"] == [*returns, probability]
    probability = row(text, "Probability of improvement", "**all**")[0]
    assert f"| {' | '.join([*row(text, 'Interquartile mean', '**all**'), probability])} |\n" in readme


def figures_of(readme):
    """First cell of a table's row → the others."""
    return {line.split(" | ")[0]: line.strip("| ").split(" | ")[1:] for line in readme.splitlines()}


@pytest.mark.parametrize("name", OTHER_REPORTS)
def test_docs_are_what_the_report_says(name, tmp_path, monkeypatch):
    monkeypatch.chdir(BENCHMARKS.parent)
    main(["report", *OTHER_REPORTS[name], "--out", str(tmp_path)])
    assert (tmp_path / "learning.md").read_text() == Path(f"docs/{name}/learning.md").read_text()
    readme = README.read_text()
    assert f"bench report {' '.join(OTHER_REPORTS[name])}" in readme


def test_the_readme_has_the_figures_of_v5():
    text = Path(BENCHMARKS.parent, "docs/learning-v5/learning.md").read_text()
    figures = figures_of(README.read_text())
    for task in (f"{name}-v5 1M" for name in ("HalfCheetah", "Ant", "Hopper", "Walker2d", "Humanoid", "Swimmer")):
        assert figures[f"| {task}"] == [row(text, title, task)[0] for title in ("Return at the end", "Deterministic")]


def test_only_shared_tasks_are_averaged(results):
    comparison = Comparison.of(read_all([results]))
    assert [str(task) for task in comparison.tasks] == ["CartPole-v1 20k", "Pendulum-v1 40k"]
    assert [str(task) for task in comparison.shared()] == ["CartPole-v1 20k"]
    assert comparison.scores("wide") == [[pytest.approx((400 - 24.5) / (500 - 24.5))]]


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


@pytest.mark.parametrize("command", ["report", "learn"])
def test_a_folder_that_cannot_be_made(tmp_path, results, command):
    (tmp_path / "file").touch()
    source = ["--results", str(results)] if command == "report" else ["--envs", "CartPole-v1"]
    with pytest.raises(SystemExit, match=r"(File exists|Not a directory): .*file"):
        main([command, *source, "--out", str(tmp_path / "file")])


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


def test_a_run_in_two_folders(tmp_path, stored):
    for name in "ab":
        stored(tmp_path / name, "trpo_ext", "CartPole-v1", 1000, [1.0])
    with pytest.raises(SystemExit, match=r"seed 0 is there twice: \S+a/trpo_ext\S+ and \S+b/trpo_ext"):
        main(["report", "--results", str(tmp_path / "a"), str(tmp_path / "b")])


@pytest.mark.parametrize("part, value", [("steps", []), ("returns", [1.0]), ("seconds", [None, None])])
def test_a_curve_that_is_none(tmp_path, stored, contents, part, value):
    (run,) = stored(tmp_path, "trpo_ext", "CartPole-v1", 1000, [1.0])
    document = contents(run.path(tmp_path))
    document["curve"][part] = value
    run.path(tmp_path).write_text(json.dumps(document))
    with pytest.raises(SystemExit, match="is no result"):
        main(["report", "--results", str(tmp_path)])


def test_unknown_circumstances(tmp_path, stored, contents):
    (run,) = stored(tmp_path, "trpo_ext", "CartPole-v1", 1000, [1.0])
    document = contents(run.path(tmp_path)) | {"commit": None, "versions": None, "machine": None}
    run.path(tmp_path).write_text(json.dumps(document))
    main(["report", "--results", str(tmp_path), "--out", str(tmp_path)])
    assert "- Commits: unknown." in (tmp_path / "learning.md").read_text()


def test_a_file_that_is_no_result(tmp_path):
    (tmp_path / "trpo").mkdir()
    (tmp_path / "trpo/x.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"x\.json is no result"):
        main(["report", "--results", str(tmp_path)])


def test_figures():
    assert [figure(value) for value in (12345.6, -12.34, 0.5, float("nan"))] == ["12 346", "−12.3", "0.50", "–"]


def test_no_interval_where_resampling_never_changes_anything():
    assert bracketed(Estimate(147.0, 147.0, 147.0)) == "147.0"
    assert bracketed(Estimate(147.0, 140.0, 150.0)) == "147.0 [140.0, 150.0]"


def test_many_columns_are_told_apart():
    labels = ["trpo_ext", "trpo", *(f"variant-{i}" for i in range(20))]
    colour, style = colours(labels), line_styles(labels)
    assert len({(colour[label], style[label]) for label in labels}) == len(labels)
    assert {style[label] for label in labels[:8]} == {"-"}


def test_of_many_labels_the_improvement_over_all_tasks_is_drawn(tmp_path, stored, monkeypatch):
    labels = [f"variant-{i}" for i in range(plots.MOST_IN_PANEL)]
    for label in ("trpo", *labels):
        for task in ("CartPole-v1", "Pendulum-v1"):
            stored(tmp_path, label, task, 1000, [1.0, 2.0], algo="trpo_ext")
    drawn = {}
    monkeypatch.setattr(plots, "improvement", lambda estimates, *_: drawn.update(estimates))
    comparison = Comparison.of(read_all([tmp_path]))
    draw(comparison, tmp_path)
    assert list(drawn) == [("all tasks", label) for label in labels]
    assert all(one == improvements(comparison)[label, None] for (_, label), one in drawn.items())
