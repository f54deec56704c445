"""The tables of a report: tasks beside algorithms, one table for each thing that is compared."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

from sb3_trpo_ext.bench.algorithms import shown
from sb3_trpo_ext.bench.comparison import Comparison, Kind, improvements
from sb3_trpo_ext.bench.formatting import NOTHING, Table, bracketed, figure, grid, spread
from sb3_trpo_ext.bench.results import Result
from sb3_trpo_ext.bench.statistics import interquartile_mean
from sb3_trpo_ext.bench.suites import SCALE, SCORES, Task
from sb3_trpo_ext.bench.variants import variant_table

MOST_COLUMNS = 8  # labels side by side; more are rows
Cell = Callable[[str, Task], str]


def tables(comparison: Comparison) -> list[Table]:
    """
    :param comparison: of at least one label
    :return: all that there is something to write in
    """
    found = [
        return_table(comparison),
        interquartile_table(comparison),
        improvement_table(comparison),
        evaluation_table(comparison),
        interquartile_table(comparison, "deterministic"),
        improvement_table(comparison, "deterministic"),
        variant_table(comparison),
        speed_table(comparison),
        score_table(comparison),
    ]
    return [one for one in found if one is not None]


def titled(title: str, kind: Kind) -> str:
    """
    :param title: of a table of returns of training
    :param kind: of policy that it is about
    """
    return title if kind == "training" else f"Deterministic policy: {title[0].lower()}{title[1:]}"


def return_table(comparison: Comparison) -> Table:
    """
    :param comparison: of at least one label
    """
    return Table(
        "Return at the end of training",
        "Mean ± standard deviation over seeds of the last 100 training episodes' mean return, un-normalised.",
        by_task(comparison, lambda label, task: spread(comparison.returns(label, task))),
    )


def interquartile_table(comparison: Comparison, kind: Kind = "training") -> Table:
    """
    :param comparison: of at least one label
    :param kind: of policy
    """

    def cell(label: str, task: Task) -> str:
        returns = comparison.returns(label, task, kind)
        return bracketed(interquartile_mean([returns])) if returns else NOTHING

    overall = None
    if comparison.shared(kind=kind):
        overall = {label: overall_cell(comparison.scores(label, kind=kind)) for label in comparison.labels}
    return Table(
        titled("Interquartile mean", kind),
        "Of the same returns, with 95 % stratified bootstrap interval. All tasks together: each return scaled so "
        "that 0 is random actions and 1 a good return, over the tasks that all of them have. Where there is a "
        "single seed there is no interval.",
        by_task(comparison, cell, overall),
    )


def overall_cell(scores: Sequence[Sequence[float]]) -> str:
    """
    :param scores: tasks; of each its seeds' scores
    :return: their interquartile mean; no interval where a task has one seed, whose spread nobody knows
    """
    mean = interquartile_mean(scores)
    return figure(mean.value) if min(map(len, scores)) == 1 else bracketed(mean)


def evaluation_table(comparison: Comparison) -> Table:
    """
    :param comparison: of at least one label
    """

    def cell(label: str, task: Task) -> str:
        return spread(comparison.returns(label, task, "deterministic"))

    return Table(
        "Deterministic policy",
        "Mean ± standard deviation over seeds of the mean return of 20 episodes after training, with the "
        "normalisation frozen.",
        by_task(comparison, cell),
    )


def improvement_table(comparison: Comparison, kind: Kind = "training") -> Table | None:
    """
    :param comparison: of labels
    :param kind: of policy
    :return: None without the baseline or something to compare with it
    """
    estimates = improvements(comparison, kind)
    if not estimates:
        return None
    labels = [label for label in comparison.labels if any(one == label for one, _ in estimates)]

    def cell(label: str, task: Task | None) -> str:
        return bracketed(estimates[label, task]) if (label, task) in estimates else NOTHING

    return Table(
        titled(f"Probability of improvement over {shown(comparison.baseline)}", kind),
        "That a run ends with a higher return than a run of the baseline on the same task, with 95 % stratified "
        "bootstrap interval; where all runs are above all others, or below, the exact one for as many pairs as there "
        "are without a run in common.",
        by_task(comparison, cell, {label: cell(label, None) for label in labels}, labels),
    )


def speed_table(comparison: Comparison) -> Table:
    """
    :param comparison: of at least one label
    """

    def cell(label: str, task: Task) -> str:
        results = [one for one in comparison.runs(label, task) if one.is_timed]
        if not results:
            return NOTHING
        minutes = sum(one.minutes for one in results) / len(results)
        return f"{figure(gained_per_minute(results))} ({figure(minutes)} min)"

    return Table(
        "Return per minute",
        "Return gained over random actions per minute of training, and the minutes, means over the seeds whose "
        "time was taken: processor time of one thread, which is wall-clock time on a core of its own.",
        by_task(comparison, cell),
    )


def score_table(comparison: Comparison) -> Table | None:
    """
    :param comparison: of at least one label
    :return: None without a task that has a score
    """
    tasks = [task for task in comparison.tasks if task.environment in SCORES]
    if not tasks:
        return None

    def cell(label: str, task: Task) -> str:
        results = [one for one in comparison.runs(label, task) if one.is_timed]
        if not results:
            return NOTHING
        minutes = [one.minutes_to(SCORES[task.environment]) for one in results]
        reached = sum(map(math.isfinite, minutes))
        middle = statistics.median_high(minutes)
        return f"{figure(middle) if math.isfinite(middle) else NOTHING} ({reached} of {len(results)})"

    scores = ", ".join(f"{task.environment} {figure(SCORES[task.environment])}" for task in tasks)
    return Table(
        "Minutes to a score",
        "Training time, as above, until the mean return of the last 100 training episodes is first read at "
        f"{scores}: median over seeds, where one that never gets there takes longer than any; in brackets how many "
        "get there.",
        by_task(replace(comparison, tasks=tuple(tasks)), cell),
    )


def gained_per_minute(results: Sequence[Result]) -> float:
    """
    Return gained over random actions, per minute of training. Gained, because a return may be negative.

    :param results: of the seeds of one task, with times
    """
    environment = results[0].run.environment
    if environment not in SCALE:
        return float("nan")
    return sum((one.final - SCALE[environment][0]) / one.minutes for one in results) / len(results)


def by_task(comparison: Comparison, cell: Cell, last: dict[str, str] | None = None, labels: Sequence[str] = ()) -> str:
    """
    Tasks are rows and labels columns; the other way round when there are too many labels for that.

    :param comparison: of labels and tasks
    :param cell: (label, task) → text
    :param last: label → text over all tasks
    :param labels: all of the comparison's by default
    :return: Markdown
    """
    labels = labels or comparison.labels
    rows = [[str(task), *(cell(label, task) for label in labels)] for task in comparison.tasks]
    if last is not None:
        rows.append(["**all**", *(last[label] for label in labels)])
    rows = [["task", *(shown(label) for label in labels)], *rows]
    return grid(rows if len(labels) <= MOST_COLUMNS else [list(column) for column in zip(*rows, strict=True)])
