"""What ablations do to known attributes: effect matrices, and dots with intervals beside random draws."""

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from residual_lens.errors import InputError
from residual_lens.report.look import LINES

COLUMNS = 2
"""Matrices side by side."""
DARK = 0.6
"""Share of the largest value from which numbers are white."""
SPREAD = 0.72
"""Share of a row's height that its series fill."""

Estimate = Sequence[float]
"""Value, and lower and upper end of its interval."""


def effect_figure(
    effects: Mapping[str, Float[np.ndarray, "attribute attribute"]],
    attributes: Sequence[str],
    *,
    certain: Mapping[str, Bool[np.ndarray, "attribute attribute"]],
    title: str,
    label: str,
) -> Figure:
    """A heat map each: what is lost of the attribute of a column when heads chosen for that of the row are ablated.

    All maps share one colour scale, symmetric around 0. Cells that are not `certain` have their number in grey; what
    was chosen for is framed.

    Args:
        effects: by title of the map, row chosen for × column measured.
        attributes: names of rows and columns.
        certain: as `effects`, whether the cell is told from 0.
        title: stands above.
        label: of the colour scale.

    Raises:
        InputError: no maps, or maps that are not attribute × attribute or not finite.
    """
    expected = (len(attributes), len(attributes))
    if not effects or any(each.shape != expected for each in (*effects.values(), *certain.values())):
        raise InputError(f"Expected at least one map of {expected[0]} × {expected[1]} attributes, got {list(effects)}.")
    if set(certain) != set(effects) or not all(np.isfinite(each).all() for each in effects.values()):
        raise InputError("Every map needs finite numbers and a mask of which of them are certain.")
    rows = ceil(len(effects) / COLUMNS)
    figure = Figure(figsize=(14, 0.8 + (1.6 + 0.42 * len(attributes)) * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    largest = max(float(np.abs(each).max()) for each in effects.values()) or 1.0
    grid = figure.subplots(rows, COLUMNS, squeeze=False)
    for axes in grid.flat[len(effects) :]:
        axes.set_axis_off()
    for place, (axes, (name, values)) in enumerate(zip(grid.flat, effects.items(), strict=False)):
        _effects(axes, values, certain[name], attributes, largest)
        axes.set_title(name, loc="left", fontsize=11)
        if place % COLUMNS == 0:
            axes.set_ylabel("heads chosen for")
    bar = figure.colorbar(grid[0, 0].images[0], ax=grid, shrink=0.6, aspect=30, label=label)
    bar.outline.set_visible(False)
    return figure


def _effects(
    axes: Axes,
    values: Float[np.ndarray, "row column"],
    certain: Bool[np.ndarray, "row column"],
    attributes: Sequence[str],
    largest: float,
) -> None:
    axes.set_xticks(range(len(attributes)), attributes, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(attributes)), attributes)
    axes.imshow(values, cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if abs(value) > DARK * largest else "#111111" if certain[row, column] else "#999999"
        weight = "bold" if certain[row, column] else "normal"
        # Minus zero is zero.
        text = f"{round(value, 1) + 0.0:.1f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour, fontweight=weight)
    for place in range(len(attributes)):
        axes.add_patch(Rectangle((place - 0.5, place - 0.5), 1, 1, fill=False, edgecolor="#222222", linewidth=1.2))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def interval_figure(
    panels: Mapping[str, Mapping[str, Mapping[str, Estimate]]],
    *,
    random: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]] | None = None,
    title: str,
    labels: Sequence[str],
) -> Figure:
    """Dots with intervals: a panel each, a row for each name, a colour for each series; random draws as grey ticks.

    Args:
        panels: by title, then by row, then by series: value, lower and upper end. Rows and series are those of the
            first panel, of which others may lack some.
        random: in the same order, values of random draws beside a dot; where there are none they may be left out.
        title: stands above.
        labels: of the value axis of each panel.

    Raises:
        InputError: no panels, rows that the first has not, a label too many or too few, or more series than colours.
    """
    if not panels or len(labels) != len(panels):
        raise InputError(f"Expected at least one panel and a label for each, got {len(panels)} and {len(labels)}.")
    first = next(iter(panels.values()))
    rows = list(first)
    series = list(dict.fromkeys(name for by_series in first.values() for name in by_series))
    if not rows or any(not set(each) <= set(rows) for each in panels.values()):
        raise InputError(f"Every panel has rows of the first, at least one; these are {', '.join(rows) or 'none'}.")
    if len(series) > len(LINES):
        raise InputError(f"A figure tells {len(LINES)} series apart, got {len(series)}.")
    height = 1.3 + len(rows) * (0.22 + 0.16 * len(series))
    figure = Figure(figsize=(14, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (name, by_row), label in zip(grid, panels.items(), labels, strict=True):
        _dots(axes, by_row, (random or {}).get(name, {}), rows, series)
        axes.set_title(name, loc="left", fontsize=11)
        axes.set_xlabel(label)
    handles, names = grid[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower left", ncols=len(LINES) + 1, frameon=False)
    return figure


def _dots(
    axes: Axes,
    by_row: Mapping[str, Mapping[str, Estimate]],
    random: Mapping[str, Mapping[str, Sequence[float]]],
    rows: Sequence[str],
    series: Sequence[str],
) -> None:
    """One panel, its first row on top."""
    step = SPREAD / len(series)
    for place, name in enumerate(series):
        colour, marker = LINES[place]
        shift = (place - (len(series) - 1) / 2) * step
        there = [row for row, of_row in enumerate(rows) if name in by_row.get(of_row, {})]
        at = [row + shift for row in there]
        found = np.reshape([by_row[rows[row]][name] for row in there], (-1, 3))
        drawn = [(random.get(of_row, {}).get(name, ()), row + shift) for row, of_row in enumerate(rows)]
        for values, height in drawn:
            axes.plot(values, [height] * len(values), "|", color="#aaaaaa", markersize=5, zorder=1)
        axes.hlines(at, found[:, 1], found[:, 2], color=colour, linewidth=1.8, zorder=2)
        axes.plot(found[:, 0], at, marker, color=colour, markersize=5, label=name, zorder=3)
    if random:
        axes.plot([], [], "|", color="#aaaaaa", markersize=7, label="random draws")
    axes.axvline(0, color="#555555", linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    for edge in range(1, len(rows)):
        axes.axhline(edge - 0.5, color="#eeeeee", linewidth=0.8, zorder=0)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
