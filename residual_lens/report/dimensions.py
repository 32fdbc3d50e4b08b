"""Dimensions of heads by layer: the paper's hunchback figure, for any models and data."""

from collections.abc import Mapping, Sequence
from math import ceil

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from residual_lens.dimensions import UnitDimensions
from residual_lens.errors import InputError
from residual_lens.figures.dimensions import MEASURES, dimensions
from residual_lens.figures.look import TITLE, legend_columns, line_styles, new_figure

SHOWN = ("linear", "two_nn", "linear_over_two_nn", "first_share")
"""Measures from the left."""
LEGEND_LETTERS = 160
"""How many letters the figure's width holds."""


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
    columns = legend_columns(labels, LEGEND_LETTERS)
    legend_rows = ceil(len(labels) / columns)
    figure = new_figure(13.0, 0.4 + 3.1 * len(results) + 0.25 * legend_rows)
    grid = figure.subplots(len(results), len(SHOWN), squeeze=False)
    for row, (model, by_data) in zip(grid, results.items(), strict=True):
        for axes, measure in zip(row, SHOWN, strict=True):
            dimensions(by_data, measure, share=share, styles=styles, axes=axes)
        row[0].set_title(f"{model}\n{MEASURES[SHOWN[0]].title}", **TITLE)
    handles = [Line2D([], [], **style) for style in styles.values()]
    figure.legend(handles, labels, loc="outside lower left", ncols=columns, frameon=False)
    return figure


def _counted(name: str, results: Mapping[str, Mapping[str, Sequence[UnitDimensions]]]) -> str:
    """A data set's name with its numbers of samples."""
    counts = sorted({head.n_samples for by_data in results.values() for head in by_data.get(name, ())})
    return f"{name} (n = {', '.join(f'{count:,}' for count in counts)})"
