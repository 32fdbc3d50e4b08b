"""What is learned on one data set and used on another, as heat maps of accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from residual_lens.errors import InputError

STRONG = 0.6
"""Cells whose colour is further than this share of the scale from the middle bear white numbers."""


@dataclass(frozen=True, eq=False)
class TransferPanel:
    """What one panel shows."""

    title: str
    """Stands above it."""
    rows: Sequence[str]
    """Where what is used comes from."""
    accuracy: Float[np.ndarray, "row column"]
    """In [0, 1]."""
    reference: Float[np.ndarray, "column"]
    """Accuracies that colours compare with, in [0, 1]."""


def transfer_figure(panels: Sequence[TransferPanel], columns: Sequence[str], *, title: str, reference: str) -> Figure:
    """Heat maps side by side: numbers are accuracies in percent, colours their difference from a reference.

    Args:
        panels: at least one.
        columns: data sets that accuracies are of.
        title: stands above all panels.
        reference: what colours compare with.

    Raises:
        InputError: no panels, or names that do not fit the accuracies.
    """
    if not panels:
        raise InputError("A figure needs at least one panel, got none.")
    for panel in panels:
        expected = (len(panel.rows), len(columns))
        if panel.accuracy.shape != expected or panel.reference.shape != expected[1:]:
            raise InputError(
                f"{panel.title}: expected accuracies {list(expected)} and a reference {list(expected[1:])}, got "
                f"{list(panel.accuracy.shape)} and {list(panel.reference.shape)}."
            )
    figure = Figure(figsize=(1.5 + 6.2 * len(panels), 2.2 + 0.38 * max(len(panel.rows) for panel in panels)))
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    grid = figure.subplots(1, len(panels), squeeze=False)
    limit = max(float(np.abs(panel.accuracy - panel.reference).max()) for panel in panels) or 1.0
    images = [transfer_panel(axes, panel, columns, limit) for axes, panel in zip(grid.flat, panels, strict=True)]
    bar = figure.colorbar(images[-1], ax=list(grid.flat), shrink=0.8, label=f"points above {reference}")
    bar.outline.set_visible(False)
    return figure


def transfer_panel(axes: Axes, panel: TransferPanel, columns: Sequence[str], limit: float) -> AxesImage:
    """One heat map.

    Args:
        axes: where to draw.
        panel: what to draw.
        columns: names along the x axis.
        limit: difference at which colours end, in [0, 1].
    """
    difference = panel.accuracy - panel.reference
    image = axes.imshow(100 * difference, cmap="RdBu_r", vmin=-100 * limit, vmax=100 * limit, aspect="auto")
    for (row, column), accuracy in np.ndenumerate(panel.accuracy):
        colour = "white" if abs(difference[row, column]) > STRONG * limit else "#222222"
        weight = "bold" if panel.rows[row] == columns[column] else "normal"
        text = f"{100 * accuracy:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=9, color=colour, fontweight=weight)
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(panel.rows)), panel.rows)
    axes.set_title(panel.title, loc="left", fontsize=11)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return image
