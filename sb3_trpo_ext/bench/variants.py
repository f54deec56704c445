"""The table of an ablation: each variant's settings, and how much better than the baseline it is."""

from collections.abc import Sequence

from sb3_trpo_ext.bench.algorithms import BASELINE, shown
from sb3_trpo_ext.bench.comparison import Comparison
from sb3_trpo_ext.bench.formatting import NOTHING, Table, bracketed, figure, grid, spread
from sb3_trpo_ext.bench.results import Run
from sb3_trpo_ext.bench.statistics import difference
from sb3_trpo_ext.bench.suites import Task


def variant_table(comparison: Comparison) -> Table | None:
    """
    An ablation: labels are rows, the baseline the first; tasks are columns.

    :param comparison: of labels
    :return: None with the usual baseline, or without one or something to compare with it
    """
    baseline = comparison.baseline
    others = [label for label in comparison.labels if label != baseline]
    if baseline == BASELINE or baseline not in comparison.labels or not others:
        return None
    most = max(len(comparison.runs(label, task)) for label in comparison.labels for task in comparison.tasks)

    def cell(label: str, task: Task) -> str:
        finals = comparison.returns(label, task)
        return spread(finals) + (f" ({len(finals)})" if 0 < len(finals) < most else "")

    rows = [["variant", "settings", *map(str, comparison.tasks), "all"]]
    for label in (baseline, *others):
        runs = [one.run for one in comparison.results if one.run.label == label]
        cells = [cell(label, task) for task in comparison.tasks]
        rows.append([shown(label), settings(runs), *cells, gain(comparison, label)])
    return Table(
        f"Variants of {shown(baseline)}",
        f"Mean ± standard deviation over seeds ({most}, or the number in brackets) of the return at the end. All: how "
        "much higher than the first row's the mean scaled return is over the tasks that both have, with 95 % "
        "stratified bootstrap interval where each has several seeds. Settings: … where tasks have values of their own.",
        grid(rows, words=2),
    )


def settings(runs: Sequence[Run]) -> str:
    """
    What was changed.

    :param runs: of one label
    """
    texts = ["constructor's defaults"] if any(run.defaults for run in runs) else []
    for name in dict.fromkeys(name for run in runs for name in run.params):
        values = {str(run.params.get(name, NOTHING)) for run in runs}
        texts.append(f"`{name}:{values.pop() if len(values) == 1 else '…'}`")
    return ", ".join(texts) or "as shipped"


def gain(comparison: Comparison, label: str) -> str:
    """
    Difference to the baseline over all tasks.

    :param comparison: of labels, the baseline among them
    :param label: of a row
    """
    tasks = comparison.shared(label, comparison.baseline)
    if label == comparison.baseline or not tasks:
        return NOTHING
    ours, theirs = comparison.scores(label, tasks), comparison.scores(comparison.baseline, tasks)
    estimate = difference(ours, theirs)
    # A single seed drawn again and again would look like certainty.
    return bracketed(estimate) if all(len(seeds) > 1 for seeds in (*ours, *theirs)) else figure(estimate.value)
