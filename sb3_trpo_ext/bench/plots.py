"""The learning benchmark as pictures."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sb3_trpo_ext.bench.algorithms import shown
from sb3_trpo_ext.bench.results import Result
from sb3_trpo_ext.bench.statistics import Array, Estimate, bootstrap_curve, iqm, performance_profile
from sb3_trpo_ext.bench.suites import short

# Okabe and Ito's colours, told apart by colour-blind readers; ours first.
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
FIXED = {"trpo_ext": "#d55e00", "trpo": "#0072b2", "ppo": "#009e73", "a2c": "#cc79a7", "acer": "#e69f00"}
COLUMNS = 3  # of panels
MOST_LINES = 8  # of a picture: as many as there are colours
WIDEST_LEGEND = 7.0  # inches, of four labels in a row
THRESHOLDS = 101
# Any, because the type that matplotlib wants lists every setting that it has.
STYLE: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
DPI = 120
Curves = Mapping[str, Mapping[str, Sequence[Result]]]


def colours(labels: Sequence[str]) -> dict[str, str]:
    """
    :param labels: to tell apart
    :return: known algorithms have a colour of their own, others get what is left in their order: first what is never
        an algorithm's, so that they look the same in a picture without it
    """
    taken = {FIXED[label] for label in labels if label in FIXED}
    left = [colour for colour in COLOURS if colour not in FIXED.values()]
    left += [colour for colour in COLOURS if colour not in taken and colour not in left]
    others = [label for label in labels if label not in FIXED]
    return {**FIXED, **{label: left[i % len(left)] for i, label in enumerate(others)}}


def on_grid(results: Sequence[Result]) -> tuple[Array, Array, Array]:
    """
    The curves of several seeds read at the same steps.

    :param results: of one task and label
    :return: steps (k,), returns (seeds, k), minutes (seeds, k), these NaN where no times were taken
    """
    steps = np.linspace(0, results[0].run.timesteps, 51)[1:]
    returns = np.array([np.interp(steps, one.steps, one.returns, left=np.nan) for one in results])
    minutes = np.array([np.interp(steps, (0, *one.steps), (0.0, *one.seconds)) for one in results]) / 60
    known = ~np.isnan(returns).any(axis=0)
    return steps[known], returns[:, known], minutes[:, known]


def learning_curves(curves: Curves, baseline: str, path: Path) -> None:
    """
    A panel for each task: interquartile mean over seeds with bootstrap interval against steps.

    :param curves: task → label → seeds
    :param baseline: label that stands out
    :param path: of the PNG
    """
    _panels(curves, baseline, path, "steps", against_time=False)


def return_against_time(curves: Curves, baseline: str, path: Path) -> None:
    """
    The same against minutes of training, mean over seeds.

    :param curves: task → label → seeds
    :param baseline: label that stands out
    :param path: of the PNG
    """
    _panels(curves, baseline, path, "minutes of training", against_time=True)


def _panels(curves: Curves, baseline: str, path: Path, xlabel: str, against_time: bool) -> None:
    """A panel for each task, and one legend above them, where no line is."""
    columns = min(COLUMNS, len(curves))
    rows = math.ceil(len(curves) / columns)
    labels = list(dict.fromkeys(label for panel in curves.values() for label in panel))
    drawn: dict[str, Line2D] = {}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(3.6 * columns + 0.4, WIDEST_LEGEND), 2.9 * rows + 0.9), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for panel, (task, lines) in zip(axes.flat, curves.items(), strict=False):
            drawn |= _curves(panel, lines, labels, baseline, against_time)
            panel.set_title(task, loc="left", fontweight="bold")
            panel.set_xlabel(xlabel)
            if not against_time:
                panel.xaxis.set_major_formatter(lambda value, _: short(int(value)))
            panel.set_xlim(left=0)
            panel.grid(color="#eeeeee")
            panel.set_axisbelow(True)
        for panel in axes.flat[len(curves) :]:
            panel.set_visible(False)
        for row in axes:
            row[0].set_ylabel("return, last 100 episodes")
        figure.legend(
            list(drawn.values()), [shown(label) for label in drawn], loc="outside upper center", ncols=4, frameon=False
        )
        figure.savefig(path, dpi=DPI)


def _curves(
    panel: Axes, lines: Mapping[str, Sequence[Result]], labels: Sequence[str], baseline: str, against_time: bool
) -> dict[str, Line2D]:
    """A line with its interval for each label of a task, the baseline's thicker: label → line."""
    colour = colours(labels)
    drawn = {}
    for label, results in lines.items():
        steps, returns, minutes = on_grid(results)
        x = minutes.mean(axis=0) if against_time else steps
        middle, low, high = bootstrap_curve(returns, iqm)
        width = 2.4 if label == baseline else 1.4
        (drawn[label],) = panel.plot(x, middle, color=colour[label], linewidth=width)
        panel.fill_between(x, low, high, color=colour[label], alpha=0.15, linewidth=0)
    return drawn


