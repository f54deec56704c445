"""Under which conditions the results of a report were made: seeds, settings, commits, versions, machines."""

from collections import Counter
from collections.abc import Sequence

from sb3_trpo_ext.bench.comparison import Comparison
from sb3_trpo_ext.bench.results import Document, Result

UNKNOWN = "unknown"


def conditions(comparison: Comparison) -> str:
    """
    Conditions of all results, then those of each label.

    :param comparison: of results
    :return: Markdown
    """
    lines = circumstances([one.document for one in comparison.results])
    for label in comparison.labels:
        lines += [*origins(comparison, label), *mixed_settings(comparison, label), seeds(comparison, label)]
    lines += machines(comparison)
    return "\n".join(f"- {line}" for line in lines)


def circumstances(documents: Sequence[Document]) -> list[str]:
    """
    Commits, versions and machines, as far as they are known.

    :param documents: of results
    """
    commits = {one["commit"] for one in documents if one.get("commit")}
    versions: dict[str, set[str]] = {}
    for one in documents:
        for name, version in (one.get("versions") or {}).items():
            versions.setdefault(name, set()).add(version)
    used = ", ".join(f"{name} {' / '.join(sorted(found))}" for name, found in versions.items())
    return [
        f"{len(documents)} run{'s' * (len(documents) > 1)}, one torch thread each unless measured otherwise.",
        f"Commits: {', '.join(sorted(commits)) or UNKNOWN}.",
        f"Versions: {used or UNKNOWN}.",
        f"Machine: {'; '.join(sorted({machine(one) for one in documents} - {UNKNOWN})) or UNKNOWN}.",
    ]


def machine(document: Document) -> str:
    """
    Processor and number of cores, or that they are unknown.

    :param document: of a result
    """
    known = document.get("machine")
    return f"{known.get('cpu', UNKNOWN)}, {known.get('cores', UNKNOWN)} cores" if known else UNKNOWN


def machines(comparison: Comparison) -> list[str]:
    """
    Which machines the times of each column are of, if there are several.

    :param comparison: of results
    """
    used: dict[str, dict[str, list[str]]] = {}
    for label in comparison.labels:
        for task in comparison.tasks:
            for name in sorted({machine(one.document) for one in comparison.runs(label, task)} - {UNKNOWN}):
                used.setdefault(name, {}).setdefault(label, []).append(str(task))
    if len(used) < 2:
        return []
    of_each = {
        name: "; ".join(f"{label} ({', '.join(tasks)})" for label, tasks in columns.items())
        for name, columns in used.items()
    }
    where = ". ".join(f"{name}: {columns}" for name, columns in of_each.items())
    return [f"**Times are of different machines.** {where}."]


def origins(comparison: Comparison, label: str) -> list[str]:
    """
    How results were measured, if not by ``bench learn``.

    :param comparison: of results
    :param label: of a column
    """
    counts = Counter(one.origin for one in comparison.results if one.run.label == label)
    total = counts.total()
    return [f"{label}: {n} of {total} runs measured otherwise: {origin}." for origin, n in counts.items() if origin]


def seeds(comparison: Comparison, label: str) -> str:
    """
    The seeds of each task; of all tasks together if they are the same.

    :param comparison: of results
    :param label: of a column
    """
    alike: dict[str, list[str]] = {}
    for task in comparison.tasks:
        numbers = " ".join(map(str, sorted(one.run.seed for one in comparison.runs(label, task))))
        alike.setdefault(numbers, []).append(str(task))
    missing = alike.pop("", [])
    text = "; ".join(numbers + f" ({', '.join(named)})" * (len(alike) > 1) for numbers, named in alike.items())
    return f"{label}: seeds {text}" + (f"; no runs of {', '.join(missing)}" if missing else "") + "."


def mixed_settings(comparison: Comparison, label: str) -> list[str]:
    """
    A warning, if there is a reason for one.

    :param comparison: of results
    :param label: of a column
    """
    mixed = [str(task) for task in comparison.tasks if has_mixed_settings(comparison.runs(label, task))]
    if not mixed:
        return []
    return [f"**{label}: not all seeds were trained with the same settings: {', '.join(mixed)}.**"]


def has_mixed_settings(results: Sequence[Result]) -> bool:
    """
    Whether settings changed between the seeds: the constructor's arguments, or what RL Zoo does around it, such as
    ``normalize``. Left out is an argument that some run's version did not have yet and that no run had written down,
    and what was measured otherwise, as not all of its settings need be known.

    :param results: of one label and task
    """
    documents = [one.document for one in results if one.origin is None]
    zoo = [one.get("zoo_settings") or {} for one in documents]
    arguments = [one.get("all_settings") or {} for one in documents]
    defaults = set().union(*arguments).difference(*zoo)
    ignored = {"seed", "n_timesteps", *(name for name in defaults if any(name not in one for one in arguments))}
    settings = [
        {name: value for name, value in {**around, **own}.items() if name not in ignored}
        for around, own in zip(zoo, arguments, strict=True)
    ]
    return any(one != settings[0] for one in settings)
