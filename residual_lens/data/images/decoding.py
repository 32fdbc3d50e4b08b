"""Bytes of an image file to RGB, or an error that names the image and says what is wrong with it."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from residual_lens.errors import ResidualLensError

MAX_PIXELS = 89_478_485
"""Larger images are refused before they are decoded: a few kilobytes can claim gigabytes. Pillow warns from here on."""

_UNDECODABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    OverflowError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow's readers raise on damaged data."""


class CorruptImageError(ResidualLensError):
    """An image that cannot be read: missing, empty, cut short, no image at all or far too large."""


def read_image(path: Path) -> Image.Image:
    """The image in a file, as RGB.

    Args:
        path: any format that Pillow reads.

    Raises:
        CorruptImageError: the file is gone, or is no whole image. Other failures of the disk are not caught: they are
            no property of the image.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CorruptImageError(f"{path}: no such file, although it was listed when the data set was opened.") from None
    return decode_image(content, str(path))


def decode_image(content: bytes, called: str) -> Image.Image:
    """An encoded image as RGB.

    Alpha is dropped, 16-bit grey is scaled to 8 bits, any other mode is converted as Pillow does. EXIF orientation
    is not applied, like in torchvision's loader.

    Args:
        content: the bytes of an image file.
        called: what error messages call the image.

    Raises:
        CorruptImageError: the bytes are no whole image, hold more than `MAX_PIXELS`, or values without a fixed range.

    >>> decode_image(b"no image", "cat.png")
    Traceback (most recent call last):
        ...
    residual_lens.data.images.decoding.CorruptImageError: cat.png: no image that Pillow can read (8 bytes).
    """
    if not content:
        raise CorruptImageError(f"{called}: the file is empty (0 bytes).")
    try:
        with Image.open(BytesIO(content)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise CorruptImageError(f"{called}: {width} × {height} pixels, more than the {MAX_PIXELS:,} allowed.")
            if image.mode in ("I", "F"):
                raise CorruptImageError(
                    f"{called}: mode {image.mode} has no fixed range; save it with 8 bits a channel."
                )
            image.load()
            return _as_rgb(image)
    except Image.UnidentifiedImageError:
        raise CorruptImageError(f"{called}: no image that Pillow can read ({len(content):,} bytes).") from None
    except _UNDECODABLE as error:
        raise CorruptImageError(f"{called}: cannot be decoded ({error}).") from error


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
