"""One run of a model over a data set, into a store, from wherever the last run stopped."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from math import ceil
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from residual_lens.activations.blocks import BlockFile
from residual_lens.activations.formats import check_format
from residual_lens.activations.hdf5 import Header
from residual_lens.activations.layout import Layout
from residual_lens.activations.loading import Batch, batches_of
from residual_lens.activations.provenance import Provenance
from residual_lens.activations.recording import BlockRecord, layout_of, weights_of
from residual_lens.activations.shards import StoredWeights, present, shard_blocks, shard_path, shards_begun
from residual_lens.activations.store import Store
from residual_lens.activations.writer import StoreWriter, partial_of, require_same
from residual_lens.data.images import CorruptImageError, ImageSet
from residual_lens.decomposition import UnitTerms
from residual_lens.errors import InputError, MismatchError, StoreError
from residual_lens.hooked import HookedViT

logger = logging.getLogger(__name__)

BLOCK_ROWS = 1024
"""Rows written at once: 128 KiB of a head in 16 bits, and one wait for the disk."""

OnCorrupt = Literal["raise", "skip"]


def encode(
    hvit: HookedViT,
    images: ImageSet,
    path: str | Path,
    *,
    value_format: str = "int16",
    batch_size: int = 32,
    on_corrupt: OnCorrupt = "raise",
    workers: int | None = None,
    process: int = 0,
    n_processes: int = 1,
    progress: bool = False,
) -> Store | None:
    """Run a model once over a data set and write what every unit gave for every sample.

    A run that was stopped, in whatever way, goes on where it was: call this again with the same arguments. What is
    written in the end does not depend on it.

    Args:
        hvit: the model, in eval mode and without hooks.
        images: the data (`open_images`).
        path: file to write; it bears this name once it is whole.
        value_format: how values lie on disk: "int16" (scaled; as short as float16 and ten times as exact), "float16",
            "bfloat16" or "float32".
        batch_size: images in a forward pass.
        on_corrupt: what to do with images that cannot be read: "raise", or "skip" them, each with a warning.
        workers: processes that load images beside the model; by default one for each CPU on a GPU, else none.
        process: which of several processes this is; each writes a shard, and the last to finish presents them.
        n_processes: how many there are.
        progress: show a progress bar.

    Returns:
        The store; `None` where other processes still write theirs.

    Raises:
        InputError: arguments, a model with hooks or in train mode, values that the format cannot hold.
        MismatchError: the file was begun, or is there already, from something else; with the fields that differ.
        StoreError: another process writes it, the disk is full, or what was begun is damaged.
        CorruptImageError: an image cannot be read. What was written before is safe.
        UnsupportedModelError: the model's preprocessing is not known.
    """
    _check(hvit, images, batch_size, on_corrupt, workers, process, n_processes)
    path = Path(path)
    terms, embedding = _run(hvit, torch.zeros(1, 3, *hvit.cfg.image_size, dtype=hvit.dtype, device=hvit.device))
    # Whole batches, so that their rows round alike however many processes there are; and a block for each process.
    block_rows = batch_size * max(1, min(BLOCK_ROWS, ceil(len(images) / n_processes)) // batch_size)
    layout = layout_of(
        terms, embedding, n_rows=len(images), block_rows=block_rows, value_format=check_format(value_format)
    )
    blocks = shard_blocks(layout.n_blocks, process, n_processes)
    if layout.n_blocks < n_processes:
        raise InputError(
            f"{images.name}/{images.split} has {len(images)} images, {layout.n_blocks} blocks of {block_rows}: too few "
            f"for {n_processes} processes. Use fewer, or a smaller batch size."
        )
    made = _provenance(hvit, images, layout, batch_size)
    _check_other_shards(path, n_processes)
    if path.exists():
        return _complete(_finished(path, made), on_corrupt)
    first, stop = layout.rows_of(blocks[0]).start, layout.rows_of(blocks[-1]).stop
    shard = shard_path(path, process, n_processes)
    if workers is None:
        workers = max(1, _cpus() // n_processes) if hvit.device.type == "cuda" else 0
    job = _Job(hvit, images, layout, batch_size, on_corrupt, workers, progress)
    job.run(shard, range(first, stop), made, weights_of(terms, layout))
    shards = [shard_path(path, index, n_processes) for index in range(n_processes)]
    if not all(other.exists() for other in shards):
        logger.info("%s is written; other processes are at work on theirs.", shard)
        return None
    if n_processes > 1:
        present(path, shards)
    return _complete(Store(path), on_corrupt)


@dataclass(frozen=True)
class _Job:
    """What to run, and how."""

    hvit: HookedViT
    images: ImageSet
    layout: Layout
    batch_size: int
    on_corrupt: OnCorrupt
    workers: int
    progress: bool

    def run(self, shard: Path, rows: range, made: Provenance, weights: StoredWeights) -> None:
        """Write one file, unless it is there."""
        layout = replace(self.layout, n_rows=len(rows))
        header = Header(layout, made, rows.start)
        if shard.exists():
            file = BlockFile(shard)
            file.close()
            return require_same(shard, file.header, header)
        ids = np.array([os.fsencode(self.images.sample_id(row)) for row in rows], dtype=np.bytes_)
        constants = {**weights.as_constants(), "samples/id": ids}
        with StoreWriter.opened(shard, header, constants) as writer:
            done = writer.file.rows_committed()
            bar = tqdm(
                total=len(rows), initial=done, desc=shard.name, unit="image", disable=not self.progress, smoothing=0.05
            )
            with bar:
                record, left = None, 0
                for batch in self._batches(layout, writer.missing, rows.start):
                    if record is None:
                        record, left = BlockRecord(layout, weights, batch.block), len(layout.rows_of(batch.block))
                    self._fill(record, batch)
                    bar.update(batch.n_rows)
                    left -= batch.n_rows
                    if not left:
                        writer.write(batch.block, record.contents())
                        record = None
            writer.finish()

    def _batches(self, layout: Layout, blocks: Sequence[int], first_row: int) -> Iterator[Batch]:
        preprocessing, size = self.hvit.preprocessing, self.batch_size
        return batches_of(
            self.images, preprocessing, layout, blocks, first_row=first_row, batch_size=size, workers=self.workers
        )

    def _fill(self, record: BlockRecord, batch: Batch) -> None:
        for failure in batch.failures:
            if self.on_corrupt == "raise":
                raise CorruptImageError(f"{failure} Mend it and run again, or pass on_corrupt='skip'.") from failure
            logger.warning("Skipped: %s", failure)
        if batch.rows:
            pixels = cast(Tensor, batch.pixels).to(self.hvit.device, self.hvit.dtype)
            record.fill(batch.rows, *_run(self.hvit, pixels), batch.labels)


@torch.inference_mode()
def _run(
    hvit: HookedViT, pixels: Float[Tensor, "batch 3 height width"]
) -> tuple[UnitTerms, Float[Tensor, "batch d_out"]]:
    run = hvit.stream(pixels, hvit.center)
    return cast(UnitTerms, run.terms), run.embedding


def _check(
    hvit: HookedViT,
    images: ImageSet,
    batch_size: int,
    on_corrupt: str,
    workers: int | None,
    process: int,
    n_processes: int,
) -> None:
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}.")
    if on_corrupt not in ("raise", "skip"):
        raise InputError(f"on_corrupt must be 'raise' or 'skip', got {on_corrupt!r}.")
    if workers is not None and workers < 0:
        raise InputError(f"workers must be 0 or more, got {workers}.")
    if not 0 <= process < n_processes:
        raise InputError(f"process must be one of 0 to {n_processes - 1}, got {process}.")
    if len(images) == 0:
        raise InputError(f"{images.name}/{images.split} has no images.")
    if hvit.training:
        raise InputError("The model is in train mode, where dropout makes every run another: call eval().")
    hooked = hvit.hooked_points()
    if hooked:
        raise MismatchError(
            f"A hook at {hooked[0]} is in force, which a store would not tell of: leave its context first."
        )
    if torch.is_autocast_enabled(hvit.device.type):
        raise MismatchError("Autocast is on, which a store would not tell of: cast the model instead, hvit.to(dtype).")


def _provenance(hvit: HookedViT, images: ImageSet, layout: Layout, batch_size: int) -> Provenance:
    return Provenance(
        model=hvit.cfg.model_name,
        model_fingerprint=hvit.fingerprint(),
        model_dtype=str(hvit.dtype),
        pooling=hvit.cfg.pooling,
        center=layout.center,
        preprocessing=hvit.preprocessing.to_dict(),
        data=images.name,
        split=images.split,
        data_fingerprint=images.fingerprint(),
        classes=images.classes,
        n_samples=len(images),
        value_format=layout.value_format,
        batch_size=batch_size,
        versions={"residual_lens": version("residual_lens"), "torch": torch.__version__},
    )


def _finished(path: Path, made: Provenance) -> Store:
    """A store that is there already, if it is the one that was asked for."""
    store = Store(path)
    try:
        store.provenance.require(
            made, f"{path} is there already, and was made from something else", "Give another file, or delete it."
        )
    except MismatchError:
        store.close()
        raise
    return store


def _complete(store: Store, on_corrupt: OnCorrupt) -> Store:
    """A store without gaps, unless they were asked for."""
    if on_corrupt == "skip" or not store.skipped_ids:
        return store
    missing = store.skipped_ids
    store.close()
    raise MismatchError(
        f"{store.path} lacks {len(missing)} images that could not be read, the first of them {missing[0]}: pass "
        "on_corrupt='skip' to take it as it is, or delete it."
    )


def _cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_other_shards(path: Path, n_processes: int) -> None:
    """Refuse to begin anew beside what another number of processes has begun."""
    if n_processes > 1 and partial_of(path).exists():
        raise StoreError(f"{partial_of(path)} was begun by one process: go on with one, or delete it.")
    for other, count in shards_begun(path).items():
        if count != n_processes and not path.exists():
            raise StoreError(f"{other} was begun by {count} processes: go on with as many, or delete its shards.")
