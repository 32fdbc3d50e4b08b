"""What all figures share: colours that colour-blind people tell apart, a marker with each, plain axes, their size."""

from collections.abc import Iterable, Mapping
from io import BytesIO
from itertools import product
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from residual_lens.errors import InputError

Style = Mapping[str, Any]
"""What `Axes.plot` takes."""

LINES = (
    ("#0072B2", "o"),
    ("#E69F00", "s"),
    ("#009E73", "D"),
    ("#CC79A7", "^"),
    ("#56B4E9", "v"),
    ("#D55E00", "P"),
    ("#000000", "X"),
)
"""Okabe & Ito's palette, and a marker each so that colour is never the only sign."""
DASHES = ("-", "--", ":")
"""Once all colours are taken, they begin again with other dashes."""
FILLS = ("full", "none", "left")
"""The same for points without lines."""
LEVEL_DASHES = ("-", "-.", ":")
"""Of levels to compare with: grey lines across the axes."""
SEQUENTIAL, DIVERGING = "viridis", "RdBu_r"
"""Colours of amounts, even in lightness; of differences, two hues that colour-blind people tell apart."""
INK, GREY, PALE = "#222222", "#777777", "#dddddd"
TITLE: Mapping[str, Any] = {"loc": "left", "fontsize": 11}
WIDTH, HEIGHT = 4.6, 3.2
"""Inches of a figure with one pair of axes: texts of 9 to 11 points can be read where it is half a page wide."""


class Drawn(Figure):
    """A figure of its own, unknown to pyplot: it needs no display, is freed with its last name, and notebooks show it.

    Example:
        >>> figure = new_figure()
        >>> figure._repr_png_()[1:4]
        b'PNG'
    """

    def _repr_png_(self) -> bytes:
        """What Jupyter asks for, whether or not its plotting was set up."""
        file = BytesIO()
        self.savefig(file, format="png", dpi=120)
        return file.getvalue()


def new_figure(width: float = WIDTH, height: float = HEIGHT, *, title: str = "") -> Figure:
    """An empty figure that keeps what is drawn on it clear of each other.

    Args:
        width: in inches.
        height: in inches.
        title: stands above all axes.
    """
    figure = Drawn(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    return figure


def axes_or_new(axes: Axes | None, width: float = WIDTH, height: float = HEIGHT) -> Axes:
    """The axes that were given, or those of a figure of their own."""
    return new_figure(width, height).subplots() if axes is None else axes


def line_styles(names: Iterable[str]) -> Mapping[str, Style]:
    """What `Axes.plot` takes for the line of each name; a name given twice has one style.

    Give the same styles to several figures of the library, and a name looks the same in all of them.

    Raises:
        InputError: more names than there are styles.

    >>> line_styles(["digits", "random"])["random"]
    {'color': '#E69F00', 'marker': 's', 'linestyle': '-'}
    """
    return _styles(names, "lines", "linestyle", DASHES)


def point_styles(names: Iterable[str]) -> Mapping[str, Style]:
    """What `Axes.plot` takes for points of each name that no line joins.

    Raises:
        InputError: more names than there are styles.

    >>> point_styles(["zero-shot"])["zero-shot"]
    {'color': '#0072B2', 'marker': 'o', 'fillstyle': 'full', 'linestyle': 'none'}
    """
    return {
        name: {**style, "linestyle": "none"} for name, style in _styles(names, "points", "fillstyle", FILLS).items()
    }


def level_styles(names: Iterable[str]) -> Mapping[str, Style]:
    """Grey lines that differ in their dashes.

    Raises:
        InputError: more names than there are dashes.
    """
    distinct = list(dict.fromkeys(names))
    if len(distinct) > len(LEVEL_DASHES):
        raise InputError(
            f"A figure tells {len(LEVEL_DASHES)} levels apart, got {len(distinct)}: {', '.join(distinct)}."
        )
    return {
        name: {"color": GREY, "linestyle": dashes, "linewidth": 1.2}
        for name, dashes in zip(distinct, LEVEL_DASHES, strict=False)
    }


def plain_axes(axes: Axes, grid: Literal["x", "y", "both"] = "y") -> None:
    """A light grid behind the data, and no frame on top and on the right."""
    axes.grid(axis=grid, color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def legend_beside(axes: Axes, *, title: str | None = None) -> None:
    """What is named on the axes, on their right, where it hides nothing."""
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
        fontsize=9,
        title=title,
        title_fontsize=9,
        alignment="left",
    )


def legend_columns(labels: Iterable[str], letters: int) -> int:
    """Columns of a legend below a figure that is so many letters wide; a line beside each name takes seven."""
    return max(1, letters // (7 + max(map(len, labels), default=0)))


def _styles(names: Iterable[str], what: str, differing: str, options: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    distinct = list(dict.fromkeys(names))
    most = len(options) * len(LINES)
    if len(distinct) > most:
        raise InputError(f"A figure tells {most} {what} apart, got {len(distinct)}: draw several figures.")
    looks = product(options, LINES)
    return {
        name: {"color": colour, "marker": marker, differing: option}
        for name, (option, (colour, marker)) in zip(distinct, looks, strict=False)
    }
