"""Spectral similarity of heads between data sets, as heat maps."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from residual_lens.errors import InputError

MOST_NUMBERS = 150
"""Cells that have room for their value."""


def similarity_figure(by_pair: Float[np.ndarray, "data data layer head"], data: Sequence[str], *, title: str) -> Figure:
    """On the left the mean over heads for each pair of data sets, on the right by layer and head over all pairs.

    Args:
        by_pair: similarity of the same head between two data sets, in [0, 1]; where both are the same data set, that of
            two halves of it.
        data: names along the first two axes, at least two.
        title: stands above both panels.

    Raises:
        InputError: fewer than two data sets, or another number of names.
    """
    if len(data) < 2 or by_pair.shape[:2] != (len(data), len(data)):
        raise InputError(
            f"Expected [data data layer head] of the {len(data)} data sets named, at least two, got "
            f"{list(by_pair.shape)}."
        )
    figure = Figure(figsize=(13, max(4.2, 1.8 + 0.5 * len(data))), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    pairs_panel(left, by_pair.mean(axis=(2, 3)), data)
    distinct = ~np.eye(len(data), dtype=bool)
    image = heads_panel(right, by_pair[distinct].mean(axis=0))
    bar = figure.colorbar(image, ax=[left, right], shrink=0.8, label="spectral cosine, weighted by variance")
    bar.outline.set_visible(False)
    return figure


def pairs_panel(axes: Axes, similarity: Float[np.ndarray, "data data"], data: Sequence[str]) -> AxesImage:
    """Data × data heat map."""
    axes.set_xticks(range(len(data)), data, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(data)), data)
    axes.set_title("Mean over heads; diagonal: two halves of one data set", loc="left", fontsize=11)
    return _heat_map(axes, similarity, origin="upper")


def heads_panel(axes: Axes, similarity: Float[np.ndarray, "layer head"]) -> AxesImage:
    """Layer × head heat map, the first layer at the bottom."""
    layers, heads = similarity.shape
    axes.set_xticks(range(heads))
    axes.set_yticks(range(layers))
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.set_title("By head, mean over pairs of different data sets", loc="left", fontsize=11)
    return _heat_map(axes, similarity, origin="lower")


def _heat_map(axes: Axes, values: Float[np.ndarray, "row column"], *, origin: Literal["upper", "lower"]) -> AxesImage:
    image = axes.imshow(values, cmap="viridis", vmin=0, vmax=1, aspect="auto", origin=origin)
    if values.size <= MOST_NUMBERS:
        for (row, column), value in np.ndenumerate(values):
            colour = "white" if value < 0.6 else "#222222"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return image
