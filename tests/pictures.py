"""Images as a data set holds them: of any size and mode."""

import numpy as np
from PIL import Image

# Wide, high, square, small, smaller than what is cropped, far from square, and of the size of tiny models.
SIZES = [(57, 91), (90, 41), (64, 64), (20, 23), (9, 100), (32, 32), (33, 47)]


def picture(height: int, width: int, mode: str = "RGB") -> Image.Image:
    """Random pixels and smooth ones."""
    draws = np.random.default_rng(height * 1000 + width)
    smooth = Image.fromarray(draws.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize((width, height))
    noise = Image.fromarray(draws.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return Image.blend(smooth, noise, 0.4).convert(mode)


PICTURES = [picture(*size) for size in SIZES]
