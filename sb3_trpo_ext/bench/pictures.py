"""Which plots a report has, and what each of them shows."""

from pathlib import Path

from sb3_trpo_ext.bench import plots
from sb3_trpo_ext.bench.comparison import Comparison, improvements


def draw(comparison: Comparison, out: Path) -> dict[str, str]:
    """
    :param comparison: of results
    :param out: folder for the PNGs
    :return: file name → what it shows
    """
    plots.learning_curves(curves(comparison), comparison.baseline, out / "curves.png")
    many = len(comparison.labels) > plots.MOST_IN_PANEL
    interval = "" if many else " and 95 % bootstrap interval"
    pictures = {"curves.png": f"Learning curves: interquartile mean over seeds{interval}"}
    timed = [one for one in comparison.results if one.is_timed]
    if timed:
        plots.return_against_time(curves(Comparison.of(timed)), comparison.baseline, out / "time.png")
        pictures["time.png"] = "The same against minutes of training, for the runs whose time was taken"
    if comparison.shared() and not many:  # their profiles would hide each other
        scores = {label: comparison.scores(label) for label in comparison.labels}
        plots.profile(scores, out / "profile.png")
        pictures["profile.png"] = "Performance profile over all tasks"
    estimates = improvements(comparison)
    if estimates:
        if many:
            over = str(comparison.tasks[0]) if len(comparison.tasks) == 1 else "all tasks"
            named = {(over, label): one for (label, task), one in estimates.items() if task is None}
        else:
            named = {(label, str(task or "all tasks")): one for (label, task), one in estimates.items()}
        plots.improvement(named, comparison.baseline, out / "improvement.png")
        pictures["improvement.png"] = f"Probability of improvement over {comparison.baseline}"
    return pictures


def curves(comparison: Comparison) -> plots.Curves:
    """
    :param comparison: of results
    :return: task → label → seeds
    """
    return {
        str(task): {label: found for label in comparison.labels if (found := comparison.runs(label, task))}
        for task in comparison.tasks
    }
