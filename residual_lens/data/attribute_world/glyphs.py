"""Symbols as signed-distance maps: shapes from polygons, digits and letters from the typefaces that matplotlib ships.

A signed distance makes every later effect a subtraction: a thicker stroke shifts it, a blur flattens it, a sketch takes
its absolute value. One look-up table holds all symbols, so a batch is drawn with one gather.
"""

import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from residual_lens.data.attribute_world.vocabulary import DIGITS, LETTERS, SHAPES

FONTS: tuple[str, ...] = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSerif",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "cmr10",
    "cmss10",
    "cmtt10",
)
"""Typefaces of digits and letters: sans, serif, italic, bold, typewriter."""

CELL = 48
"""Side of one distance map."""
OVERSAMPLING = 2
"""Masks are drawn this much larger than a map, and distances averaged down."""
EXTENT = 1.3
"""A map covers the square [-EXTENT, EXTENT]² in units of the object's radius."""


@lru_cache(maxsize=1)
def symbol_maps() -> Float[Tensor, "cell y x"]:
    """Signed distances (negative inside, in units of the object's radius) of all shapes and of all glyphs in all fonts.

    Cell `s` is shape `s`; cell `len(SHAPES) + f * 36 + g` is glyph `g` (ten digits, then 26 letters) in font `f`.
    """
    glyphs = [_glyph_mask(font, character) for font in FONTS for character in "0123456789" + "".join(LETTERS).upper()]
    masks = [_shape_mask(shape) for shape in SHAPES] + glyphs
    return torch.from_numpy(np.stack([_signed_distance(mask) for mask in masks]))


def symbol_cells(labels: dict[str, Int[Tensor, "batch"]], font: Float[Tensor, "batch"]) -> Int[Tensor, "batch"]:
    """The cell of `symbol_maps` that each scene shows.

    Args:
        labels: shape, digit and letter labels, one of the three at least 0 in every scene.
        font: uniform in [0, 1), picks the typeface of glyphs.
    """
    face = (font * len(FONTS)).long()
    glyph = torch.where(labels["digit"] >= 0, labels["digit"], labels["letter"] + len(DIGITS))
    cell = len(SHAPES) + face * (len(DIGITS) + len(LETTERS)) + glyph
    return torch.where(labels["shape"] >= 0, labels["shape"], cell)


def _signed_distance(mask: Bool[np.ndarray, "y x"]) -> Float[np.ndarray, "cell_y cell_x"]:
    """Distance to the mask's edge, negative inside, averaged down to one cell."""
    from scipy.ndimage import distance_transform_edt

    distance = np.asarray(distance_transform_edt(~mask)) - np.asarray(distance_transform_edt(mask))
    small = distance.reshape(CELL, OVERSAMPLING, CELL, OVERSAMPLING).mean((1, 3))
    return (small * 2 * EXTENT / mask.shape[0]).astype(np.float32)


def _glyph_mask(font: str, character: str) -> Bool[np.ndarray, "y x"]:
    """One character, centred, its longer side spanning [-1, 1]."""
    import matplotlib
    from PIL import Image, ImageDraw

    side = CELL * OVERSAMPLING
    face = _typeface(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"))
    left, top, right, bottom = (round(edge) for edge in face.getbbox(character))
    canvas = Image.new("L", (right - left, bottom - top), 0)
    ImageDraw.Draw(canvas).text((-left, -top), character, fill=255, font=face)
    scale = side / EXTENT / max(canvas.size)
    size = (max(1, round(canvas.width * scale)), max(1, round(canvas.height * scale)))
    glyph = canvas.resize(size, Image.Resampling.BILINEAR)
    framed = Image.new("L", (side, side), 0)
    framed.paste(glyph, ((side - size[0]) // 2, (side - size[1]) // 2))
    return np.asarray(framed) > 127


@lru_cache(maxsize=len(FONTS))
def _typeface(path: str):
    from PIL import ImageFont

    return ImageFont.truetype(path, 128)


def _shape_mask(shape: str) -> Bool[np.ndarray, "y x"]:
    """One shape as a binary mask on the map's square, its extent about [-1, 1]."""
    side = CELL * OVERSAMPLING
    axis = (np.arange(side) + 0.5) / side * 2 * EXTENT - EXTENT
    x, y = np.meshgrid(axis, axis)
    if shape == "crescent":
        return (np.hypot(x, y) < 1.0) & (np.hypot(x - 0.55, y) > 0.8)
    if shape == "oval":
        return np.hypot(x / 0.62, y) < 1.0
    if shape == "heart":
        u, v = x / 0.92, -y / 0.92 + 0.12
        return (u**2 + v**2 - 0.72) ** 3 - 1.6 * u**2 * v**3 < 0
    return _inside(_POLYGONS[shape], x, y)


def _inside(
    corners: Float[np.ndarray, "corner xy"], x: Float[np.ndarray, "y x"], y: Float[np.ndarray, "y x"]
) -> Bool[np.ndarray, "y x"]:
    """Even-odd rule: a point is inside if a ray from it crosses the polygon an odd number of times."""
    inside = np.zeros(x.shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        crosses = (y0 > y) != (y1 > y)
        rise = y1 - y0 if y1 != y0 else 1.0
        inside ^= crosses & (x < (x1 - x0) * (y - y0) / rise + x0)
    return inside


def _star() -> Float[np.ndarray, "corner xy"]:
    """Five spikes, the first one up."""
    angle = np.arange(10) * math.pi / 5 - math.pi / 2
    radius = np.where(np.arange(10) % 2 == 0, 1.08, 0.46)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


_POLYGONS = {
    "square": np.array([(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)]),
    "triangle": np.array([(0.0, -1.0), (1.0, 0.85), (-1.0, 0.85)]),
    "star": _star(),
    "cross": np.stack(
        [
            (-0.36, 0.36, 0.36, 1, 1, 0.36, 0.36, -0.36, -0.36, -1, -1, -0.36),
            (-1, -1, -0.36, -0.36, 0.36, 0.36, 1, 1, 0.36, 0.36, -0.36, -0.36),
        ],
        axis=1,
    ),
    "arrow": np.array([(0, -1.08), (0.95, 0.05), (0.4, 0.05), (0.4, 1.0), (-0.4, 1.0), (-0.4, 0.05), (-0.95, 0.05)]),
}
