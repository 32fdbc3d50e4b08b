"""Which samples a step takes: the same order for a seed and an epoch, however often training was interrupted."""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Sampler


class Batch(NamedTuple):
    """This process' share of the samples of one step."""

    epoch: int
    """Counted from 0."""
    rows: Int[Tensor, "batch"]
    """Places in the split; never empty, as no model takes empty batches."""
    share: int
    """How many of the rows count: none where there are more processes than samples left."""
    size: int
    """Samples of the step in all processes together."""
    pixels: Float[Tensor, "batch 3 height width"] | None = None
    """Their images, where those are loaded."""


class Order(Sampler[list[Batch]]):
    """Batches of a split, some at a time; each process takes every `world`-th sample of each batch.

    Args:
        n_samples: of the split.
        batch_size: samples of a batch, in all processes together.
        block: batches that are handed out at once.
        seed: of the order, which is another one in each epoch; as they come without one.
        rank: which process this is.
        world: how many processes there are.

    Example:
        >>> [[batch.rows.tolist() for batch in block] for block in Order(5, 2, block=2)]
        [[[0, 1], [2, 3]], [[4]]]
    """

    def __init__(
        self, n_samples: int, batch_size: int, *, block: int = 1, seed: int | None = None, rank: int = 0, world: int = 1
    ) -> None:
        self.n_samples, self.batch_size, self.block = n_samples, batch_size, block
        self.seed, self.rank, self.world = seed, rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch, counting from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.n_samples // (self.batch_size * self.block))

    def __iter__(self) -> Iterator[list[Batch]]:
        if self.seed is None:
            order = torch.arange(self.n_samples)
        else:
            generator = torch.Generator().manual_seed(seed_of(self.seed, self.epoch))
            order = torch.randperm(self.n_samples, generator=generator)
        for rows in order.split(self.batch_size * self.block):
            yield [self._share_of(part) for part in rows.split(self.batch_size)]

    def _share_of(self, rows: Int[Tensor, "_"]) -> Batch:
        mine = rows[self.rank :: self.world]
        return Batch(self.epoch, mine if len(mine) else rows[:1], len(mine), len(rows))


def seed_of(seed: int, *places: int) -> int:
    """A seed of its own for each epoch, image or process, the same on any machine."""
    return int.from_bytes(hashlib.sha256(repr((seed, *places)).encode()).digest()[:7])
