"""What every image data set offers, whatever it is read from."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, final, get_args

import numpy as np
from jaxtyping import Int
from PIL import Image
from torch.utils.data import Dataset

from residual_lens.errors import InputError

PROBED = 64
"""Images whose files' sizes are part of the fingerprint."""
UNLABELLED = -1
"""Label of an image whose class is not known."""

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class ImageSource(ABC):
    """Images in a fixed order, by index; `ImageSet` is a choice of them. Sources are picklable."""

    @abstractmethod
    def image(self, index: int) -> Image.Image:
        """One image as RGB; raises `CorruptImageError` if it cannot be read."""

    @abstractmethod
    def sample_id(self, index: int) -> str:
        """A name that stays the same on any machine and in any run."""

    def content_id(self, index: int) -> str:
        """What tells the image from another one of the same name, as far as that costs next to nothing."""
        return self.sample_id(index)


@final
class ImageSet(Dataset[tuple[Image.Image, int]]):
    """One split of a data set, as a map-style torch `Dataset` of RGB images and labels; made by `open_images`.

    It can be pickled (workers of a `DataLoader`), and no image is decoded before it is asked for.

    Args:
        name: what the data set is called.
        split: which split of it this is.
        classes: words of the classes, in label order; empty if the images have no labels.
        source: where the images come from.
        labels: class of each image, -1 where it is not known.
        rows: index into the source of each image; all of them by default.
        parameters: what else decides the content (a seed, an image size); part of the fingerprint.

    >>> from residual_lens.data.images import open_images
    >>> digits = open_images("digits", split="test")
    >>> image, label = digits[3]
    >>> image.size, digits.classes[label] == digits.classes[digits.labels[3]], digits.sample_id(3)
    ((32, 32), True, 'test/00003')
    """

    def __init__(
        self,
        *,
        name: str,
        split: Split,
        classes: tuple[str, ...],
        source: ImageSource,
        labels: Int[np.ndarray, "sample"],
        rows: Int[np.ndarray, "sample"] | None = None,
        parameters: Mapping[str, int | str] | None = None,
    ) -> None:
        outside = labels[(labels < UNLABELLED) | (labels >= len(classes))]
        if len(outside):
            raise InputError(f"got label {outside[0]} in {name}/{split}, expected -1 to {len(classes) - 1}.")
        self.name = name
        self.split: Split = split
        self.classes = classes
        self._source = source
        self._labels = labels.astype(np.int64)
        self._rows = np.arange(len(labels)) if rows is None else rows
        self._parameters = dict(parameters or {})

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        """One image and its label.

        Raises:
            CorruptImageError: the image cannot be read; the message names it.
            IndexError: there is no such row (this is what ends a `for` loop).
        """
        index = self._index(row)
        return self._source.image(index), int(self._labels[row])

    def sample_id(self, row: int) -> str:
        """The image's name: its path within the data set, or the split it comes from and its number there."""
        return self._source.sample_id(self._index(row))

    @property
    def labels(self) -> Int[np.ndarray, "sample"]:
        """Every row's label, without decoding an image."""
        return self._labels.copy()

    def fingerprint(self) -> str:
        """SHA-256 of name, split, classes, ids, labels and parameters, and of some files' sizes, in hexadecimal.

        Pixels are not read: two folders of the same layout are told apart by the sizes of their first files. Those of
        all would take long, and a file that is mended would make another data set.
        """
        digest = hashlib.sha256()
        head = [self.name, self.split, list(self.classes), len(self), self._parameters]
        digest.update(json.dumps(head, sort_keys=True).encode() + b"\n")
        for row, (index, label) in enumerate(zip(self._rows.tolist(), self._labels.tolist(), strict=True)):
            called = self._source.content_id(index) if row < PROBED else self._source.sample_id(index)
            digest.update(json.dumps([called, label]).encode() + b"\n")
        return digest.hexdigest()

    def subset(self, rows: Int[np.ndarray, "chosen"], **parameters: int | str) -> "ImageSet":
        """Some of the rows, in the order given; `parameters` say how they were chosen."""
        return ImageSet(
            name=self.name,
            split=self.split,
            classes=self.classes,
            source=self._source,
            labels=self._labels[rows],
            rows=self._rows[rows],
            parameters={**self._parameters, **parameters},
        )

    def _index(self, row: int) -> int:
        if not 0 <= row < len(self):
            raise IndexError(f"got row {row}, expected 0 to {len(self) - 1}.")
        return int(self._rows[row])
