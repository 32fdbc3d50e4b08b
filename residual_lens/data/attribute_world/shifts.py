"""Shifts: ways of drawing the same scenes that pretraining never uses."""

import torch
from jaxtyping import Float
from torch import Tensor

from residual_lens.errors import InputError

SHIFTS: dict[str, str] = {
    "sketch": "the object's outline only, no filling and no texture",
    "inverted": "the photographic negative; labels are those of the scene before inversion",
    "clutter": "small coloured blobs all over the background, some in front of the object",
    "lowcontrast": "every pixel pulled towards mid-grey, to a fifth of its contrast",
}
"""Name of each shift and what it does."""

LOW_CONTRAST = 0.2
OUTLINE = 0.022
"""Half the width of a sketch's line, as a share of the image side."""
BLOBS_IN_FRONT = 3


def check_shift(shift: str | None) -> None:
    """Refuses a shift that does not exist.

    Raises:
        InputError: unless `shift` is None or a key of `SHIFTS`.
    """
    if shift is not None and shift not in SHIFTS:
        raise InputError(f"got shift {shift!r}, expected None or one of {', '.join(SHIFTS)}.")


def outline_coverage(
    distance: Float[Tensor, "batch height width"], image_size: int
) -> Float[Tensor, "batch height width"]:
    """Opacity of a thin line along the object's edge; `distance` is signed and in pixels."""
    return (0.5 - (distance.abs() - max(0.6, OUTLINE * image_size))).clamp(0, 1)


def paint_blobs(
    images: Float[Tensor, "batch 3 height width"],
    blobs: Float[Tensor, "batch blob 7"],
    pixels: Float[Tensor, "xy height width"],
) -> Float[Tensor, "batch 3 height width"]:
    """Paints soft-edged ellipses over the images, one after the other.

    Args:
        images: what lies beneath.
        blobs: x, y, radius, aspect, red, green, blue, each uniform in [0, 1).
        pixels: pixel centres in pixels from the image's centre.
    """
    size = images.shape[-1]
    for blob in blobs.unbind(1):
        x, y = ((blob[:, :2] - 0.5) * size).unsqueeze(-1).unsqueeze(-1).unbind(1)
        radius = ((0.035 + 0.05 * blob[:, 2]) * size)[:, None, None]
        aspect = (0.6 + 0.8 * blob[:, 3])[:, None, None]
        distance = torch.hypot((pixels[0] - x) * aspect, (pixels[1] - y) / aspect)
        opacity = (radius - distance + 0.5).clamp(0, 1).unsqueeze(1)
        images = torch.lerp(images, blob[:, 4:, None, None].expand_as(images), opacity.expand_as(images))
    return images


def invert(images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
    """The photographic negative of images in [0, 1]."""
    return 1 - images


def lower_contrast(images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
    """Images in [0, 1] pulled towards mid-grey."""
    return 0.5 + LOW_CONTRAST * (images - 0.5)
