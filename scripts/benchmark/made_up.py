"""Made-up data of real sizes: stores whose spectra fall off as those of heads do, and one head's contributions."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from residual_lens import Store
from residual_lens.activations.blocks import Arrays, BlockFile, PieceKey
from residual_lens.activations.hdf5 import Header, create
from residual_lens.activations.layout import WRITTEN, Layout
from residual_lens.activations.provenance import Provenance
from residual_lens.activations.shards import StoredWeights


class OfModel(NamedTuple):
    """Sizes of a model with a class token."""

    n_layers: int
    n_heads: int
    d_head: int
    d_model: int
    d_out: int


MODELS = {
    "ViT-B/16": OfModel(12, 12, 64, 768, 512),
    "ViT-L/14": OfModel(24, 16, 64, 1024, 768),
    "tiny": OfModel(2, 3, 16, 48, 32),
}


def store(folder: Path, model: str, n_samples: int) -> Store:
    """The folder's store of these sizes, written when it is first asked for."""
    path = folder / f"{model.replace('/', '-')}-{n_samples}.h5"
    if not path.exists():
        _write(path, model, n_samples)
    return Store(path)


def head_like(n_samples: int) -> Float[Tensor, "sample d_out"]:
    """A 65-dimensional affine subspace of 768 dimensions, float32."""
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(n_samples, 65, generator=generator) * torch.exp(-torch.arange(65) / 20)
    return low @ torch.randn(65, 768, generator=generator) / 768**0.5 + 0.1


def _write(path: Path, model: str, n_samples: int) -> None:
    sizes = MODELS[model]
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
    generator = torch.Generator().manual_seed(0)
    weights = StoredWeights(
        torch.randn(sizes.n_layers, sizes.n_heads, sizes.d_head, sizes.d_model, generator=generator),
        torch.randn(sizes.n_layers, sizes.d_model, generator=generator),
        torch.randn(1, sizes.d_model, sizes.d_out, generator=generator),
        torch.randn(1, sizes.d_out, generator=generator),
        torch.ones(sizes.d_model),
    )
    ids = np.array([f"{row:06d}".encode() for row in range(n_samples)])
    create(path, Header(layout, made, 0), {**weights.as_constants(), "samples/id": ids})
    file = BlockFile(path, writable=True)
    for block, contents in _blocks(layout, generator):
        file.write(block, contents)
    file.close()


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
