"""Samples whose images run through the model at each step: held in memory, or loaded and preprocessed on the way."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from residual_lens.data.images import ImageSet
from residual_lens.data.preprocessing import Preprocessing
from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT
from residual_lens.training.splits.sampler import Batch, seed_of

CROP_AREA = (0.5, 1.0)
"""Share of an image's area that a random crop keeps, uniform."""
CROP_RATIO = (3 / 4, 4 / 3)
"""Width over height of a random crop, uniform in the logarithm (Szegedy et al. 2015, section 6)."""


@dataclass(frozen=True, eq=False)
class LiveSamples:
    """Images in memory that run through the model at each step: needed for edits in the stream."""

    images: Float[Tensor, "image 3 height width"]
    """Normalised; one a label."""
    labels: Int[Tensor, "sample"]
    """Class indices."""

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise InputError(f"Expected one label an image, got {len(self.images)} images, {len(self.labels)} labels.")

    def embed(self, hvit: HookedViT, rows: Int[Tensor, "batch"]) -> Float[Tensor, "batch d_out"]:
        """Embeddings, all hooks in force."""
        return hvit(self.images[rows].to(hvit.device))


@dataclass(frozen=True, eq=False)
class LiveImages:
    """A data set's images, loaded and preprocessed as they are needed, that run through the model at each step.

    Example:
        >>> from residual_lens.data.images import open_images
        >>> hvit = HookedViT.from_pretrained("attribute-clip")
        >>> train = LiveImages(open_images("digits"), hvit.preprocessing, augment=True, workers=4)
        >>> len(train.labels)
        1437
    """

    images: ImageSet
    """With a label each."""
    preprocessing: Preprocessing
    """What the model takes: `hvit.preprocessing`."""
    augment: bool = False
    """Train on random crops (`CROP_AREA`, `CROP_RATIO`) of which half are mirrored, others in each epoch."""
    workers: int = 0
    """Processes that load images beside this one."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise InputError(f"workers is a number of processes, 0 or more; got {self.workers}.")

    @cached_property
    def labels(self) -> Int[Tensor, "sample"]:
        """Class indices."""
        return torch.from_numpy(self.images.labels)

    def pixels(self, row: int, augmented_by: int | None = None) -> Float[Tensor, "3 height width"]:
        """One image as the model takes it.

        Args:
            row: its place in the data set.
            augmented_by: seed of its crop and reflection; as it is without one.

        Raises:
            CorruptImageError: it cannot be read.
        """
        image, _ = self.images[row]
        if augmented_by is None:
            return self.preprocessing(image)
        # A crop is stretched to what the model takes: nothing is cut off twice.
        stretched = replace(self.preprocessing, resize="squash", resize_to=self.preprocessing.image_size)
        return stretched(cropped_and_mirrored(image, augmented_by))


class LoadedBatches(Dataset[list[Batch]]):
    """Blocks of batches with their images, as workers of a `DataLoader` load them."""

    def __init__(self, live: LiveImages, seed: int | None) -> None:
        self.live, self.seed = live, seed

    def __getitem__(self, block: list[Batch]) -> list[Batch]:
        return [batch._replace(pixels=self._pixels(batch)) for batch in block]

    def _pixels(self, batch: Batch) -> Float[Tensor, "batch 3 height width"]:
        seeds = [None if self.seed is None else seed_of(self.seed, batch.epoch, row) for row in batch.rows.tolist()]
        return torch.stack([self.live.pixels(row, seed) for row, seed in zip(batch.rows.tolist(), seeds, strict=True)])


def cropped_and_mirrored(image: Image.Image, seed: int) -> Image.Image:
    """A random part of an image, mirrored or not.

    Args:
        image: any size.
        seed: decides the part and the reflection.
    """
    generator = np.random.default_rng(seed)
    area = generator.uniform(*CROP_AREA) * image.width * image.height
    ratio = np.exp(generator.uniform(*np.log(CROP_RATIO)))
    # Cut off where the image is narrower than the ratio asks for.
    width = min(max(round(np.sqrt(area * ratio)), 1), image.width)
    height = min(max(round(np.sqrt(area / ratio)), 1), image.height)
    left = int(generator.integers(image.width - width, endpoint=True))
    top = int(generator.integers(image.height - height, endpoint=True))
    part = image.crop((left, top, left + width, top + height))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.random() < 0.5 else part
