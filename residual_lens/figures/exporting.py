"""Figures as files: vector or raster, the same bytes whenever the same figure is saved."""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from residual_lens.errors import InputError
from residual_lens.files import replacing

METADATA: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
"""By format: what is left out, because it would differ from one time to the next."""
# Texts stay texts that can be searched and edited: in SVG in the reader's font, in PDF in an embedded one.
PARAMETERS: Any = {"svg.fonttype": "none", "svg.hashsalt": "residual_lens", "pdf.fonttype": 42}


def save(drawn: Axes | Figure, path: str | Path, *, dpi: int = 150) -> None:
    """Write a figure as SVG, PDF or PNG, whole or not at all.

    The same figure gives the same bytes (with one version of matplotlib): no date is written, and names within the file
    are made from a fixed seed. In SVG and PDF all but photographs are shapes and texts. matplotlib's settings
    (`rcParams`) are afterwards what they were.

    Args:
        drawn: a figure, or axes of it.
        path: ends in .svg, .pdf or .png; missing folders are made.
        dpi: pixels an inch of a PNG.

    Raises:
        InputError: another ending.

    Example:
        >>> from residual_lens import figures
        >>> axes = figures.unit_map({"L0H0": 0.2, "L0H1": 0.7}, label="score")
        >>> figures.save(axes, "scores.svg")  # doctest: +SKIP
    """
    path = Path(path)
    kind = path.suffix.lstrip(".").lower()
    if kind not in METADATA:
        raise InputError(f"{path.name} should end in {', '.join(f'.{name}' for name in METADATA)}.")
    # Of axes on a part of a figure, `figure` is the part, and its own `figure` the whole.
    figure = drawn.figure.figure if isinstance(drawn, Axes) else drawn
    with replacing(path) as file, matplotlib.rc_context(PARAMETERS):
        figure.savefig(file, format=kind, dpi=dpi, metadata=METADATA[kind])
