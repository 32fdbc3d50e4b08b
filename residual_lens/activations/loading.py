"""Images of a data set as the batches of a run."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from residual_lens.activations.layout import Layout
from residual_lens.data.images import CorruptImageError, ImageSet
from residual_lens.data.preprocessing import Preprocessing
from residual_lens.errors import InputError


class Sample(NamedTuple):
    """One row of a block."""

    block: int
    row: int
    """In the file."""
    loaded: tuple[Float[Tensor, "3 height width"], int] | CorruptImageError
    """Pixels and label."""


class Batch(NamedTuple):
    """Rows of one block that go through the model together."""

    block: int
    n_rows: int
    rows: list[int]
    """Those that could be read."""
    pixels: Float[Tensor, "batch 3 height width"] | None
    labels: list[int]
    failures: list[CorruptImageError]


class _Loading(Dataset[Sample]):
    """Samples as the model takes them; what cannot be read is handed on instead of raised, to be counted."""

    def __init__(self, images: ImageSet, preprocessing: Preprocessing) -> None:
        self.images = images
        self.preprocessing = preprocessing

    def __getitem__(self, place: tuple[int, int, int]) -> Sample:
        block, row, index = place
        try:
            image, label = self.images[index]
        except CorruptImageError as error:
            return Sample(block, row, error)
        try:
            return Sample(block, row, (self.preprocessing(image), label))
        except InputError as error:
            return Sample(block, row, CorruptImageError(f"{self.images.sample_id(index)}: {error}"))


def _collate(samples: list[Sample]) -> Batch:
    read = [(s.row, s.loaded[0], s.loaded[1]) for s in samples if not isinstance(s.loaded, CorruptImageError)]
    failures = [sample.loaded for sample in samples if isinstance(sample.loaded, CorruptImageError)]
    return Batch(
        block=samples[0].block,
        n_rows=len(samples),
        rows=[row for row, _, _ in read],
        pixels=torch.stack([pixels for _, pixels, _ in read]) if read else None,
        labels=[label for _, _, label in read],
        failures=failures,
    )


def batches_of(
    images: ImageSet,
    preprocessing: Preprocessing,
    layout: Layout,
    blocks: Sequence[int],
    *,
    first_row: int,
    batch_size: int,
    workers: int,
) -> Iterator[Batch]:
    """Loaded batches of some blocks, in order; a batch never reaches over the end of a block.

    Args:
        images: the data set.
        preprocessing: what the model takes.
        layout: of the file that is written.
        blocks: blocks of that file.
        first_row: sample that the file's first row is.
        batch_size: images in a batch.
        workers: processes that load beside this one.
    """

    def plan() -> Iterator[list[tuple[int, int, int]]]:
        for block in blocks:
            rows = layout.rows_of(block)
            for start in range(0, len(rows), batch_size):
                yield [(block, row, first_row + row) for row in rows[start : start + batch_size]]

    loading = _Loading(images, preprocessing)
    yield from DataLoader(loading, batch_sampler=plan(), num_workers=workers, collate_fn=_collate)
