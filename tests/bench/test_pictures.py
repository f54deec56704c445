"""Which plots a report has."""

from sb3_trpo_ext.bench import plots
from sb3_trpo_ext.bench.comparison import Comparison, improvements
from sb3_trpo_ext.bench.pictures import draw, labels_of_curves
from sb3_trpo_ext.bench.store import read_all


def test_of_many_labels_the_improvement_over_all_tasks_is_drawn(tmp_path, stored, monkeypatch):
    labels = [f"variant-{i}" for i in range(plots.MOST_LINES)]
    for label in ("trpo", *labels):
        for task in ("CartPole-v1", "Pendulum-v1"):
            stored(tmp_path, label, task, 1000, [1.0, 2.0], algo="trpo_ext")
    drawn = {}
    monkeypatch.setattr(plots, "improvement", lambda estimates, *_: drawn.update(estimates))
    comparison = Comparison.of(read_all([tmp_path]))
    draw(comparison, tmp_path)
    assert list(drawn) == [("all tasks", label) for label in labels]
    assert all(one == improvements(comparison)[label, None] for (_, label), one in drawn.items())


def test_every_plot_that_has_something_to_show_is_drawn_and_named(tmp_path, results):
    comparison = Comparison.of(read_all([results]))
    names = draw(comparison, tmp_path)
    assert list(names) == ["curves.png", "time.png", "profile.png", "improvement.png"]
    assert all((tmp_path / name).exists() for name in names)
    alone = Comparison.of([one for one in comparison.results if one.run.label == "trpo"])
    assert "improvement.png" not in draw(alone, tmp_path)


def test_of_many_labels_those_that_differ_most_from_the_baseline_have_curves(tmp_path, stored):
    finals = {"base": 100.0, **{f"v{i}": 100.0 + (-1) ** i * 10 * i for i in range(1, 12)}}
    for label, final in finals.items():
        stored(tmp_path, label, "CartPole-v1", 1000, [final, final], algo="trpo_ext")
    comparison = Comparison.of(read_all([tmp_path]), "base")
    chosen = labels_of_curves(comparison)
    assert set(chosen) == {"base", *(f"v{i}" for i in range(5, 12))} and len(chosen) == plots.MOST_LINES
    assert labels_of_curves(comparison.only(chosen)) == chosen
    assert len(labels_of_curves(Comparison.of(comparison.results, "none"))) == plots.MOST_LINES
