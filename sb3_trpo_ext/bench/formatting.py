"""Results as text: returns, intervals and Markdown tables."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from sb3_trpo_ext.bench.statistics import Estimate, mean_and_std

NOTHING = "–"


class Table(NamedTuple):
    """
    :param title: what it shows
    :param explanation: what its figures are
    :param text: Markdown
    """

    title: str
    explanation: str
    text: str


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


def grid(rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """
    :param rows: of cells, the head first
    :param words: columns on the left that have words in them; the others have figures
    :return: Markdown
    """
    head, *body = rows
    line = ["---"] * words + ["---:"] * (len(head) - words)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, line, *body))
