"""Made-up activation stores of real sizes, for `benchmark_spectra.py`: the spectrum falls off as that of heads does."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from residual_lens import Store
from residual_lens.activations.blocks import Arrays, BlockFile, PieceKey
from residual_lens.activations.hdf5 import Header, create
from residual_lens.activations.layout import WRITTEN, Layout
from residual_lens.activations.provenance import Provenance
from residual_lens.activations.shards import StoredWeights


class Sizes(NamedTuple):
    """Of a model with a class token."""

    n_layers: int
    n_heads: int
    d_head: int
    d_model: int
    d_out: int


SIZES = {"ViT-B/16": Sizes(12, 12, 64, 768, 512), "ViT-L/14": Sizes(24, 16, 64, 1024, 768)}


def made_up_store(path: Path, model: str, n_samples: int, *, seed: int = 0) -> tuple[Store, float]:
    """A store, and how many megabytes a second it was written with, waiting for the disk included."""
    sizes = SIZES[model]
    layout = Layout(n_samples, 1024, "int16", "own", *sizes, 1, 1, False, False)
    made = Provenance(
        model=f"made-up {model}",
        model_fingerprint="",
        model_dtype="torch.float32",
        pooling="class token",
        center="own",
        preprocessing={},
        data="made up",
        split="train",
        data_fingerprint="",
        classes=(),
        n_samples=n_samples,
        value_format="int16",
        batch_size=32,
    )
    generator = torch.Generator().manual_seed(seed)
    weights = StoredWeights(
        torch.randn(sizes.n_layers, sizes.n_heads, sizes.d_head, sizes.d_model, generator=generator),
        torch.randn(sizes.n_layers, sizes.d_model, generator=generator),
        torch.randn(1, sizes.d_model, sizes.d_out, generator=generator),
        torch.randn(1, sizes.d_out, generator=generator),
        torch.ones(sizes.d_model),
    )
    ids = np.array([f"{row:06d}".encode() for row in range(n_samples)])
    header = Header(layout, made, 0)
    create(path, header, {**weights.as_constants(), "samples/id": ids})
    file = BlockFile(path, writable=True)
    seconds, written = 0.0, 0
    for block, contents in _blocks(layout, generator):
        started = time.perf_counter()
        file.write(block, contents)
        seconds += time.perf_counter() - started
        written += sum(values.nbytes for arrays in contents.values() for values in arrays)
    file.close()
    return Store(path), written / 1e6 / seconds


def _blocks(layout: Layout, generator: torch.Generator) -> Iterator[tuple[int, dict[PieceKey, Arrays]]]:
    """Normal numbers; a head's coordinates have standard deviations from 1 to 0.002 and a mean of 0.3."""
    spread = torch.exp(-torch.arange(layout.d_head) / 10)
    for block in range(layout.n_blocks):
        rows = len(layout.rows_of(block))
        heads = torch.randn(len(layout.head_names), rows, layout.d_head, generator=generator) * spread + 0.3
        terms = torch.randn(len(layout.term_names), rows, layout.d_model, generator=generator)
        packed = {"heads": layout.head_packing.pack(heads), "terms": layout.term_packing.pack(terms)}
        scale = (1 + 0.2 * torch.rand(rows, 1, generator=generator)).reciprocal().numpy()
        contents: dict[PieceKey, Arrays] = {}
        for key, piece in layout.pieces().items():
            group, unit = key
            if group in packed:
                contents[key] = tuple(values[unit] for values in packed[group])
            elif group == "samples/inverse_scale":
                contents[key] = (scale,)
            elif group == "samples/status":
                contents[key] = (np.full(rows, WRITTEN, dtype=np.uint8),)
            else:
                contents[key] = tuple(np.ones(array.shape(rows), array.dtype) for array in piece.arrays)
        yield block, contents
