"""What ablations do to known attributes: effect matrices, and dots with intervals beside random draws."""

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure

from residual_lens.errors import InputError
from residual_lens.figures.cells import colour_bar
from residual_lens.figures.intervals import Estimate, intervals
from residual_lens.figures.look import LINES, new_figure, point_styles
from residual_lens.figures.matrices import effects as effect_matrix

COLUMNS = 2
"""Matrices side by side."""


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
    figure = new_figure(14.0, 0.8 + (1.6 + 0.42 * len(attributes)) * rows, title=title)
    largest = max(float(np.abs(each).max()) for each in effects.values())
    grid = figure.subplots(rows, COLUMNS, squeeze=False)
    for axes in grid.flat[len(effects) :]:
        axes.set_axis_off()
    for place, (axes, (name, values)) in enumerate(zip(grid.flat, effects.items(), strict=False)):
        effect_matrix(values, attributes, certain=certain[name], largest=largest, title=name, bar=False, axes=axes)
        if place % COLUMNS == 0:
            axes.set_ylabel("heads chosen for")
    colour_bar(grid[0, 0].collections[0], list(grid.flat), label, shrink=0.6)
    return figure


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
    figure = new_figure(14.0, height, title=title)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    styles = point_styles(series)
    for axes, (name, by_row), label in zip(grid, panels.items(), labels, strict=True):
        drawn = (random or {}).get(name)
        intervals(by_row, random=drawn, rows=rows, label=label, title=name, styles=styles, axes=axes)
    handles, names = grid[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower left", ncols=len(LINES) + 1, frameon=False)
    return figure
