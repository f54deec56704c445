"""Which plots a report has, and what each of them shows."""

from pathlib import Path

from sb3_trpo_ext.bench import plots
from sb3_trpo_ext.bench.comparison import Comparison, improvements
from sb3_trpo_ext.bench.statistics import difference


def draw(comparison: Comparison, out: Path) -> dict[str, str]:
    """
    :param comparison: of results
    :param out: folder for the PNGs
    :return: file name → what it shows
    """
    chosen = labels_of_curves(comparison)
    some = comparison.only(chosen)
    plots.learning_curves(curves(some), comparison.baseline, out / "curves.png")
    left = "" if chosen == comparison.labels else f", of {comparison.baseline} and those that end farthest from it"
    pictures = {"curves.png": f"Learning curves{left}: interquartile mean over seeds and 95 % bootstrap interval"}
    timed = [one for one in some.results if one.is_timed]
    if timed:
        plots.return_against_time(curves(Comparison.of(timed)), comparison.baseline, out / "time.png")
        pictures["time.png"] = "The same against minutes of training, for the runs whose time was taken"
    many = len(comparison.labels) > plots.MOST_LINES
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


def labels_of_curves(comparison: Comparison) -> tuple[str, ...]:
    """
    :param comparison: of results
    :return: all labels; of more than a picture has room for, the baseline and those that end farthest from it
    """
    labels, baseline = comparison.labels, comparison.baseline
    if len(labels) <= plots.MOST_LINES or baseline not in labels:
        return labels[: plots.MOST_LINES]

    def distance(label: str) -> float:
        tasks = comparison.shared(label, baseline)
        return (
            abs(difference(comparison.scores(label, tasks), comparison.scores(baseline, tasks)).value) if tasks else 0.0
        )

    others = sorted((label for label in labels if label != baseline), key=distance, reverse=True)
    kept = {baseline, *others[: plots.MOST_LINES - 1]}
    return tuple(label for label in labels if label in kept)


def curves(comparison: Comparison) -> plots.Curves:
    """
    :param comparison: of results
    :return: task → label → seeds
    """
    return {
        str(task): {label: found for label in comparison.labels if (found := comparison.runs(label, task))}
        for task in comparison.tasks
    }
