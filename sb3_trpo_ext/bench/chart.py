"""The measurements as a picture: ratios of all cases, and what an update costs against its size."""

from pathlib import Path
from textwrap import shorten
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

# Part of training → colour.
COLOURS = {
    "end to end": "#000000",
    "rollout": "#0072b2",
    "policy update": "#d55e00",
    "critic": "#009e73",
}
GOAL = 3.0  # times faster: what this package is for
WIDTH = 6.5  # inches, of a panel
Document = dict[str, Any]


def draw(document: Document, path: Path) -> None:
    """
    One column for each device and number of threads: above, the ratios of the training cases and of whole updates;
    below, the policy update's time against the number of samples.

    :param document: as ``speed`` writes it
    :param path: of the PNG to write
    """
    places = list(dict.fromkeys(map(_place, document["results"])))
    training = [result for result in document["results"] if not result["case"].startswith("update/")]
    updates = [result for result in document["results"] if result["case"].startswith("update/")]
    if not places:
        return
    cases = list(dict.fromkeys(result["case"] for result in training))
    heights = [1.2 + 0.42 * len(cases)] * bool(training) + [4.2] * bool(updates)
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(WIDTH * len(places) + 1.5, sum(heights) + 0.6), layout="constrained")
        axes = figure.subplots(len(heights), len(places), squeeze=False, sharey="row", height_ratios=heights)
        for column, place in enumerate(places):
            panels = [row[column] for row in axes]
            if training:
                _ratios(panels.pop(0), [one for one in training if _place(one) == place], cases)
            if updates:
                _costs(panels.pop(0), [one for one in updates if _place(one) == place])
            axes[0][column].set_title(place, loc="left", fontweight="bold")
        figure.suptitle(_caption(document), fontsize=9, color="#555555")
        figure.savefig(path, dpi=120)


def _place(result: Document) -> str:
    """Where it was measured."""
    threads = f"{result['threads']} thread" + "s" * (result["threads"] > 1)
    return threads if result["device"] == "cpu" else str(result["device"])


def _ratios(axes: Axes, results: list[Document], cases: list[str]) -> None:
    """A row for each case, a dot with its range for each part."""
    for i, (part, colour) in enumerate(COLOURS.items()):
        offset = (i - (len(COLOURS) - 1) / 2) * 0.17
        rows = [(cases.index(one["case"]) + offset, one["parts"]) for one in results]
        summaries = [(row, parts[part]) for row, parts in rows if part in parts]
        axes.errorbar(
            [summary["ratio"] for _, summary in summaries],
            [row for row, _ in summaries],
            xerr=[
                [summary["ratio"] - summary["lowest"] for _, summary in summaries],
                [summary["highest"] - summary["ratio"] for _, summary in summaries],
            ],
            fmt="o", markersize=4.5, elinewidth=1, color=colour, label=part,
        )  # fmt: skip
    axes.axvline(1.0, color="#999999", linewidth=1)
    axes.axvline(GOAL, color="#999999", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(cases)), cases)
    axes.set_ylim(len(cases) - 0.4, -0.6)
    _ratio_scale(axes)
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.set_xlabel(f"times as fast as sb3-contrib (median and range; dashed: {GOAL:.0f})")
    axes.legend(loc="lower left", bbox_to_anchor=(0.15, 1.0), ncols=4, frameon=False, borderaxespad=0.1)


def _ratio_scale(axes: Axes) -> None:
    """Logarithmic, with 1 and the goal always in sight."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.9), max(high, 1.1 * GOAL))
    axes.set_xticks([tick for tick in (0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 50, 100) if low <= tick <= max(high, GOAL)])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _costs(axes: Axes, results: list[Document]) -> None:
    """Time of the policy update against samples, a line for each network, side and variant."""
    lines = _updates_by_network(results)
    styles = dict(zip(dict.fromkeys(network for network, _ in lines), ("-", "--", ":"), strict=False))
    for (network, variant), updates in lines.items():
        samples = [one["samples"] for one in updates]
        summaries = [one["parts"]["policy update"] for one in updates]
        style = styles.get(network, "-")
        if not variant:
            axes.plot(
                samples, [one["contrib_seconds"] * 1e3 for one in summaries],
                "o", linestyle=style, markersize=4, color="#999999", label=f"sb3-contrib, {network}",
            )  # fmt: skip
        axes.plot(
            samples, [one["ours_seconds"] * 1e3 for one in summaries],
            "o", linestyle=style, markersize=4, color="#56b4e9" if variant else "#d55e00",
            label=f"ours, {network}" + f", {variant}" * bool(variant),
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sorted({one["samples"] for one in results}))
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
    axes.set_xlabel("samples in the rollout")
    axes.set_ylabel("policy update without critic, ms")
    axes.legend(frameon=False, fontsize=8)


def _updates_by_network(results: list[Document]) -> dict[tuple[str, str], list[Document]]:
    """Network and variant → results, the smallest rollout first. Without a variant its name is empty."""
    lines: dict[tuple[str, str], list[Document]] = {}
    for one in results:
        _, network, _, *variant = one["case"].split("/")
        lines.setdefault((network, variant[0] if variant else ""), []).append(one)
    return {name: sorted(updates, key=lambda one: int(one["samples"])) for name, updates in lines.items()}


def _caption(document: Document) -> str:
    machine, versions = document["machine"], document["versions"]
    parts = [
        document["command"],
        f"{machine['cpu']}, {machine['cores']} cores",
        machine.get("gpu", ""),
        f"sb3-contrib {versions.get('sb3-contrib')}, torch {versions.get('torch')}",
        f"commit {document['commit']}" if document["commit"] else "",
        f"load {document['load_average']} at the start",
    ]
    command = shorten(parts[0], 110, placeholder=" …")
    return "\n".join([command, ", ".join(filter(None, parts[1:]))])
