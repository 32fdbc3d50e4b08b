"""Dimensions of heads by layer: the paper's hunchback figure, for any models and data."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from residual_lens.dimensions import UnitDimensions
from residual_lens.report.look import LINES, plain_axes
from residual_lens.units import Unit

Measure = Callable[[UnitDimensions], float]

MEASURES: dict[str, tuple[str, Measure]] = {
    "linear dimension": ("components with 99 % of the variance", lambda unit: unit.linear),
    "TwoNN dimension": ("intrinsic dimension", lambda unit: unit.two_nn),
    "linear / TwoNN": ("how curved: 1 is flat", lambda unit: unit.linear / unit.two_nn if unit.two_nn else np.nan),
    "first component": ("share of the variance (%)", lambda unit: 100 * unit.first_share),
}
"""Title, axis label and value of each panel."""


def dimensions_figure(results: Mapping[str, Mapping[str, Sequence[UnitDimensions]]]) -> Figure:
    """One row of panels a model: each measure by layer, one line a data set, mean and range over the layer's heads.

    Args:
        results: heads' dimensions by model and data set.
    """
    figure = Figure(figsize=(13, 0.7 + 2.9 * len(results)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(results), len(MEASURES), squeeze=False)
    for row, (model, by_data) in zip(grid, results.items(), strict=True):
        for axes, title in zip(row, MEASURES, strict=True):
            dimension_panel(axes, by_data, title)
        row[0].set_title(f"{model}\n{row[0].get_title(loc='left')}", loc="left", fontsize=11)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=min(len(labels), 7), frameon=False)
    return figure


def dimension_panel(axes: Axes, by_data: Mapping[str, Sequence[UnitDimensions]], measure: str) -> None:
    """One measure by layer: the line is the mean over the layer's heads, the band their range.

    Args:
        axes: where to draw.
        by_data: heads' dimensions by data set.
        measure: a key of `MEASURES`.
    """
    label, value = MEASURES[measure]
    for (name, heads), (colour, marker) in zip(by_data.items(), LINES, strict=False):
        by_layer = _by_layer(heads, value)
        layers = np.arange(len(by_layer))
        means = [float(np.nanmean(values)) for values in by_layer]
        lows, highs = ([float(edge(values)) for values in by_layer] for edge in (np.nanmin, np.nanmax))
        axes.fill_between(layers, lows, highs, color=colour, alpha=0.12, linewidth=0)
        axes.plot(layers, means, color=colour, marker=marker, markersize=5, linewidth=1.6, label=name)
    axes.set_title(measure, loc="left", fontsize=11)
    axes.set_ylabel(label)
    axes.set_xlabel("layer")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain_axes(axes)


def _by_layer(heads: Sequence[UnitDimensions], value: Measure) -> list[Float[np.ndarray, "head"]]:
    layers: dict[int, list[float]] = {}
    for head in heads:
        layer = Unit.named(head.unit).layer
        layers.setdefault(-1 if layer is None else layer, []).append(value(head))
    return [np.array(layers[layer]) for layer in sorted(layers)]
