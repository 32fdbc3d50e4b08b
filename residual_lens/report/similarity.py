"""Spectral similarity of heads between data sets, as heat maps."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from residual_lens.errors import InputError
from residual_lens.figures.cells import colour_bar
from residual_lens.figures.look import new_figure
from residual_lens.figures.similarity import similarity
from residual_lens.figures.unit_maps import unit_map


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
    figure = new_figure(13.0, max(4.2, 1.8 + 0.5 * len(data)), title=title)
    left, right = figure.subplots(1, 2)
    pairs = "Mean over heads; diagonal: two halves of one data set"
    similarity(by_pair.mean(axis=(2, 3)), data, title=pairs, bar=False, axes=left)
    of_heads = by_pair[~np.eye(len(data), dtype=bool)].mean(axis=0)
    by_head = "By head, mean over pairs of different data sets"
    unit_map(of_heads, title=by_head, limits=(0.0, 1.0), bar=False, axes=right)
    colour_bar(right.collections[0], [left, right], "spectral cosine, weighted by variance")
    return figure
