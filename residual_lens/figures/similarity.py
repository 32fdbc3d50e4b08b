"""How alike things are, each with each: spectral cosines of units or of data sets."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from residual_lens.errors import InputError
from residual_lens.figures.cells import Colours, colour_bar, heat_map, name_rows_and_columns, written
from residual_lens.figures.checks import Matrix, named
from residual_lens.figures.look import TITLE, axes_or_new

ROUNDING_TOL = 1e-4
"""How far beyond [0, 1] rounding takes a cosine of float32 bases."""


def similarity(
    values: Matrix,
    rows: Sequence[str],
    columns: Sequence[str] | None = None,
    *,
    label: str = "spectral cosine",
    title: str = "",
    bar: bool = True,
    axes: Axes | None = None,
) -> Axes:
    """Heat map of similarities on the whole scale from 0 to 1, so that maps compare.

    Args:
        values: `[row column]` in [0, 1]; of `pairwise_spectral_cosine`, say.
        rows: names, the first on top.
        columns: names; those of the rows by default.
        label: of the colour bar.
        title: stands above.
        bar: whether a colour bar stands beside; maps that share one, of `axes.collections[0]`, need only one.
        axes: where to draw; a figure of its own by default.

    Returns:
        The axes.

    Raises:
        InputError: other numbers of names than there are rows and columns, NaN, or values outside [0, 1].

    Example:
        >>> import torch
        >>> axes = similarity(torch.tensor([[1.0, 0.4], [0.4, 1.0]]), ["digits", "random"])
        >>> [text.get_text() for text in axes.texts]
        ['1.00', '0.40', '0.40', '1.00']
    """
    columns = rows if columns is None else columns
    found = named(values, rows, columns, "similarities")
    if found.min() < -ROUNDING_TOL or found.max() > 1 + ROUNDING_TOL:
        raise InputError(f"Similarities lie in [0, 1], got {found.min():g} to {found.max():g}.")
    height = max(2.6, min(1.6 + 0.34 * len(rows), 9.0))
    axes = axes_or_new(axes, max(3.6, min(2.4 + 0.48 * len(columns), 10.0)), height)
    mesh = heat_map(axes, found, Colours.amounts(0.0, 1.0), written(found, ".2f"))
    name_rows_and_columns(axes, rows, columns)
    axes.set_title(title, **TITLE)
    if bar:
        colour_bar(mesh, axes, label)
    return axes
