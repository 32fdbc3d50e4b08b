"""Spectral similarity of heads between data sets, as heat maps."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def similarity_figure(by_pair: Float[np.ndarray, "data data layer head"], data: Sequence[str], *, title: str) -> Figure:
    """On the left the mean over heads for each pair of data sets, on the right by layer and head over all pairs.

    Args:
        by_pair: similarity of the same head between two data sets.
        data: names along the first two axes.
        title: stands above both panels.
    """
    figure = Figure(figsize=(12.5, max(3.6, 1.6 + 0.5 * len(data))), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1))
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    pairs_panel(left, by_pair.mean(axis=(2, 3)), data)
    distinct = ~np.eye(len(data), dtype=bool)
    heads_panel(right, by_pair[distinct].mean(axis=0))
    return figure


def pairs_panel(axes: Axes, similarity: Float[np.ndarray, "data data"], data: Sequence[str]) -> None:
    """Data × data heat map."""
    _heat_map(axes, similarity)
    axes.set_xticks(range(len(data)), data, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(data)), data)
    axes.set_title("Between data sets, mean over heads", loc="left", fontsize=11)


def heads_panel(axes: Axes, similarity: Float[np.ndarray, "layer head"]) -> None:
    """Layer × head heat map."""
    _heat_map(axes, similarity)
    axes.invert_yaxis()
    layers, heads = similarity.shape
    axes.set_xticks(range(heads))
    axes.set_yticks(range(layers))
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.set_title("By head, mean over pairs of different data sets", loc="left", fontsize=11)


def _heat_map(axes: Axes, values: Float[np.ndarray, "row column"]) -> None:
    image = axes.imshow(values, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    if values.size <= 144:
        for (row, column), value in np.ndenumerate(values):
            colour = "white" if value < 0.6 else "#222222"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.8, label="spectral cosine")
    bar.outline.set_visible(False)
