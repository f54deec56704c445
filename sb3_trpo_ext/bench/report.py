"""``report``: tables and plots of what ``learn`` trained, with the commands that make them again."""

import argparse
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sb3_trpo_ext.bench import plots
from sb3_trpo_ext.bench.learn import ALGOS, NEWEST, OURS
from sb3_trpo_ext.bench.results import Document, Result, Run, read_all
from sb3_trpo_ext.bench.statistics import (
    Estimate,
    difference,
    interquartile_mean,
    mean_and_std,
    probability_of_improvement,
)
from sb3_trpo_ext.bench.suites import SCALE, SUITES, Task, normalised

BASELINE = "trpo"
NAMES = {
    "trpo_ext": "trpo_ext (ours)",
    "trpo": "sb3-contrib trpo",
    "ppo": "SB3 ppo",
    "a2c": "SB3 a2c",
    "acer": "acer (ours)",
}
MOST_COLUMNS = 8  # labels side by side; more are rows
NOTHING = "–"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Comparison:
    """
    Results, ordered for tables: tasks are rows, labels columns.

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

    def runs(self, label: str, task: Task) -> list[Result]:
        """
        :param label: of a column
        :param task: of a row
        :return: one for each seed; may be empty
        """
        return [one for one in self.results if (one.run.label, one.run.task) == (label, task)]

    def finals(self, label: str, task: Task) -> list[float]:
        """The returns at the end of training, one for each seed."""
        return [one.final for one in self.runs(label, task)]

    def shared(self, *labels: str) -> tuple[Task, ...]:
        """
        :param labels: every one by default
        :return: tasks that all of them have runs of, and that have a scale: what can be averaged
        """
        return tuple(
            task
            for task in self.tasks
            if task.environment in SCALE and all(self.runs(label, task) for label in labels or self.labels)
        )

    def scores(self, label: str, tasks: Iterable[Task] | None = None) -> list[list[float]]:
        """
        :param label: of a column
        :param tasks: with a scale; the shared ones by default
        :return: tasks; of each the label's returns on the tasks' common scale
        """
        chosen = self.shared() if tasks is None else tasks
        return [[normalised(task.environment, one) for one in self.finals(label, task)] for task in chosen]


def _rank(label: str) -> int:
    """Ours, then what we compare with, then variants."""
    return ALGOS.index(label) if label in ALGOS else len(ALGOS)


Cell = Callable[[str, Task], str]


def table(comparison: Comparison, cell: Cell, last: dict[str, str] | None = None, labels: Sequence[str] = ()) -> str:
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
    rows = [["task", *(NAMES.get(label, label) for label in labels)], *rows]
    return grid(rows if len(labels) <= MOST_COLUMNS else [list(column) for column in zip(*rows, strict=True)])


def grid(rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """
    :param rows: of cells, the head first
    :param words: columns on the left that have words in them; the others have figures
    :return: Markdown
    """
    head, *body = rows
    line = ["---"] * words + ["---:"] * (len(head) - words)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, line, *body))


def figure(value: float) -> str:
    """
    :param value: a return, or a score around 1
    :return: with as many digits as say something
    """
    if math.isnan(value):
        return NOTHING
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}".replace(",", " ").replace("-", "−")


def bracketed(estimate: Estimate) -> str:
    """
    :param estimate: with its interval
    :return: without an interval if resampling never gave anything else, which is not certainty: there may be one seed
    """
    if estimate.low == estimate.high:
        return figure(estimate.value)
    return f"{figure(estimate.value)} [{figure(estimate.low)}, {figure(estimate.high)}]"


def spread(scores: Sequence[float]) -> str:
    """
    :param scores: one for each seed
    :return: mean ± standard deviation
    """
    if not scores:
        return NOTHING
    mean, std = mean_and_std(scores)
    return f"{figure(mean)} ± {figure(std)}" if len(scores) > 1 else figure(mean)


def gained_per_minute(results: Sequence[Result]) -> float:
    """
    Return gained over random actions, per minute of wall time. Gained, because a return may be negative.

    :param results: of the seeds of one task, with times
    """
    environment = results[0].run.environment
    if environment not in SCALE:
        return float("nan")
    return sum((one.final - SCALE[environment][0]) / one.minutes for one in results) / len(results)


def tables(comparison: Comparison) -> list[tuple[str, str, str]]:
    """
    :param comparison: of at least one label
    :return: title, explanation and table of each
    """

    def iqm_cell(label: str, task: Task) -> str:
        finals = comparison.finals(label, task)
        return bracketed(interquartile_mean([finals])) if finals else NOTHING

    def speed_cell(label: str, task: Task) -> str:
        results = [one for one in comparison.runs(label, task) if one.is_timed]
        if not results:
            return NOTHING
        minutes = sum(one.minutes for one in results) / len(results)
        return f"{figure(gained_per_minute(results))} ({figure(minutes)} min)"

    def evaluation_cell(label: str, task: Task) -> str:
        return spread([one.evaluated for one in comparison.runs(label, task) if one.evaluation])

    overall = None
    if comparison.shared():
        overall = {label: bracketed(interquartile_mean(comparison.scores(label))) for label in comparison.labels}
    found = [
        (
            "Return at the end of training",
            "Mean ± standard deviation over seeds of the last 100 training episodes' mean return, un-normalised.",
            table(comparison, lambda label, task: spread(comparison.finals(label, task))),
        ),
        (
            "Interquartile mean",
            "Of the same returns, with 95 % stratified bootstrap interval. All tasks together: each return scaled so "
            "that 0 is random actions and 1 a good return, over the tasks that all of them have. A single seed has no "
            "interval.",
            table(comparison, iqm_cell, overall),
        ),
        (
            "Deterministic policy",
            "Mean ± standard deviation over seeds of the mean return of 20 episodes after training, with the "
            "normalisation frozen.",
            table(comparison, evaluation_cell),
        ),
    ]
    found += [one for one in (improvement_table(comparison), variant_table(comparison)) if one]
    found.append(
        (
            "Return per minute of wall time",
            "Return gained over random actions per minute of training, and the minutes, means over the seeds whose "
            "time was taken. Times of runs that shared the machine with others are not comparable with those of runs "
            "that had it alone.",
            table(comparison, speed_cell),
        )
    )
    return found


def improvement_table(comparison: Comparison) -> tuple[str, str, str] | None:
    """
    :param comparison: of labels
    :return: title, explanation, table; None without the baseline or something to compare with it
    """
    estimates = improvements(comparison)
    if not estimates:
        return None
    labels = [label for label in comparison.labels if any(one == label for one, _ in estimates)]

    def cell(label: str, task: Task | None) -> str:
        return bracketed(estimates[label, task]) if (label, task) in estimates else NOTHING

    return (
        f"Probability of improvement over {NAMES.get(comparison.baseline, comparison.baseline)}",
        "That a run ends with a higher return than a run of the baseline on the same task, with 95 % stratified "
        "bootstrap interval; none where all resamples agree, as they do when few runs all end above few others.",
        table(comparison, cell, {label: cell(label, None) for label in labels}, labels),
    )


def improvements(comparison: Comparison) -> dict[tuple[str, Task | None], Estimate]:
    """
    Probability of improvement over the baseline.

    :param comparison: of labels
    :return: label and task → estimate; the task None for all that both have
    """
    found: dict[tuple[str, Task | None], Estimate] = {}
    for label in comparison.labels:
        both = [
            task
            for task in comparison.tasks
            if comparison.runs(label, task) and comparison.runs(comparison.baseline, task)
        ]
        if label == comparison.baseline or not both:
            continue
        ours = [comparison.finals(label, task) for task in both]
        theirs = [comparison.finals(comparison.baseline, task) for task in both]
        for task, x, y in zip(both, ours, theirs, strict=True):
            found[label, task] = probability_of_improvement([x], [y])
        found[label, None] = probability_of_improvement(ours, theirs)
    return found


def variant_table(comparison: Comparison) -> tuple[str, str, str] | None:
    """
    An ablation: labels are rows, the baseline the first; tasks are columns.

    :param comparison: of labels
    :return: title, explanation, table; None with the usual baseline, or without one or something to compare with it
    """
    baseline = comparison.baseline
    others = [label for label in comparison.labels if label != baseline]
    if baseline == BASELINE or baseline not in comparison.labels or not others:
        return None
    most = max(len(comparison.runs(label, task)) for label in comparison.labels for task in comparison.tasks)

    def cell(label: str, task: Task) -> str:
        finals = comparison.finals(label, task)
        return spread(finals) + (f" ({len(finals)})" if 0 < len(finals) < most else "")

    rows = [["variant", "settings", *map(str, comparison.tasks), "all"]]
    for label in (baseline, *others):
        runs = [one.run for one in comparison.results if one.run.label == label]
        cells = [cell(label, task) for task in comparison.tasks]
        rows.append([NAMES.get(label, label), settings(runs), *cells, gain(comparison, label)])
    return (
        f"Variants of {NAMES.get(baseline, baseline)}",
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


def commands(comparison: Comparison) -> str:
    """
    For each row of the tables the command that trains it again: algorithms with the same seeds together, then variants
    and other seeds.

    :param comparison: of results
    :return: Markdown
    """
    lines = []
    for task in comparison.tasks:
        lines.append(f"# {task}")
        alike: dict[tuple[tuple[int, ...], str], list[Run]] = {}
        for label in comparison.labels:
            runs = [one.run for one in comparison.runs(label, task)]
            if runs:
                variant = "" if label == runs[0].algo else label
                alike.setdefault((tuple(sorted({run.seed for run in runs})), variant), []).append(runs[0])
        parts = [
            first.command(seeds, [first.algo, *(run.algo for run in others)])
            for (seeds, _), (first, *others) in alike.items()
        ]
        lines.append(" && \\\n  ".join(parts))
    return "```bash\n" + "\n".join(lines) + "\n```"


def conditions(comparison: Comparison) -> str:
    """
    Seeds, commits, versions and machines of the results.

    :param comparison: of results
    :return: Markdown
    """
    lines = circumstances([one.document for one in comparison.results])
    for label in comparison.labels:
        origins = Counter(one.origin for one in comparison.results if one.run.label == label)
        others = [f"{n} of {origins.total()} runs measured otherwise: {one}" for one, n in origins.items() if one]
        lines += [f"{label}: {text}." for text in others]
        alike: dict[str, list[str]] = {}
        for task in comparison.tasks:
            seeds = " ".join(map(str, sorted(one.run.seed for one in comparison.runs(label, task))))
            alike.setdefault(seeds, []).append(str(task))
        missing = alike.pop("", [])
        text = "; ".join(seeds + f" ({', '.join(named)})" * (len(alike) > 1) for seeds, named in alike.items())
        mixed = [str(task) for task in comparison.tasks if has_mixed_settings(comparison.runs(label, task))]
        if mixed:
            lines.append(f"**{label}: not all seeds were trained with the same settings: {', '.join(mixed)}.**")
        lines.append(f"{label}: seeds {text}" + (f"; no runs of {', '.join(missing)}" if missing else "") + ".")
    return "\n".join(f"- {line}" for line in lines)


def circumstances(documents: Sequence[Document]) -> list[str]:
    """
    Commits, versions and machines, as far as they are known.

    :param documents: of results
    """
    commits = {one["commit"] for one in documents if one.get("commit")}
    machines = [one["machine"] for one in documents if one.get("machine")]
    processors = {f"{one.get('cpu', UNKNOWN)}, {one.get('cores', UNKNOWN)} cores" for one in machines}
    versions: dict[str, set[str]] = {}
    for one in documents:
        for name, version in (one.get("versions") or {}).items():
            versions.setdefault(name, set()).add(version)
    used = ", ".join(f"{name} {' / '.join(sorted(found))}" for name, found in versions.items())
    return [
        f"{len(documents)} run{'s' * (len(documents) > 1)}, one torch thread each unless measured otherwise.",
        f"Commits: {', '.join(sorted(commits)) or UNKNOWN}.",
        f"Versions: {used or UNKNOWN}.",
        f"Machine: {'; '.join(sorted(processors)) or UNKNOWN}.",
    ]


def has_mixed_settings(results: Sequence[Result]) -> bool:
    """
    Whether settings changed between the seeds: the constructor's arguments, or what RL Zoo does around it, such as
    ``normalize``. Left out is an argument that some run's version did not have yet and that no run had written down,
    and what was measured otherwise, as not all of its settings need be known.

    :param results: of one label and task
    """
    documents = [one.document for one in results if one.origin is None]
    zoo = [one.get("zoo_settings", {}) for one in documents]
    arguments = [one.get("all_settings", {}) for one in documents]
    defaults = set().union(*arguments).difference(*zoo)
    ignored = {"seed", "n_timesteps", *(name for name in defaults if any(name not in one for one in arguments))}
    settings = [
        {name: value for name, value in {**around, **own}.items() if name not in ignored}
        for around, own in zip(zoo, arguments, strict=True)
    ]
    return any(one != settings[0] for one in settings)


REPRODUCE = (
    "Each trains one row of the tables; then `report` shows it. Settings are those that ship with the version that "
    "runs it. If they have changed, a result's file has those it was trained with (`zoo_settings`) and the commit."
)


def markdown(comparison: Comparison, pictures: dict[str, str]) -> str:
    """
    :param comparison: of results
    :param pictures: file name → what it shows
    :return: the report
    """
    parts = ["# Learning benchmark", "Made by `python -m sb3_trpo_ext.bench report`.", conditions(comparison)]
    for title, explanation, text in tables(comparison):
        parts += [f"## {title}", explanation, text]
    parts.append("## Plots")
    parts += [f"![{shows}]({name})" for name, shows in pictures.items()]
    parts += ["## Reproduce a row", REPRODUCE, commands(comparison)]
    return "\n\n".join(parts) + "\n"


def curves(comparison: Comparison) -> plots.Curves:
    """
    :param comparison: of results
    :return: task → label → seeds
    """
    return {
        str(task): {label: found for label in comparison.labels if (found := comparison.runs(label, task))}
        for task in comparison.tasks
    }


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: of the subcommand
    """
    parser.add_argument("--results", type=Path, nargs="+", default=[NEWEST], help=f"folders (default {NEWEST})")
    parser.add_argument("--suite", choices=SUITES, help="only its tasks")
    parser.add_argument("--envs", nargs="+", metavar="ENV", help="only these")
    parser.add_argument(
        "--labels", nargs="+", help=f"only these columns (as trained: {', '.join((*OURS, BASELINE))} …)"
    )
    parser.add_argument(
        "--baseline",
        help=f"label to compare with (default {BASELINE}); with another, a table of variants",
    )
    parser.add_argument("--out", type=Path, default=Path("bench-results"), help="folder for learning.md and PNGs")


