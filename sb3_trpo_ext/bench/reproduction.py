"""How the results of a report are made again: the commands that train them."""

from sb3_trpo_ext.bench.comparison import Comparison
from sb3_trpo_ext.bench.results import Run

EXPLANATION = (
    "Each trains one row of the tables; then `report` shows it. Settings are those that ship with the version that "
    "runs it. If they have changed, a result's file has those it was trained with (`zoo_settings`) and the commit."
)


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