def profile(scores: Mapping[str, Sequence[Sequence[float]]], path: Path) -> None:
    """
    Share of the runs above each scaled return, with bootstrap interval.

    :param scores: label → tasks; of each its seeds' scores. At most ``MOST_LINES`` labels can be told apart.
    :param path: of the PNG
    """
    every = [score for tasks in scores.values() for task in tasks for score in task]
    low, high = min(0.0, *every), max(0.0, *every)
    margin = 0.03 * (high - low)
    thresholds = np.linspace(low - margin, high + margin, THRESHOLDS)
    colour = colours(list(scores))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6, 3.6), layout="constrained")
        axes: Axes = figure.subplots()
        for label, tasks in scores.items():
            share, lower, upper = performance_profile(tasks, thresholds.tolist())
            axes.plot(thresholds, share, color=colour[label], label=shown(label))
            axes.fill_between(thresholds, lower, upper, color=colour[label], alpha=0.18, linewidth=0)
        axes.set_xlabel("scaled return τ (0: random, 1: good)")
        axes.set_ylabel("share of runs above τ")
        axes.set_ylim(-0.02, 1.02)
        axes.grid(color="#eeeeee")
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper center", ncols=3, frameon=False)
        figure.savefig(path, dpi=DPI)


def improvement(estimates: Mapping[tuple[str, str], Estimate], baseline: str, path: Path) -> None:
    """
    Probability of improvement over the baseline with its interval: rows for tasks, colours for labels.

    :param estimates: label and task → estimate; a few labels, or the two exchanged
    :param baseline: label
    :param path: of the PNG
    """
    labels = list(dict.fromkeys(label for label, _ in estimates))
    tasks = list(dict.fromkeys(task for _, task in estimates))
    colour = colours(labels)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6, 1.1 + 0.22 * len(tasks) * (1 + len(labels))), layout="constrained")
        axes: Axes = figure.subplots()
        for i, label in enumerate(labels):
            rows = [
                tasks.index(task) + (i - (len(labels) - 1) / 2) * 0.8 / len(labels)
                for one, task in estimates
                if one == label
            ]
            found = [estimate for (one, _), estimate in estimates.items() if one == label]
            axes.errorbar(
                [one.value for one in found], rows,
                xerr=[[max(one.value - one.low, 0) for one in found], [max(one.high - one.value, 0) for one in found]],
                fmt="o", markersize=4.5, elinewidth=1.2, color=colour[label], label=shown(label),
            )  # fmt: skip
        axes.axvline(0.5, color="#999999", linewidth=1, linestyle="--")
        axes.set_yticks(range(len(tasks)), tasks)
        axes.set_ylim(len(tasks) - 0.4, -0.6)
        axes.set_xlim(-0.03, 1.03)
        axes.set_xlabel(f"probability of a higher return than {shown(baseline)}")
        axes.grid(axis="x", color="#eeeeee")
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0.1)
        figure.savefig(path, dpi=DPI)
