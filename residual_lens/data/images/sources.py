"""Images that lie in files, and images that lie in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from residual_lens.data.images.decoding import read_image
from residual_lens.data.images.image_set import ImageSource
from residual_lens.errors import InputError


@final
class FileSource(ImageSource):
    """Image files below one folder, called by their path in it.

    Args:
        root: the folder.
        paths: each image's path in it, with forward slashes.
    """

    def __init__(self, root: Path, paths: Sequence[str]) -> None:
        self._root = root
        self._paths = tuple(paths)

    def image(self, index: int) -> Image.Image:
        if not self._root.is_dir():
            raise InputError(f"{self._root} is gone, with all its images: is the disk still mounted?")
        return read_image(self._root / self._paths[index])

    def sample_id(self, index: int) -> str:
        return self._paths[index]

    def content_id(self, index: int) -> str:
        """Path and size: folders of the same layout mostly differ in the sizes of their files."""
        path = self._root / self._paths[index]
        return f"{self._paths[index]} {path.stat().st_size if path.is_file() else 'missing'}"


@final
class ArraySource(ImageSource):
    """Images as one array, called by the part of the data set they come from and their number in it.

    Args:
        part: what the array holds, `train` for example.
        pixels: colour with the channel last, or grey.
    """

    def __init__(
        self, part: str, pixels: UInt8[np.ndarray, "sample height width 3"] | UInt8[np.ndarray, "sample height width"]
    ) -> None:
        self._part = part
        self._pixels = pixels

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self._pixels[index]).convert("RGB")

    def sample_id(self, index: int) -> str:
        return numbered(self._part, index)


def numbered(part: str, index: int) -> str:
    """The id of an image that has no name of its own.

    >>> numbered("train", 12)
    'train/00012'
    """
    return f"{part}/{index:05d}"
