"""Heat maps as shapes with their numbers: what maps of units, similarities and effects are drawn with."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import FuncFormatter

from residual_lens.figures.look import DIVERGING, INK, SEQUENTIAL

MOST_NUMBERS = 150
"""Cells that have room for their number."""
MOST_TICKS = 16
"""Numbers along an axis of layers or heads."""
FADED = "#999999"


@dataclass(frozen=True)
class Colours:
    """What colour a number has."""

    map: str
    """Name of the colour map."""
    norm: Normalize
    """Numbers to [0, 1]."""

    @classmethod
    def amounts(cls, low: float, high: float) -> "Colours":
        """Dark to light."""
        return cls(SEQUENTIAL, Normalize(low, high if high > low else low + 1))

    @classmethod
    def differences(cls, largest: float) -> "Colours":
        """Blue below 0, red above; white is 0."""
        largest = largest or 1.0
        return cls(DIVERGING, Normalize(-largest, largest))

    @classmethod
    def factors(cls, largest: float) -> "Colours":
        """Blue below 1, red above; white is 1, and a number is as far from it as its inverse."""
        return cls(DIVERGING, LogNorm(1 / largest, largest, clip=True))

    def ink(self, value: float) -> str:
        """Black or white, whichever contrasts more with the number's colour (relative luminance of WCAG 2)."""
        red, green, blue, _ = matplotlib.colormaps[self.map](float(self.norm(value)))
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in (red, green, blue)]
        luminance = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
        # #222222 has a luminance of 0.016.
        return "white" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.066 else INK


def heat_map(
    axes: Axes,
    values: Float[np.ndarray, "row column"],
    colours: Colours,
    texts: list[list[str]],
    *,
    first_row: Literal["top", "bottom"] = "top",
    bold: Bool[np.ndarray, "row column"] | None = None,
    faded: Bool[np.ndarray, "row column"] | None = None,
) -> QuadMesh:
    """A rectangle a cell, centred on whole numbers, and its text if there is room; NaN leaves the cell empty."""
    n_rows, n_columns = values.shape
    edges = np.arange(n_columns + 1) - 0.5, np.arange(n_rows + 1) - 0.5
    # Rectangles, not an image: they stay sharp in vector formats. A thin line in their own colour closes the seams.
    mesh = axes.pcolormesh(
        *edges,
        np.ma.masked_invalid(values),
        cmap=colours.map,
        norm=colours.norm,
        edgecolors="face",
        linewidth=0.3,
    )
    axes.set_xlim(-0.5, n_columns - 0.5)
    axes.set_ylim(*((n_rows - 0.5, -0.5) if first_row == "top" else (-0.5, n_rows - 0.5)))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if values.size > MOST_NUMBERS:
        return mesh
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            ink = colours.ink(value)
            pale = faded is not None and faded[row, column] and ink != "white"
            axes.text(
                column,
                row,
                texts[row][column],
                ha="center",
                va="center",
                fontsize=8,
                color=FADED if pale else ink,
                fontweight="bold" if bold is not None and bold[row, column] else "normal",
            )
    return mesh


def written(values: Float[np.ndarray, "row column"], spec: str | None = None) -> list[list[str]]:
    """Numbers as they stand in cells: by default with two decimals up to 1, with one beyond."""
    largest = float(np.nanmax(np.abs(values)))
    digits = 2 if largest < 1.005 else 1 if largest < 99.95 else 0
    spec = spec or f".{digits}f"
    # Minus zero is zero.
    return [
        [format(0.0 if float(format(value, spec)) == 0 else value, spec).replace("-", "−") for value in row]
        for row in values.tolist()
    ]


def name_rows_and_columns(axes: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Names beside the cells; those below are slanted so that long ones fit."""
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(range(len(rows)), rows, parse_math=False)


def number_layers_and_columns(axes: Axes, layers: int, columns: Mapping[int, str]) -> None:
    """Layers and heads by number, not all of them where there are many; other columns by name."""
    heads = [place for place, name in columns.items() if name.isdigit()]
    shown = {*thinned(heads), *(columns.keys() - set(heads))}
    axes.set_xticks(sorted(shown), [columns[place] for place in sorted(shown)])
    axes.set_yticks(thinned(range(layers)))
    axes.set_xlabel("head")
    axes.set_ylabel("layer")


def thinned(places: Iterable[int]) -> list[int]:
    """Every n-th, so that at most `MOST_TICKS` are left."""
    found = list(places)
    return found[:: max(1, -(-len(found) // MOST_TICKS))]


def colour_bar(mesh: QuadMesh, axes: Axes | Sequence[Axes], label: str = "", *, shrink: float = 0.8) -> Colorbar:
    """What the colours mean, beside the axes that share them."""
    one = axes if isinstance(axes, Axes) else axes[0]
    bar = one.figure.colorbar(mesh, ax=axes, shrink=shrink, label=label)
    if isinstance(mesh.norm, LogNorm):
        largest = float(mesh.norm.vmax or 1.0)
        ends = [1 / largest, 1 / largest**0.5, 1, largest**0.5, largest]
        bar.ax.minorticks_off()
        bar.formatter = FuncFormatter(lambda factor, _: f"{factor:g}")
        bar.set_ticks(ends, labels=[f"{end:.2g}" for end in ends])
    plain_bar(bar)
    return bar


def plain_bar(bar: Colorbar) -> None:
    """No frame, and shapes instead of a picture; vector formats draw its shades one by one, here without seams."""
    bar.outline.set_visible(False)
    if bar.solids is not None:
        bar.solids.set_rasterized(False)
        bar.solids.set_edgecolor("face")
