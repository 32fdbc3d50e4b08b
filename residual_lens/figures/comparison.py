"""Several values of each of several things: accuracies of methods by task, energies before and after."""

from collections.abc import Mapping

from matplotlib.axes import Axes

from residual_lens.errors import InputError
from residual_lens.figures.checks import numbers
from residual_lens.figures.look import GREY, TITLE, WIDTH, Style, axes_or_new, legend_beside, plain_axes, point_styles


def comparison(
    values: Mapping[str, Mapping[str, float]],
    *,
    ends: tuple[str, str] | None = None,
    chance: Mapping[str, float] | None = None,
    label: str = "accuracy (%)",
    title: str = "",
    styles: Mapping[str, Style] | None = None,
    axes: Axes | None = None,
) -> Axes:
    """A row for each thing, a marker for each of its values, a pale line between two of them: before and after.

    Args:
        values: shares by row and series: accuracies in [0, 1] by task and method, say. Rows may lack series.
        ends: the two series between which the line is. Their markers are filled, all others outlines on top, so that
            none hides another.
        chance: by row, what chance would give; a grey tick.
        label: of the axis, in percent.
        title: stands above.
        styles: of the series, by name (see `point_styles`); whoever gives them makes the legend. By default names are
            told apart in their order, with a legend beside.
        axes: where to draw; a figure of its own by default.

    Returns:
        The axes. The first row is on top.

    Raises:
        InputError: no rows or values, an end or a row of `chance` that nothing is called, NaN, or more series than can
            be told apart.

    Example:
        >>> found = {"digits": {"zero-shot": 0.71, "residual": 0.97}, "shape": {"zero-shot": 0.99, "residual": 1.0}}
        >>> axes = comparison(found, ends=("zero-shot", "residual"), chance={"digits": 0.1})
        >>> [text.get_text() for text in axes.get_yticklabels()]
        ['digits', 'shape']
    """
    series = list(dict.fromkeys(name for by_series in values.values() for name in by_series))
    if not series:
        raise InputError("A comparison needs at least one row with at least one value.")
    numbers([value for by_series in values.values() for value in by_series.values()], "values", 1)
    numbers([*(chance or {}).values(), 0.0], "chance", 1)
    if unknown := [*(set(ends or ()) - set(series)), *(set(chance or {}) - set(values))]:
        raise InputError(f"Nothing here is called {', '.join(unknown)}: rows are {', '.join(values)}.")
    looks = point_styles(series) if styles is None else styles
    axes = axes_or_new(axes, WIDTH + 0.8, 1.1 + 0.32 * max(len(values), 4))
    rows = list(values)
    if ends:
        for row, name in enumerate(rows):
            if set(ends) <= set(values[name]):
                _join(axes, row, [values[name][end] for end in ends], looks[ends[1]]["color"])
    for name in series:
        is_end = ends is None or name in ends
        (points,) = axes.plot(
            [100 * values[row][name] for row in rows if name in values[row]],
            [place for place, row in enumerate(rows) if name in values[row]],
            label=name,
            markersize=8 if is_end else 7,
            markeredgewidth=1.4,
            zorder=3 if is_end else 4,
            **looks[name],
        )
        points.set_linestyle("none")
        if ends is not None:
            points.set_fillstyle("full" if is_end else "none")
    if chance:
        heights = [rows.index(row) for row in chance]
        shares = [100 * share for share in chance.values()]
        axes.plot(shares, heights, "|", color=GREY, markersize=10, zorder=2, label="chance")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(label)
    axes.set_title(title, **TITLE)
    plain_axes(axes, "x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if styles is None:
        legend_beside(axes)
    return axes


def _join(axes: Axes, row: int, shares: list[float], colour: str) -> None:
    places = [100 * share for share in shares]
    axes.plot(places, [row, row], color=colour, linewidth=3, alpha=0.25, solid_capstyle="butt", zorder=1)
