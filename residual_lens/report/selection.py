"""Accuracies of choices of units, as curves with bands: one panel a data set and way to choose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from residual_lens.errors import InputError
from residual_lens.report.look import line_styles, plain_axes

LEVELS = ("-", "-.", ":")
"""Dashes of what does not depend on the choice: grey lines across the panel."""
LEGEND_LETTERS, LINE_LETTERS = 180, 7
"""How many letters the figure's width holds, and what a line beside its name takes up of them."""


@dataclass(frozen=True)
class AccuracyCurve:
    """Accuracies in [0, 1] at each of a panel's ticks, and the band around them."""

    accuracy: Sequence[float]
    """Where the line is."""
    low: Sequence[float]
    """Lower end of the band."""
    high: Sequence[float]
    """Upper end of the band."""


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
        _check(panel)
    styles = line_styles(name for panel in panels for name in panel.curves)
    levels = level_styles(panels)
    entries = {**styles, **levels}
    columns = max(1, LEGEND_LETTERS // (LINE_LETTERS + max(map(len, entries))))
    height = 1.2 + 2.0 * len(rows) + 0.25 * ceil(len(entries) / columns)
    figure = Figure(figsize=(13, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    grid = figure.subplots(len(rows), lengths[0], squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=True):
        accuracy_panel(axes, panel, styles, levels)
    for name, row in zip(rows, grid, strict=True):
        row[0].set_ylabel(f"{name}\naccuracy (%)")
    below = lengths[0]
    for place, (upper, lower) in enumerate(zip(panels[:-below], panels[below:], strict=True)):
        if upper.title == lower.title:
            grid.flat[place + below].set_title("", loc="left")
        if (upper.x_label, upper.ticks) == (lower.x_label, lower.ticks):
            grid.flat[place].set_xlabel("")
            grid.flat[place].tick_params(labelbottom=False)
    handles = [Line2D([], [], **style) for style in entries.values()]
    figure.legend(handles, list(entries), loc="outside lower left", ncols=columns, frameon=False)
    return figure


def accuracy_panel(
    axes: Axes,
    panel: AccuracyPanel,
    styles: Mapping[str, Mapping[str, Any]],
    levels: Mapping[str, Mapping[str, Any]],
) -> None:
    """Curves with bands, and levels behind them.

    Args:
        axes: where to draw.
        panel: what to draw.
        styles: of the curves, by name.
        levels: of the levels, by name.
    """
    for name, accuracy in panel.levels.items():
        axes.axhline(100 * accuracy, zorder=1, **levels[name])
    places = range(len(panel.ticks))
    for name, curve in panel.curves.items():
        low, middle, high = (100 * np.array(values, dtype=float) for values in (curve.low, curve.accuracy, curve.high))
        axes.fill_between(places, low, high, color=styles[name]["color"], alpha=0.14, linewidth=0)
        axes.plot(places, middle, markersize=5, linewidth=1.6, **styles[name])
    axes.set_title(panel.title, loc="left", fontsize=11)
    axes.set_xlabel(panel.x_label)
    axes.set_xticks(places, panel.ticks)
    axes.set_ylim(-2, 102)
    axes.set_yticks(range(0, 101, 20))
    plain_axes(axes)


def level_styles(panels: Sequence[AccuracyPanel]) -> Mapping[str, Mapping[str, Any]]:
    """Grey lines that differ in their dashes.

    Raises:
        InputError: more names than there are dashes.
    """
    names = list(dict.fromkeys(name for panel in panels for name in panel.levels))
    if len(names) > len(LEVELS):
        raise InputError(f"A figure tells {len(LEVELS)} levels apart, got {len(names)}: {', '.join(names)}.")
    return {
        name: {"color": "#777777", "linestyle": dashes, "linewidth": 1.2}
        for name, dashes in zip(names, LEVELS, strict=False)
    }


def _check(panel: AccuracyPanel) -> None:
    for name, curve in panel.curves.items():
        lines = [len(curve.low), len(curve.accuracy), len(curve.high)]
        if not len(panel.ticks) or set(lines) != {len(panel.ticks)}:
            raise InputError(
                f"{panel.title}: {name} has {', '.join(map(str, lines))} values (low, accuracy, high) for "
                f"{len(panel.ticks)} ticks, at least one."
            )
    values = {name: (*curve.low, *curve.accuracy, *curve.high) for name, curve in panel.curves.items()}
    for name, shares in {**values, **{name: (level,) for name, level in panel.levels.items()}}.items():
        # Written so that NaN is refused as well.
        if not all(0 <= share <= 1 for share in shares):
            raise InputError(
                f"{panel.title}: accuracies of {name} are shares in [0, 1], got {', '.join(map(str, shares))}."
            )
