"""The figure of the demo: what each method reaches on each task, and where ResiDual's scales act."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe & Ito's colour-blind safe palette, and a marker each so that colour is never the only sign.
STYLES = {
    "zero-shot": ("#000000", "o"),
    "coarse": ("#999999", "v"),
    "residual*": ("#E69F00", "s"),
    "residual": ("#0072B2", "D"),
    "linear": ("#CC79A7", "^"),
}


def demo_figure(
    tasks: Mapping[str, Mapping[str, Any]], change: Float[np.ndarray, "layer column"], *, title: str
) -> Figure:
    """Two panels: accuracy by task and method, and the share of ResiDual's change by unit.

    Args:
        tasks: results by task, as for `results_table`.
        change: share of the edit's energy of each head (last column: the MLP), averaged over tasks; sums to 1.
        title: stands above both panels.
    """
    figure = Figure(figsize=(12, max(3.6, 1.6 + 0.36 * len(tasks))), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    accuracy_panel(left, tasks)
    change_panel(right, change)
    # The figure's, because the layout keeps what lies outside the axes clear of their labels, however many tasks.
    handles, labels = left.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower left", ncols=6, frameon=False, handletextpad=0.2, columnspacing=1.2
    )
    return figure


def accuracy_panel(axes: Axes, tasks: Mapping[str, Mapping[str, Any]]) -> None:
    """One line a task from zero-shot to ResiDual, a marker a method, a tick at chance; most gained on top."""
    order = sorted(tasks, key=lambda task: _gain(tasks[task]))
    for row, task in enumerate(order):
        methods = tasks[task]["methods"]
        before, after = (100 * methods[name]["accuracy"] for name in ("zero-shot", "residual"))
        axes.plot(
            [before, after], [row, row], color="#0072B2", linewidth=3, alpha=0.25, solid_capstyle="butt", zorder=1
        )
        axes.plot(100 * tasks[task]["chance"], row, marker="|", color="#666666", markersize=10, zorder=2)
        for name, (colour, marker) in STYLES.items():
            axes.plot(
                100 * methods[name]["accuracy"],
                row,
                marker=marker,
                color=colour,
                # The two ends of the line are filled; the others are outlines on top, so that none hides another.
                fillstyle="full" if name in ("zero-shot", "residual") else "none",
                markersize=8 if name in ("zero-shot", "residual") else 7,
                markeredgewidth=1.4,
                linestyle="none",
                zorder=3 if name in ("zero-shot", "residual") else 4,
                label=name if row == 0 else None,
            )
    axes.plot([], [], marker="|", color="#666666", markersize=10, linestyle="none", label="chance")
    axes.set_yticks(range(len(order)), order)
    axes.set_xlim(0, 101)
    axes.set_xlabel("accuracy on held-out test images (%)")
    axes.set_title("Before and after: five methods, one frozen model", loc="left", fontsize=11)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def change_panel(axes: Axes, change: Float[np.ndarray, "layer column"]) -> None:
    """Layer × head heat map, the MLP of each layer set apart on the right."""
    layers, columns = change.shape
    heads = columns - 1
    # An empty column sets MLPs apart: they are another kind of unit with many more scales.
    spaced = np.concatenate([change[:, :heads], np.full((layers, 1), np.nan), change[:, heads:]], axis=1)
    image = axes.imshow(100 * spaced, cmap="Blues", vmin=0, aspect="auto", origin="lower")
    limit = 100 * float(np.nanmax(spaced))
    for layer in range(layers):
        for column in [*range(heads), heads + 1]:
            share = 100 * spaced[layer, column]
            colour = "white" if share > 0.6 * limit else "#222222"
            axes.text(column, layer, f"{share:.1f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks([*range(heads), heads + 1], [*(str(head) for head in range(heads)), "MLP"])
    axes.set_yticks(range(layers), [str(layer) for layer in range(layers)])
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.set_title("Where the learned scales act: share of change (%), mean", loc="left", fontsize=11)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.7)
    bar.outline.set_visible(False)


def _gain(task: Mapping[str, Any]) -> float:
    return task["methods"]["residual"]["accuracy"] - task["methods"]["zero-shot"]["accuracy"]
