"""Accuracies of choices of units, as curves with bands: one panel a data set and way to choose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from residual_lens.errors import InputError
from residual_lens.figures.curves import AccuracyCurve, accuracy_curves, check_curves
from residual_lens.figures.look import legend_columns, level_styles, line_styles, new_figure

LEGEND_LETTERS = 180
"""How many letters the figure's width holds."""


@dataclass(frozen=True)
class AccuracyPanel:
    """What one panel shows."""

    title: str
    """Stands above it."""
    x_label: str
    """What the ticks count."""
    ticks: Sequence[str]
    """Labels along the x axis, evenly spaced."""
    curves: Mapping[str, AccuracyCurve]
    """By name; a name has one style in the whole figure."""
    levels: Mapping[str, float] = field(default_factory=dict)
    """Accuracies to compare with, across the panel."""


def selection_figure(rows: Mapping[str, Sequence[AccuracyPanel]], *, title: str) -> Figure:
    """A grid of panels with one legend; what a panel shares with the one above it stands only once.

    Args:
        rows: panels by row, as many in each; a row's name stands beside it.
        title: stands above the grid.

    Raises:
        InputError: no panels, rows of different length, a curve with another number of values than there are ticks,
            values outside [0, 1], or more names than can be told apart.
    """
    lengths = [len(row) for row in rows.values()]
    if len(set(lengths)) != 1 or not lengths[0]:
        raise InputError(f"Expected rows of equally many panels, at least one, got {lengths}.")
    panels = [panel for row in rows.values() for panel in row]
    for panel in panels:
        check_curves(panel.title, panel.curves, panel.ticks, panel.levels)
    styles = {
        **line_styles(name for panel in panels for name in panel.curves),
        **level_styles(name for panel in panels for name in panel.levels),
    }
    columns = legend_columns(styles, LEGEND_LETTERS)
    figure = new_figure(13.0, 1.2 + 2.0 * len(rows) + 0.25 * ceil(len(styles) / columns), title=title)
    grid = figure.subplots(len(rows), lengths[0], squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=True):
        accuracy_curves(
            panel.curves,
            panel.ticks,
            levels=panel.levels,
            x_label=panel.x_label,
            title=panel.title,
            styles=styles,
            axes=axes,
        )
        axes.set_ylabel("")
    for name, row in zip(rows, grid, strict=True):
        row[0].set_ylabel(f"{name}\naccuracy (%)")
    below = lengths[0]
    for place, (upper, lower) in enumerate(zip(panels[:-below], panels[below:], strict=True)):
        if upper.title == lower.title:
            grid.flat[place + below].set_title("", loc="left")
        if (upper.x_label, upper.ticks) == (lower.x_label, lower.ticks):
            grid.flat[place].set_xlabel("")
            grid.flat[place].tick_params(labelbottom=False)
    handles = [Line2D([], [], **style) for style in styles.values()]
    figure.legend(handles, list(styles), loc="outside lower left", ncols=columns, frameon=False)
    return figure
