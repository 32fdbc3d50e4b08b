"""Accuracy against the numbers that were trained."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from residual_lens.errors import InputError
from residual_lens.report.training_table import TrainingTable

MARKERS = "osD^v<>pPX*h"
"""One a method, so that colour is never the only sign."""


def training_figure(table: TrainingTable) -> Figure:
    """The average over data sets of each method, with its standard deviation over seeds, by the numbers trained.

    Of a method whose numbers differ between data sets the most are shown. Zero stands left of one.

    Args:
        table: of `training_tables`.

    Raises:
        InputError: no method has an average.
    """
    rows = [row for row in table.rows if row.cells[-1] is not None]
    if not rows:
        raise InputError(f"No method of {table.model} has all its data sets: there is no average to draw.")
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, row in enumerate(rows):
        average = row.cells[-1]
        if average is not None:
            axes.errorbar(
                row.parameters[1],
                100 * average.mean,
                yerr=100 * (average.sd or 0),
                marker=MARKERS[place % len(MARKERS)],
                color=f"C{place % 10}",
                linestyle="none",
                capsize=2,
                label=row.label,
            )
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(left=-0.5)
    axes.set_xlabel("numbers trained")
    axes.set_ylabel("test accuracy (%), average over data sets")
    axes.set_title(table.model, loc="left", fontweight="bold")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False)
    return figure
