"""Accuracies along something that grows, as curves with bands: heads kept, layers, components that keep their λ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from residual_lens.errors import InputError
from residual_lens.figures.checks import numbers
from residual_lens.figures.look import (
    TITLE,
    Style,
    axes_or_new,
    legend_beside,
    level_styles,
    line_styles,
    plain_axes,
)


@dataclass(frozen=True)
class AccuracyCurve:
    """Accuracies in [0, 1] at each tick, and the band around them."""

    accuracy: Sequence[float]
    """Where the line is."""
    low: Sequence[float]
    """Lower end of the band."""
    high: Sequence[float]
    """Upper end of the band."""


def accuracy_curves(
    curves: Mapping[str, AccuracyCurve],
    ticks: Sequence[str],
    *,
    levels: Mapping[str, float] | None = None,
    x_label: str = "",
    title: str = "",
    styles: Mapping[str, Style] | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Curves with bands over evenly spaced ticks, and levels to compare with as grey lines behind them.

    Args:
        curves: by name.
        ticks: labels along the x axis: numbers of heads kept, layers.
        levels: accuracies in [0, 1] that do not depend on the ticks, by name.
        x_label: what the ticks count.
        title: stands above.
        styles: of curves and levels, by name (see `line_styles`, `level_styles`); whoever gives them makes the legend.
            By default names are told apart in their order, with a legend beside.
        axes: where to draw; a figure of its own by default.

    Returns:
        The axes, in percent, from 0 to 100.

    Raises:
        InputError: no curves, a curve with another number of values than there are ticks, values outside [0, 1], or
            more names than can be told apart.

    Example:
        >>> found = AccuracyCurve([0.2, 0.6, 0.9], [0.1, 0.5, 0.9], [0.3, 0.7, 0.9])
        >>> axes = accuracy_curves({"random": found}, ["1", "4", "36"], levels={"chance": 0.1}, x_label="heads kept")
        >>> axes.lines[-1].get_ydata().tolist()
        [20.0, 60.0, 90.0]
    """
    levels = levels or {}
    check_curves(title or "Curves", curves, ticks, levels)
    looks = {**line_styles(curves), **level_styles(levels)} if styles is None else styles
    axes = axes_or_new(axes)
    for name, accuracy in levels.items():
        axes.axhline(100 * accuracy, zorder=1, label=name, **looks[name])
    places = range(len(ticks))
    for name, curve in curves.items():
        low, middle, high = (100 * numbers(values, name, 1) for values in (curve.low, curve.accuracy, curve.high))
        axes.fill_between(places, low, high, color=looks[name]["color"], alpha=0.14, linewidth=0)
        axes.plot(places, middle, markersize=5, linewidth=1.6, label=name, **looks[name])
    axes.set_title(title, **TITLE)
    axes.set_xlabel(x_label)
    axes.set_ylabel("accuracy (%)")
    axes.set_xticks(places, ticks)
    axes.set_ylim(-2, 102)
    axes.set_yticks(range(0, 101, 20))
    plain_axes(axes)
    if styles is None:
        legend_beside(axes)
    return axes


def check_curves(
    what: str, curves: Mapping[str, AccuracyCurve], ticks: Sequence[str], levels: Mapping[str, float]
) -> None:
    """Refuse what `accuracy_curves` cannot draw.

    Raises:
        InputError: see there; the message begins with `what`.
    """
    if not curves:
        raise InputError(f"{what}: expected at least one curve, got none.")
    for name, curve in curves.items():
        lines = [len(curve.low), len(curve.accuracy), len(curve.high)]
        if not len(ticks) or set(lines) != {len(ticks)}:
            raise InputError(
                f"{what}: {name} has {', '.join(map(str, lines))} values (low, accuracy, high) for {len(ticks)} ticks, "
                "at least one."
            )
    values = {name: (*curve.low, *curve.accuracy, *curve.high) for name, curve in curves.items()}
    for name, shares in {**values, **{name: (level,) for name, level in levels.items()}}.items():
        # Written so that NaN is refused as well.
        if not all(0 <= share <= 1 for share in shares):
            raise InputError(f"{what}: accuracies of {name} are shares in [0, 1], got {', '.join(map(str, shares))}.")
