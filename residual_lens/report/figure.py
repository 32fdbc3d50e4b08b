"""The figure of the demo: what each method reaches on each task, and where ResiDual's scales act."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from residual_lens.figures.comparison import comparison
from residual_lens.figures.look import Style, new_figure
from residual_lens.figures.unit_maps import unit_map

STYLES: Mapping[str, Style] = {
    "zero-shot": {"color": "#000000", "marker": "o"},
    "coarse": {"color": "#999999", "marker": "v"},
    "residual*": {"color": "#E69F00", "marker": "s"},
    "residual": {"color": "#0072B2", "marker": "D"},
    "linear": {"color": "#CC79A7", "marker": "^"},
}
ENDS = ("zero-shot", "residual")


def demo_figure(
    tasks: Mapping[str, Mapping[str, Any]], change: Float[np.ndarray, "layer column"], *, title: str
) -> Figure:
    """Two panels: accuracy by task and method, and the share of ResiDual's change by unit.

    Args:
        tasks: results by task, as for `results_table`.
        change: share of the edit's energy of each head (last column: the MLP), averaged over tasks; sums to 1.
        title: stands above both panels.
    """
    figure = new_figure(12.0, max(3.6, 1.6 + 0.36 * len(tasks)), title=title)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    accuracy_panel(left, tasks)
    _, columns = change.shape
    names = [f"L{layer}H{head}" for layer in range(len(change)) for head in range(columns - 1)]
    by_unit = dict(zip(names, 100 * change[:, :-1].ravel(), strict=True))
    by_unit |= {f"{layer}_mlp_out": 100 * share for layer, share in enumerate(change[:, -1])}
    unit_map(by_unit, title="Where the learned scales act: share of change (%), mean", axes=right)
    # The figure's, because the layout keeps what lies outside the axes clear of their labels, however many tasks.
    handles, labels = left.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower left", ncols=6, frameon=False, handletextpad=0.2, columnspacing=1.2
    )
    return figure


def accuracy_panel(axes: Axes, tasks: Mapping[str, Mapping[str, Any]]) -> None:
    """A row a task with a marker a method, from zero-shot to ResiDual; most gained on top."""
    order = sorted(tasks, key=lambda task: -_gain(tasks[task]))
    comparison(
        {task: {name: tasks[task]["methods"][name]["accuracy"] for name in STYLES} for task in order},
        ends=ENDS,
        chance={task: tasks[task]["chance"] for task in order},
        label="accuracy on held-out test images (%)",
        title="Before and after: five methods, one frozen model",
        styles=STYLES,
        axes=axes,
    )
    axes.set_xlim(0, 101)


def _gain(task: Mapping[str, Any]) -> float:
    before, after = (task["methods"][name]["accuracy"] for name in ENDS)
    return after - before
