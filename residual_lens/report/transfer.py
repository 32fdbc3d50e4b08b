"""What is learned on one data set and used on another, as heat maps of accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from residual_lens.errors import InputError
from residual_lens.figures.cells import colour_bar
from residual_lens.figures.look import new_figure
from residual_lens.figures.matrices import transfer


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
    height = 2.2 + 0.38 * max(len(panel.rows) for panel in panels)
    figure = new_figure(1.5 + 6.2 * len(panels), height, title=title)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    largest = max(float(np.abs(panel.accuracy - panel.reference).max()) for panel in panels)
    for axes, panel in zip(grid, panels, strict=True):
        transfer(
            panel.accuracy,
            panel.reference,
            panel.rows,
            columns,
            largest=largest,
            title=panel.title,
            bar=False,
            axes=axes,
        )
    colour_bar(grid[-1].collections[0], list(grid), f"points above {reference}")
    return figure
