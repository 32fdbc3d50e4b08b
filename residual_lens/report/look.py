"""What all figures share: colours that colour-blind people tell apart, a marker with each, plain axes."""

from matplotlib.axes import Axes

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


def plain_axes(axes: Axes) -> None:
    """A light grid behind the data, and no frame on top and on the right."""
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
