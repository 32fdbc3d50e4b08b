"""Dimensions of heads by layer: the paper's hunchback figure, for any models and data."""

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from residual_lens.dimensions import UnitDimensions
from residual_lens.errors import InputError
from residual_lens.report.look import line_styles, plain_axes
from residual_lens.units import Unit

Measure = Callable[[UnitDimensions], float]


def linear_over_two_nn(head: UnitDimensions) -> float:
    """NaN for a head that does not vary."""
    return head.linear / head.two_nn if head.two_nn else np.nan


MEASURES: dict[str, tuple[str, Measure]] = {
    "linear dimension": ("components with {share:g} % of the variance", lambda head: head.linear),
    "TwoNN dimension": ("intrinsic dimension", lambda head: head.two_nn),
    "linear / TwoNN": ("ratio of the two dimensions", linear_over_two_nn),
    "first component": ("share of the variance (%)", lambda head: 100 * head.first_share),
}
"""Title, axis label and value of each panel."""
LEGEND_LETTERS, LINE_LETTERS = 160, 7
"""How many letters the figure's width holds, and what a line beside its name takes up of them."""


def dimensions_figure(results: Mapping[str, Mapping[str, Sequence[UnitDimensions]]], *, share: float = 0.99) -> Figure:
    """One row of panels a model: each measure by layer, one line a data set, mean and range over the layer's heads.

    Args:
        results: heads' dimensions by model and data set.
        share: of the variance, that linear dimensions were measured with.

    Raises:
        InputError: no results, units that belong to no layer, or more data sets than lines can be told apart.
    """
    if not results or not all(results.values()):
        raise InputError("A figure of dimensions needs at least one data set for each of at least one model.")
    styles = line_styles(name for by_data in results.values() for name in by_data)
    labels = [_counted(name, results) for name in styles]
    columns = max(1, LEGEND_LETTERS // (LINE_LETTERS + max(map(len, labels))))
    legend_rows = ceil(len(labels) / columns)
    figure = Figure(figsize=(13, 0.4 + 3.1 * len(results) + 0.25 * legend_rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(results), len(MEASURES), squeeze=False)
    for row, (model, by_data) in zip(grid, results.items(), strict=True):
        for axes, measure in zip(row, MEASURES, strict=True):
            dimension_panel(axes, by_data, measure, styles, share=share)
        row[0].set_title(f"{model}\n{next(iter(MEASURES))}", loc="left", fontsize=11)
    handles = [Line2D([], [], **style) for style in styles.values()]
    figure.legend(handles, labels, loc="outside lower left", ncols=columns, frameon=False)
    return figure


def dimension_panel(
    axes: Axes,
    by_data: Mapping[str, Sequence[UnitDimensions]],
    measure: str,
    styles: Mapping[str, Mapping[str, Any]],
    *,
    share: float,
) -> None:
    """One measure by layer: the line is the mean over the layer's heads, the band their range.

    Args:
        axes: where to draw.
        by_data: heads' dimensions by data set.
        measure: a key of `MEASURES`.
        styles: of the lines, by data set.
        share: of the variance, that linear dimensions were measured with.
    """
    label, value = MEASURES[measure]
    for name, heads in by_data.items():
        by_layer = _by_layer(heads, value)
        layers = sorted(by_layer)
        lows, means, highs = ([float(of(by_layer[layer])) for layer in layers] for of in (np.min, np.mean, np.max))
        axes.fill_between(layers, lows, highs, color=styles[name]["color"], alpha=0.12, linewidth=0)
        axes.plot(layers, means, markersize=5, linewidth=1.6, label=name, **styles[name])
    axes.set_title(measure, loc="left", fontsize=11)
    axes.set_ylabel(label.format(share=100 * share))
    axes.set_xlabel("layer")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    plain_axes(axes)


def _by_layer(heads: Sequence[UnitDimensions], value: Measure) -> dict[int, Float[np.ndarray, "head"]]:
    """Values of the heads that have one."""
    layers: dict[int, list[float]] = {}
    for head in heads:
        layer = Unit.named(head.unit).layer
        if layer is None:
            raise InputError(f"Dimensions are drawn by layer, and {head.unit} belongs to none: leave it out.")
        layers.setdefault(layer, []).append(value(head))
    # A head that does not vary has no ratio.
    return {
        layer: np.array(values, dtype=float)[~np.isnan(values)]
        for layer, values in layers.items()
        if not np.isnan(values).all()
    }


def _counted(name: str, results: Mapping[str, Mapping[str, Sequence[UnitDimensions]]]) -> str:
    """A data set's name with its numbers of samples."""
    counts = sorted({head.n_samples for by_data in results.values() for head in by_data.get(name, ())})
    return f"{name} (n = {', '.join(f'{count:,}' for count in counts)})"
