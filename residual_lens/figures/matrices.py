"""Matrices of what one thing does to another: effects of ablations, accuracies of what was carried over."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from residual_lens.errors import InputError
from residual_lens.figures.cells import Colours, colour_bar, heat_map, name_rows_and_columns, written
from residual_lens.figures.checks import Matrix, named, numbers
from residual_lens.figures.look import INK, TITLE, axes_or_new

Mask = Bool[np.ndarray, "_ _"]


def effects(
    values: Matrix,
    rows: Sequence[str],
    columns: Sequence[str] | None = None,
    *,
    certain: Mask | None = None,
    largest: float | None = None,
    label: str = "",
    title: str = "",
    bar: bool = True,
    axes: Axes | None = None,
) -> Axes:
    """Heat map of signed effects: red above 0, blue below. A cell whose row and column have one name is framed.

    Args:
        values: `[row column]`, what is done to the column by what the row names.
        rows: names, the first on top.
        columns: names; those of the rows by default.
        certain: cells that are told from 0; their numbers are bold, and all others grey. By default no cell is either.
        largest: where the colours end, on both sides of 0, which makes maps comparable; the largest size by default.
        label: of the colour bar: what the numbers are, and their scale.
        title: stands above.
        bar: whether a colour bar stands beside; maps that share one, of `axes.collections[0]`, need only one.
        axes: where to draw; a figure of its own by default.

    Returns:
        The axes.

    Raises:
        InputError: other numbers of names than there are rows and columns, a mask of another shape, or NaN.

    Example:
        >>> axes = effects(np.array([[12.0, -3.0], [0.5, 8.0]]), ["colour", "shape"], label="points lost")
        >>> axes.collections[0].get_clim(), len(axes.patches)
        ((-12.0, 12.0), 2)
    """
    columns = rows if columns is None else columns
    found = named(values, rows, columns, "effects")
    if certain is not None and certain.shape != found.shape:
        raise InputError(f"certain has a cell for each effect, {list(found.shape)}, got {list(certain.shape)}.")
    axes = _axes_for(axes, rows, columns)
    colours = Colours.differences(float(np.abs(found).max()) if largest is None else largest)
    mesh = heat_map(
        axes, found, colours, written(found, ".1f"), bold=certain, faded=None if certain is None else ~certain
    )
    _finish(axes, rows, columns, title)
    if bar:
        colour_bar(mesh, axes, label)
    return axes


def transfer(
    accuracies: Matrix,
    reference: Float[Tensor, "_"] | Float[np.ndarray, "_"],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    largest: float | None = None,
    label: str = "points above the reference",
    title: str = "",
    bar: bool = True,
    axes: Axes | None = None,
) -> Axes:
    """Accuracies by where something comes from and where it is used, coloured by their difference from a reference.

    A cell whose row and column have one name is framed and bold.

    Args:
        accuracies: `[row column]` in [0, 1].
        reference: accuracy that each column is compared with, in [0, 1].
        rows: names of what is used, the first on top.
        columns: names of what it is used on.
        largest: where the colours end on both sides of the reference, in [0, 1]; the largest difference by default.
        label: of the colour bar, in points.
        title: stands above.
        bar: as for `effects`.
        axes: where to draw; a figure of its own by default.

    Returns:
        The axes. Numbers are in percent.

    Raises:
        InputError: other numbers of names or references than there are rows and columns, or values outside [0, 1].

    Example:
        >>> axes = transfer(np.array([[0.5, 0.4], [0.9, 0.3]]), np.array([0.5, 0.4]), ["none", "dtd"], ["dtd", "svhn"])
        >>> [text.get_text() for text in axes.texts]
        ['50', '40', '90', '30']
    """
    found = named(accuracies, rows, columns, "accuracies")
    against = numbers(reference, "reference", 1)
    if len(against) != len(columns):
        raise InputError(f"Expected a reference for each of {len(columns)} columns, got {len(against)}.")
    if min(found.min(), against.min()) < 0 or max(found.max(), against.max()) > 1:
        raise InputError("Accuracies and references are shares in [0, 1].")
    difference = 100 * (found - against)
    axes = _axes_for(axes, rows, columns)
    colours = Colours.differences(float(np.abs(difference).max()) if largest is None else 100 * largest)
    own = np.array([[row == column for column in columns] for row in rows])
    mesh = heat_map(axes, difference, colours, written(100 * found, ".0f"), bold=own)
    _finish(axes, rows, columns, title)
    if bar:
        colour_bar(mesh, axes, label)
    return axes


def _axes_for(axes: Axes | None, rows: Sequence[str], columns: Sequence[str]) -> Axes:
    height = max(2.6, min(1.6 + 0.34 * len(rows), 9.0))
    return axes_or_new(axes, max(3.6, min(2.4 + 0.48 * len(columns), 10.0)), height)


def _finish(axes: Axes, rows: Sequence[str], columns: Sequence[str], title: str) -> None:
    name_rows_and_columns(axes, rows, columns)
    axes.set_title(title, **TITLE)
    for row, name in enumerate(rows):
        for column, other in enumerate(columns):
            if name == other:
                corner = (column - 0.5, row - 0.5)
                axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=INK, linewidth=1.2))
