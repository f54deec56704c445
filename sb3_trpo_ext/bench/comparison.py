"""Results that are compared: ordered by task and label, and scaled so that tasks can be averaged."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from sb3_trpo_ext.bench.algorithms import ALGOS, BASELINE
from sb3_trpo_ext.bench.results import Result
from sb3_trpo_ext.bench.statistics import Estimate, probability_of_improvement
from sb3_trpo_ext.bench.suites import SCALE, SUITES, Task, normalised

# The return of the last training episodes, with the noise of exploration, or of the policy without it after training.
Kind: TypeAlias = Literal["training", "deterministic"]


@dataclass(frozen=True)
class Comparison:
    """
    Results in the order of reports: tasks are rows of their tables, labels are columns.

    :param results: all of them
    :param labels: in the order of the columns
    :param tasks: in the order of the rows
    :param baseline: label with which the others are compared
    """

    results: tuple[Result, ...]
    labels: tuple[str, ...]
    tasks: tuple[Task, ...]
    baseline: str

    @classmethod
    def of(cls, results: Iterable[Result], baseline: str = BASELINE) -> "Comparison":
        """
        :param results: of at least one run
        :param baseline: label with which the others are compared, if it is among them
        """
        results = tuple(results)
        known = [task for suite in SUITES.values() for task in suite]
        order = {task: i for i, task in reversed(list(enumerate(known)))}
        labels = sorted({one.run.label for one in results}, key=lambda label: (_rank(label), label))
        tasks = sorted({one.run.task for one in results}, key=lambda task: (order.get(task, len(order)), task))
        return cls(results, tuple(labels), tuple(tasks), baseline)

    def only(self, labels: Sequence[str]) -> "Comparison":
        """
        :param labels: some of those that there are
        """
        kept = [one for one in self.results if one.run.label in labels]
        return Comparison.of(kept, self.baseline)

    def runs(self, label: str, task: Task) -> list[Result]:
        """
        :param label: of a column
        :param task: of a row
        :return: one for each seed; may be empty
        """
        return [one for one in self.results if (one.run.label, one.run.task) == (label, task)]

    def returns(self, label: str, task: Task, kind: Kind = "training") -> list[float]:
        """
        :param label: of a column
        :param task: of a row
        :param kind: of policy
        :return: one for each seed, but those that were not evaluated without noise
        """
        runs = self.runs(label, task)
        return [one.final for one in runs] if kind == "training" else [one.evaluated for one in runs if one.evaluation]

    def shared(self, *labels: str, kind: Kind = "training") -> tuple[Task, ...]:
        """
        :param labels: every one by default
        :param kind: of policy
        :return: tasks that all of them have returns of, and that have a scale: what can be averaged
        """
        return tuple(
            task
            for task in self.tasks
            if task.environment in SCALE and all(self.returns(label, task, kind) for label in labels or self.labels)
        )

    def scores(self, label: str, tasks: Iterable[Task] | None = None, kind: Kind = "training") -> list[list[float]]:
        """
        :param label: of a column
        :param tasks: with a scale; the shared ones by default
        :param kind: of policy
        :return: tasks; of each the label's returns on the tasks' common scale
        """
        chosen = self.shared(kind=kind) if tasks is None else tasks
        return [[normalised(task.environment, one) for one in self.returns(label, task, kind)] for task in chosen]


def _rank(label: str) -> int:
    """Ours, then what we compare with, each before its own variants, as trpo before trpo-wide; then the rest."""
    found = [i for i, algo in enumerate(ALGOS) if label == algo or label.startswith(f"{algo}-")]
    return found[0] if found else len(ALGOS)


def improvements(comparison: Comparison, kind: Kind = "training") -> dict[tuple[str, Task | None], Estimate]:
    """
    Probability of improvement over the baseline.

    :param comparison: of labels
    :param kind: of policy
    :return: label and task → estimate; the task None for all that both have
    """
    found: dict[tuple[str, Task | None], Estimate] = {}
    for label in comparison.labels:
        both = [
            task
            for task in comparison.tasks
            if comparison.returns(label, task, kind) and comparison.returns(comparison.baseline, task, kind)
        ]
        if label == comparison.baseline or not both:
            continue
        ours = [comparison.returns(label, task, kind) for task in both]
        theirs = [comparison.returns(comparison.baseline, task, kind) for task in both]
        for task, x, y in zip(both, ours, theirs, strict=True):
            found[label, task] = probability_of_improvement([x], [y])
        found[label, None] = probability_of_improvement(ours, theirs)
    return found
