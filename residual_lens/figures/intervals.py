"""Dots with intervals, and random draws beside them."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from residual_lens.errors import InputError
from residual_lens.figures.checks import numbers
from residual_lens.figures.look import PALE, TITLE, Style, axes_or_new, legend_beside, plain_axes, point_styles

SPREAD = 0.72
"""Share of a row's height that its series fill."""
DRAWS = "#aaaaaa"

Estimate = Sequence[float]
"""Value, and lower and upper end of its interval."""


def intervals(
    values: Mapping[str, Mapping[str, Estimate]],
    *,
    random: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    rows: Sequence[str] | None = None,
    label: str = "",
    title: str = "",
    styles: Mapping[str, Style] | None = None,
    axes: Axes | None = None,
) -> Axes:
    """A row for each name, a dot with its interval for each series; random draws as grey ticks.

    Args:
        values: by row, then by series: value, lower and upper end. Rows may lack series.
        random: in the same order, values of random draws beside a dot; where there are none they may be left out.
        rows: names of the rows from the top; those of `values` by default. Panels with the same rows line up.
        label: of the value axis.
        title: stands above.
        styles: of the series, by name and in their order (see `point_styles`); whoever gives them makes the legend. By
            default names are told apart in their order, with a legend beside.
        axes: where to draw; a figure of its own by default.

    Returns:
        The axes.

    Raises:
        InputError: no rows or series, rows that are not among `rows`, series without a style, intervals that are not
            three numbers with the ends in order, NaN, or more series than can be told apart.

    Example:
        >>> axes = intervals({"1 head": {"supervised": (4.0, 2.0, 6.5)}, "3 heads": {"supervised": (18.1, 7.8, 32.4)}})
        >>> axes.lines[0].get_xdata().tolist()
        [4.0, 18.1]
    """
    series = list(styles or dict.fromkeys(name for by_series in values.values() for name in by_series))
    names = list(values if rows is None else rows)
    found = {row: {name: _estimate(row, name, each) for name, each in of.items()} for row, of in values.items()}
    _check(found, names, series)
    looks = point_styles(series) if styles is None else styles
    axes = axes_or_new(axes, height=1.1 + len(names) * (0.22 + 0.16 * len(series)))
    step = SPREAD / len(series)
    for place, name in enumerate(series):
        shift = (place - (len(series) - 1) / 2) * step
        there = [row for row, called in enumerate(names) if name in found.get(called, {})]
        at = [row + shift for row in there]
        of_rows = np.reshape([found[names[row]][name] for row in there], (-1, 3))
        for row, called in enumerate(names):
            drawn = (random or {}).get(called, {}).get(name, ())
            if len(drawn):
                axes.plot(drawn, [row + shift] * len(drawn), "|", color=DRAWS, markersize=5, zorder=1)
        axes.hlines(at, of_rows[:, 1], of_rows[:, 2], color=looks[name]["color"], linewidth=1.8, zorder=2)
        (dots,) = axes.plot(of_rows[:, 0], at, markersize=5, label=name, zorder=3, **looks[name])
        dots.set_linestyle("none")
    if random:
        axes.plot([], [], "|", color=DRAWS, markersize=7, label="random draws")
    axes.axvline(0, color="#555555", linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    for edge in range(1, len(names)):
        axes.axhline(edge - 0.5, color=PALE, linewidth=0.6, zorder=0)
    axes.set_xlabel(label)
    axes.set_title(title, **TITLE)
    plain_axes(axes, "x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if styles is None and (len(series) > 1 or random):
        legend_beside(axes)
    return axes


def _estimate(row: str, series: str, values: Estimate) -> Float[np.ndarray, "3"]:
    found = numbers(values, f"{series} of {row}", 1)
    if len(found) != 3 or found[1] > found[2]:
        raise InputError(
            f"{series} of {row}: expected a value and the lower and upper end of its interval, got {found.tolist()}."
        )
    return found


def _check(found: Mapping[str, Mapping[str, object]], rows: Sequence[str], series: Sequence[str]) -> None:
    if not rows or not series:
        raise InputError("Intervals need at least one row and one series.")
    if not set(found) <= set(rows):
        raise InputError(f"Rows are {', '.join(rows)}, got {', '.join(found)} as well.")
    if unknown := {name for by_series in found.values() for name in by_series} - set(series):
        raise InputError(f"Styles are for {', '.join(series)}, and not for {', '.join(sorted(unknown))}.")
