"""What all figures share: colours that colour-blind people tell apart, a marker with each, plain axes."""

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

from matplotlib.axes import Axes

from residual_lens.errors import InputError

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


def line_styles(names: Iterable[str]) -> Mapping[str, Mapping[str, Any]]:
    """What `Axes.plot` takes for the line of each name; a name given twice has one style.

    Raises:
        InputError: more names than there are styles.

    >>> line_styles(["digits", "random"])["random"]
    {'color': '#E69F00', 'marker': 's', 'linestyle': '-'}
    """
    distinct = list(dict.fromkeys(names))
    most = len(DASHES) * len(LINES)
    if len(distinct) > most:
        raise InputError(f"A figure tells {most} lines apart, got {len(distinct)}: draw several figures.")
    styles = product(DASHES, LINES)
    return {
        name: {"color": colour, "marker": marker, "linestyle": dashes}
        for name, (dashes, (colour, marker)) in zip(distinct, styles, strict=False)
    }


def plain_axes(axes: Axes) -> None:
    """A light grid behind the data, and no frame on top and on the right."""
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