def require_known(option: str, named: Sequence[str] | None, known: set[str]) -> None:
    """
    :param option: of the command line
    :param named: by it
    :param known: what there are runs of
    :raises SystemExit: when a name is none of these: misspelt, it would leave a gap that looks like a result
    """
    unknown = [name for name in named or () if name not in known]
    if unknown:
        sys.exit(f"{option} {' '.join(unknown)}: there are only runs of {', '.join(sorted(known))}")


def run(options: argparse.Namespace, arguments: list[str]) -> None:
    """
    :param options: of the command line
    :param arguments: that they were read from
    :raises SystemExit: when there is nothing to report
    """
    try:
        results = read_all(options.results)
    except ValueError as error:
        sys.exit(str(error))
    require_known("--labels", options.labels, {one.run.label for one in results})
    require_known("--envs", options.envs, {one.run.environment for one in results})
    if options.baseline:
        require_known("--baseline", [options.baseline], set(options.labels or [one.run.label for one in results]))
    chosen = [
        one
        for one in results
        if (options.labels is None or one.run.label in options.labels)
        and (options.envs is None or one.run.environment in options.envs)
        and (options.suite is None or one.run.task in SUITES[options.suite])
    ]
    if not chosen:
        there = ", ".join(dict.fromkeys(f"{one.run.label} {one.run.task}" for one in results))
        sys.exit(f"No run fits --labels, --envs and --suite. There are: {there}")
    comparison = Comparison.of(chosen, options.baseline or BASELINE)
    options.out.mkdir(parents=True, exist_ok=True)
    text = markdown(comparison, draw(comparison, options.out))
    (options.out / "learning.md").write_text(text)
    print(text)
    print(f"Wrote learning.md and its plots to {options.out}")
