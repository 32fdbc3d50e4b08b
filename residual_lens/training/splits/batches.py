"""Batches of a split and their embeddings, whatever the split is made of."""

import math
from dataclasses import fields, replace
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT
from residual_lens.interventions import Adapter
from residual_lens.text import ZeroShotClassifier
from residual_lens.training.cached import Coordinates
from residual_lens.training.splits.live import LiveImages, LoadedBatches
from residual_lens.training.splits.sampler import Batch, Order


@runtime_checkable
class Samples(Protocol):
    """Labelled samples that a hooked model turns into embeddings, whatever hooks are in force."""

    @property
    def labels(self) -> Int[Tensor, "sample"]:
        """Class indices."""
        ...

    def embed(self, hvit: HookedViT, rows: Int[Tensor, "batch"]) -> Float[Tensor, "batch d_out"]:
        """Embeddings of some samples."""
        ...


Split = Coordinates | LiveImages | Samples
"""What a module trains on: coordinates need no hooks, everything else runs with the adapter attached."""

BLOCK = 16
"""Batches that a training step takes at once where none has to be loaded."""
EVALUATION_BATCH = 256
"""Samples of an evaluation's batch."""


class _AsOrdered(Dataset[list[Batch]]):
    """Blocks of batches of which nothing is loaded."""

    def __getitem__(self, block: list[Batch]) -> list[Batch]:
        return block


def training_batches(
    split: Split, batch_size: int, seed: int, *, one_at_a_time: bool = False, rank: int = 0, world: int = 1
) -> DataLoader[list[Batch]]:
    """Shuffled blocks, others in each epoch."""
    block = 1 if one_at_a_time or isinstance(split, LiveImages) else BLOCK
    order = Order(len(split.labels), batch_size, block=block, seed=seed, rank=rank, world=world)
    return _loader(split, order, seed if isinstance(split, LiveImages) and split.augment else None)


def evaluation_batches(split: Split, *, rank: int = 0, world: int = 1) -> DataLoader[list[Batch]]:
    """The split in order; all of it in one block where nothing is loaded."""
    n = len(split.labels)
    block = 1 if isinstance(split, LiveImages) else -(-n // EVALUATION_BATCH)
    return _loader(split, Order(n, EVALUATION_BATCH, block=block, rank=rank, world=world), None)


def _loader(split: Split, order: Order, augmented_by: int | None) -> DataLoader[list[Batch]]:
    if not isinstance(split, LiveImages):
        return DataLoader(_AsOrdered(), sampler=order, batch_size=None)
    loaded, workers = LoadedBatches(split, augmented_by), split.workers
    # Workers stay from epoch to epoch: starting them takes as long as many batches.
    return DataLoader(loaded, sampler=order, batch_size=None, num_workers=workers, persistent_workers=workers > 0)


def embed(split: Split, adapter: Adapter | None, hvit: HookedViT, batch: Batch) -> Float[Tensor, "batch d_out"]:
    """Edited embeddings of a batch, the adapter's hooks in force."""
    if isinstance(split, LiveImages):
        return hvit(cast(Tensor, batch.pixels).to(hvit.device, hvit.dtype))
    rows = batch.rows.to(split.labels.device)
    if not isinstance(split, Coordinates):
        return split.embed(hvit, rows)
    if adapter is None:
        raise InputError("Coordinates are what an adapter makes of samples: pass adapter=.")
    return split.embed(adapter, rows)


@torch.no_grad()
def hits(split: Split, adapter: Adapter | None, hvit: HookedViT, classifier: ZeroShotClassifier, batch: Batch) -> float:
    """How many samples of a batch are classified as their labels say; NaN where that cannot be said.

    The largest of logits that are NaN is the first, and an embedding of infinite length scores 0 everywhere.
    """
    embedding = embed(split, adapter, hvit, batch)
    logits = classifier.logits(embedding) if adapter is None else adapter.logits(embedding, classifier)
    finite = logits.isfinite().all() & embedding.norm(dim=-1).isfinite().all()
    chosen = logits.argmax(dim=-1).to(split.labels.device)
    right = (chosen == split.labels[batch.rows.to(split.labels.device)])[: batch.share].sum()
    # One number, so that an accelerator is waited for once.
    return float(torch.where(finite.to(right.device), right.double(), math.nan))


def on_device(split: Split, device: torch.device) -> Split:
    """Coordinates where the scales are; other splits move their batches."""
    if not isinstance(split, Coordinates) or split.values.device == device:
        return split
    moved = {field.name: getattr(split, field.name) for field in fields(split)}
    return replace(split, **{name: x.to(device) for name, x in moved.items() if isinstance(x, Tensor)})
