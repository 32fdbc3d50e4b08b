"""A number for every unit, by layer and head: scores, measures, and what λ does."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from residual_lens.bases import Bases
from residual_lens.errors import InputError, MismatchError
from residual_lens.figures.cells import Colours, colour_bar, heat_map, number_layers_and_columns, written
from residual_lens.figures.checks import numbers
from residual_lens.figures.look import TITLE, axes_or_new
from residual_lens.interventions import ResiDual
from residual_lens.selection import UnitScores
from residual_lens.units import Unit

LayersAndHeads = Float[Tensor, "layer head"] | Float[np.ndarray, "layer head"]
WIDEST = 4.0
"""The colours of factors end at least at this one and its inverse, so that small changes look small."""


def unit_map(
    values: UnitScores | Mapping[str, float] | LayersAndHeads,
    *,
    label: str = "",
    title: str = "",
    limits: tuple[float, float] | None = None,
    bar: bool = True,
    axes: Axes | None = None,
) -> Axes:
    """Layer × head heat map, the first layer at the bottom, the MLP of each layer set apart on the right.

    Amounts go from dark to light (viridis); where there are numbers below 0, red is above and blue below it.

    Args:
        values: `UnitScores`, numbers by name of the unit, or `[layer head]`. Units that are left out stay blank.
        label: of the colour bar: what the numbers are, and their scale.
        title: stands above.
        limits: where the colours end, which makes maps comparable; 0 (less, if numbers are negative) and the largest by
            default. If the first is below 0 colours diverge from 0, as far on both sides.
        bar: whether a colour bar stands beside; maps that share one, of `axes.collections[0]`, need only one.
        axes: where to draw; a figure of its own by default.

    Returns:
        The axes.

    Raises:
        InputError: no units, units without a layer (`embed`, `bias`), NaN, or limits the wrong way round.

    Example:
        >>> axes = unit_map({"L0H0": 0.2, "L0H1": 0.7, "0_mlp_out": 0.4}, label="share of the embedding")
        >>> [text.get_text() for text in axes.texts], axes.get_ylabel()
        (['0.20', '0.70', '0.40'], 'layer')
    """
    cells, columns = _cells(values)
    low, high = _limits(cells, limits)
    colours = Colours.differences(max(-low, high)) if low < 0 else Colours.amounts(low, high)
    return _drawn(axes, cells, columns, colours, written(cells), label if bar else None, title)


def scales(
    values: ResiDual | Mapping[str, float],
    bases: Bases | None = None,
    *,
    title: str = "",
    bar: bool = True,
    axes: Axes | None = None,
) -> Axes:
    """What λ does to the size of each unit, by layer and head: red is amplified, blue silenced, white left as it is.

    `√(Σ_k λ_k² v_k / Σ_k v_k)` over the components that λ rescales, `v` being their variances; without bases all count
    alike: `√(mean λ_k²)`. The colours are logarithmic, so that 2 and ½ are equally far from 1. The sign of λ is lost.

    Args:
        values: a ResiDual; or factors by name of the unit, not negative, such as those that `explain` gives.
        bases: that the ResiDual was made from, for their variances.
        title: stands above.
        bar: as for `unit_map`.
        axes: where to draw; a figure of its own by default.

    Returns:
        The axes.

    Raises:
        InputError: no factors, negative ones or NaN.
        MismatchError: bases of another model, or without these units.

    Example:
        >>> axes = scales({"L0H0": 2.0, "L0H1": 0.5})
        >>> axes.collections[0].get_clim()
        (0.25, 4.0)
    """
    found = _factors(values, bases) if isinstance(values, ResiDual) else values
    cells, columns = _cells(found)
    if np.nanmin(cells) < 0:
        raise InputError(f"Factors on the size of units are not negative, got {np.nanmin(cells):g}.")
    positive = cells[cells > 0]
    largest = float(max([WIDEST, *positive, *(1 / positive)]))
    label = "factor on the unit's size" if bar else None
    return _drawn(axes, cells, columns, Colours.factors(largest), written(cells, ".2g"), label, title)


def _drawn(
    axes: Axes | None,
    cells: Float[np.ndarray, "layer column"],
    columns: Mapping[int, str],
    colours: Colours,
    texts: list[list[str]],
    label: str | None,
    title: str,
) -> Axes:
    """The map, with a bar if that has a label."""
    layers, width = cells.shape
    axes = axes_or_new(axes, max(3.2, min(1.8 + 0.42 * width, 9.0)), max(2.2, min(1.2 + 0.36 * layers, 8.0)))
    mesh = heat_map(axes, cells, colours, texts, first_row="bottom")
    number_layers_and_columns(axes, layers, columns)
    axes.set_title(title, **TITLE)
    if label is not None:
        colour_bar(mesh, axes, label)
    return axes


def _cells(
    values: UnitScores | Mapping[str, float] | LayersAndHeads,
) -> tuple[Float[np.ndarray, "layer column"], dict[int, str]]:
    """Numbers by place, and the names of the columns that are not empty."""
    if not isinstance(values, UnitScores | Mapping):
        found = numbers(values, "A map of heads", 2)
        return found, {head: str(head) for head in range(found.shape[1])}
    if isinstance(values, UnitScores):
        values = dict(zip(values.units, values.values.tolist(), strict=True))
    found = numbers(list(values.values()), "A map of units", 1)
    units = [Unit.named(name) for name in values]
    if homeless := [unit.name for unit in units if unit.layer is None]:
        raise InputError(f"Units are drawn by layer, and {', '.join(homeless)} belong to none: leave them out.")
    places = [(unit.layer or 0, unit.index) for unit in units]
    heads = max((head + 1 for _, head in places if head is not None), default=0)
    has_mlps = any(head is None for _, head in places)
    columns = {head: str(head) for head in range(heads)}
    # An empty column sets MLPs apart: they are another kind of unit.
    mlps = heads + 1 if heads else 0
    if has_mlps:
        columns[mlps] = "MLP"
    cells = np.full((max(layer for layer, _ in places) + 1, max(columns) + 1), np.nan)
    for (layer, head), value in zip(places, found, strict=True):
        cells[layer, mlps if head is None else head] = value
    return cells, columns


def _limits(cells: Float[np.ndarray, "layer column"], limits: tuple[float, float] | None) -> tuple[float, float]:
    if limits is None:
        return min(0.0, float(np.nanmin(cells))), float(np.nanmax(cells))
    if not limits[0] < limits[1]:
        raise InputError(f"limits are two numbers, the lower one first, got {limits}.")
    return limits


def _factors(residual: ResiDual, bases: Bases | None) -> dict[str, float]:
    config = residual.config
    if bases is not None and bases.fingerprint != config.fingerprint:
        raise MismatchError(
            f"The bases are of {bases.model_name} ({bases.fingerprint[:12]}…), the ResiDual was made for "
            f"{config.model_name} ({config.fingerprint[:12]}…): pass the bases that it was made from."
        )
    factors = {}
    for unit in config.units:
        squares = numbers(residual.scales_of(unit), f"λ of {unit}", 1) ** 2
        if bases is None:
            factors[unit] = float(squares.mean() ** 0.5)
            continue
        if unit not in bases or len(bases[unit].variances) < len(squares):
            raise MismatchError(f"The bases lack components of {unit}, which the ResiDual rescales.")
        variances = numbers(bases[unit].variances, f"variances of {unit}", 1)[: len(squares)]
        if variances.sum() > 0:
            factors[unit] = float((squares @ variances / variances.sum()) ** 0.5)
    return factors
