"""What units say, and whether it is more than chance."""

from collections.abc import Iterable

from matplotlib.axes import Axes

from residual_lens.descriptions import LABEL, Descriptions
from residual_lens.errors import InputError
from residual_lens.figures.look import GREY, LINES, PALE, TITLE, WIDTH, axes_or_new, plain_axes

N_TEXTS = 3
"""Texts beside a unit."""
DEVIATIONS = 2
"""Half the length of what stands for chance."""


def descriptions(
    found: Descriptions, units: Iterable[str] | None = None, *, title: str = "", axes: Axes | None = None
) -> Axes:
    """Share of each unit's variance that its first five texts explain, beside what random dictionaries reach.

    A grey bar is the mean of random dictionaries ± 2 standard deviations; a dot is filled where the label means
    something (`Description.means_something`) and hollow where chance does as well. The first three texts stand beside.

    Args:
        found: of `describe`.
        units: names of the units to draw, from the top; all of them by default.
        title: stands above.
        axes: where to draw; a figure of its own by default.

    Returns:
        The axes, in percent.

    Raises:
        InputError: no units, or one that has no description.

    Example:
        >>> from residual_lens.descriptions import AgainstChance, Description
        >>> chance = AgainstChance(0.8, 0.3, 0.05, 0.025)
        >>> one = Description("L5H2", ("navy", "black"), (0.6, 0.8), chance, chance)
        >>> axes = descriptions(Descriptions({"L5H2": one}, {}))
        >>> axes.lines[0].get_xdata().tolist(), axes.texts[0].get_text()
        ([80.0], 'navy, black')
    """
    shown = [found[name] for name in (found.by_unit if units is None else units)]
    if not shown:
        raise InputError("There are no descriptions to draw: give at least one unit.")
    axes = axes_or_new(axes, WIDTH + 1.6, 1.0 + 0.24 * max(len(shown), 4))
    (colour, marker), rows = LINES[0], range(len(shown))
    axes.barh(
        rows,
        [200 * DEVIATIONS * one.fit.sd for one in shown],
        left=[100 * (one.fit.mean - DEVIATIONS * one.fit.sd) for one in shown],
        height=0.5,
        color=PALE,
        label="chance ± 2 sd",
    )
    for means_something, fill, name in ((True, "full", "beyond chance"), (False, "none", "not beyond it")):
        there = [row for row in rows if shown[row].means_something is means_something]
        if there:
            shares = [100 * shown[row].fit.score for row in there]
            axes.plot(shares, there, marker, color=colour, fillstyle=fill, markersize=5, label=name)
    for row, one in enumerate(shown):
        texts = ", ".join(one.texts[:N_TEXTS]) or "does not vary"
        ink = "black" if one.means_something else GREY
        # Dollars are dollars, and no formula.
        place = {"xycoords": axes.get_yaxis_transform(), "va": "center", "parse_math": False}
        axes.annotate(texts, (1.02, row), fontsize=8, color=ink, **place)
    axes.set_yticks(rows, [one.unit for one in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"variance that the first {LABEL} texts explain (%)")
    # Texts stand on the right, so that the legend lies between title and axes.
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, frameon=False, fontsize=8, borderaxespad=0.2)
    axes.set_title(title, **TITLE, pad=24)
    plain_axes(axes, "x")
    axes.tick_params(axis="y", length=0)
    return axes
