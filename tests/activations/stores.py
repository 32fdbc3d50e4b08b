"""Small data sets and models to encode, and what a store must give for them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from residual_lens.activations import Store, encode
from residual_lens.data.images import CorruptImageError, ImageSet
from residual_lens.data.images.image_set import ImageSource
from residual_lens.data.preprocessing import Preprocessing
from residual_lens.hooked.vit import HookedViT
from tests.decomposition.models import KINDS, Kind

BATCH = 4


class Noise(ImageSource):
    """Images drawn by index; some of them cannot be read."""

    def __init__(self, size: tuple[int, int], bad: Iterable[int] = ()) -> None:
        self.size = size
        self.bad = set(bad)
        self.asked: list[int] = []

    def image(self, index: int) -> Image.Image:
        self.asked.append(index)
        if index in self.bad:
            raise CorruptImageError(f"{self.sample_id(index)}: cut short.")
        pixels = np.random.default_rng(index).integers(0, 256, (*self.size, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    def sample_id(self, index: int) -> str:
        return f"bilder/köpfe/{index:03d}.png"


def image_set(n: int, size: tuple[int, int] = (24, 24), *, bad: Iterable[int] = (), name: str = "noise") -> ImageSet:
    """`n` images of three classes, the labels of every fifth unknown."""
    labels = np.where(np.arange(n) % 5 == 4, -1, np.arange(n) % 3)
    return ImageSet(name=name, split="train", classes=("a", "b", "c"), source=Noise(size, bad), labels=labels)


def source_of(images: ImageSet) -> Noise:
    source = images._source
    assert isinstance(source, Noise)
    return source


def wrapped(kind: Kind | str = "rotary-timm", *, dtype: torch.dtype = torch.float32, **arguments: Any) -> HookedViT:
    """A tiny model that knows its preprocessing."""
    kind = KINDS[kind] if isinstance(kind, str) else kind
    inputs = Preprocessing(kind.image_size, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    return kind.wrapped(kind.model().to(dtype), preprocessing=inputs, **arguments)


def pixels_of(hvit: HookedViT, images: ImageSet) -> Tensor:
    return torch.stack([hvit.preprocessing(images[row][0]) for row in range(len(images))]).to(hvit.dtype)


@torch.no_grad()
def contributions(hvit: HookedViT, images: ImageSet, batch_size: int = BATCH) -> Tensor:
    """What `hvit.decompose` gives, batch by batch."""
    return torch.cat([hvit.decompose(batch).values for batch in pixels_of(hvit, images).split(batch_size)])


def encoded(hvit: HookedViT, images: ImageSet, path: Path, **arguments: Any) -> Store:
    """A store of one process."""
    store = encode(hvit, images, path, **({"batch_size": BATCH} | arguments))
    assert store is not None
    return store


def relative_by_sample(actual: Tensor, expected: Tensor) -> float:
    """Largest relative L2 error of any unit of any sample."""
    actual, expected = actual.double(), expected.double()
    return float(((actual - expected).norm(dim=-1) / expected.norm(dim=-1)).max())
