"""Dimensions of heads by layer: the paper's hunchback, a line a data set."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from residual_lens.dimensions import UnitDimensions
from residual_lens.errors import InputError
from residual_lens.figures.look import TITLE, Style, axes_or_new, legend_beside, line_styles, plain_axes
from residual_lens.units import Unit


class Measure(NamedTuple):
    """How one measure is drawn."""

    title: str
    label: str
    """Of the value axis; `{share}` stands for the share of variance in percent."""
    value: Callable[[UnitDimensions], float]
    """NaN where the measure is not defined."""


MEASURES: dict[str, Measure] = {
    "linear": Measure(
        "linear dimension", "components with {share:g} % of the variance", lambda unit: float(unit.linear)
    ),
    "two_nn": Measure("TwoNN dimension", "intrinsic dimension", lambda unit: unit.two_nn),
    # A unit that does not vary has no ratio.
    "linear_over_two_nn": Measure(
        "linear / TwoNN",
        "ratio of the two dimensions",
        lambda unit: unit.linear / unit.two_nn if unit.two_nn else np.nan,
    ),
    "participation_ratio": Measure(
        "participation ratio", "(Σ variances)² / Σ variances²", lambda unit: unit.participation_ratio
    ),
    "first_share": Measure("first component", "share of the variance (%)", lambda unit: 100 * unit.first_share),
}
"""What `dimensions` can draw."""


def dimensions(
    results: Sequence[UnitDimensions] | Mapping[str, Sequence[UnitDimensions]],
    measure: str = "two_nn",
    *,
    share: float = 0.99,
    styles: Mapping[str, Style] | None = None,
    axes: Axes | None = None,
) -> Axes:
    """One measure by layer: the line is the mean over a layer's heads, the band their range.

    Args:
        results: of `unit_dimensions`; by name of the data set (or model), a line each, or of one data set.
        measure: "linear", "two_nn", "linear_over_two_nn", "participation_ratio" or "first_share".
        share: of the variance, that linear dimensions were measured with; for the label.
        styles: of the lines, by name (see `line_styles`); whoever gives them makes the legend. By default names are
            told apart in their order, with a legend beside.
        axes: where to draw; a figure of its own by default.

    Returns:
        The axes.

    Raises:
        InputError: no results, an unknown measure, units that belong to no layer, heads and MLPs in one line, NaN, or
            more lines than can be told apart.

    Example:
        >>> heads = [UnitDimensions(f"L{layer}H0", 100, 9, 4.5 - layer, 0.1, 0, 3.0, 0.4) for layer in range(2)]
        >>> axes = dimensions({"digits": heads})
        >>> axes.get_title("left"), axes.lines[0].get_xydata().tolist()
        ('TwoNN dimension', [[0.0, 4.5], [1.0, 3.5]])
    """
    if measure not in MEASURES:
        raise InputError(f"measure is one of {', '.join(MEASURES)}, got {measure!r}.")
    by_name = results if isinstance(results, Mapping) else {"": results}
    if not by_name or not all(by_name.values()):
        raise InputError("A figure of dimensions needs at least one unit in each of at least one data set.")
    looks = line_styles(by_name) if styles is None else styles
    title, label, value = MEASURES[measure]
    lines = {name: _by_layer(units, value) for name, units in by_name.items()}
    axes = axes_or_new(axes)
    for name, by_layer in lines.items():
        layers = sorted(by_layer)
        lows, means, highs = ([float(of(by_layer[layer])) for layer in layers] for of in (np.min, np.mean, np.max))
        axes.fill_between(layers, lows, highs, color=looks[name]["color"], alpha=0.12, linewidth=0)
        axes.plot(layers, means, markersize=5, linewidth=1.6, label=name or None, **looks[name])
    axes.set_title(title, **TITLE)
    axes.set_ylabel(label.format(share=100 * share))
    axes.set_xlabel("layer")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    plain_axes(axes)
    if styles is None and "" not in by_name:
        legend_beside(axes)
    return axes


def _by_layer(
    units: Sequence[UnitDimensions], value: Callable[[UnitDimensions], float]
) -> dict[int, Float[np.ndarray, "head"]]:
    """Values of the units that have one."""
    layers: dict[int, list[float]] = {}
    kinds = set()
    for one in units:
        unit = Unit.named(one.unit)
        if unit.layer is None:
            raise InputError(f"Dimensions are drawn by layer, and {one.unit} belongs to none: leave it out.")
        if np.isnan([one.linear, one.two_nn, one.participation_ratio, one.first_share]).any():
            raise InputError(f"The dimensions of {one.unit} are NaN: measure it anew, or leave it out.")
        kinds.add(unit.kind)
        layers.setdefault(unit.layer, []).append(value(one))
    if len(kinds) > 1:
        raise InputError("Heads and MLPs make no common mean: draw a line for each, as two entries of a mapping.")
    return {
        layer: np.array(values, dtype=float)[~np.isnan(values)]
        for layer, values in layers.items()
        if not np.isnan(values).all()
    }
