"""Principal bases from an activation store: one streaming pass, whatever the number of samples."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from residual_lens.activations import Rows, Store
from residual_lens.bases.assembling import analysed_units, bases_of_moments
from residual_lens.bases.basis import Bases
from residual_lens.errors import InputError
from residual_lens.spectral import StreamingPCA
from residual_lens.spectral.moments import moments_of_pieces
from residual_lens.units import Unit

Places = Int[np.ndarray, "_"]
BLOCKS = 8
"""Blocks of a head with one route that are read at once: enough work for a thread between two of Python's locks."""


def bases_of_store(store: Store, units: str | Iterable[str], rows: Rows, *, progress: bool) -> Bases:
    """See `fit_bases`."""
    chosen = analysed_units(store.units, units)
    # In the order of the file, whatever order rows are given in: each block of it is read once a unit.
    places = np.sort(store.places(rows))
    blocks = list(store.blocks(places))
    n_blocks = max(1, BLOCKS // store.layout.n_routes)
    several = [np.concatenate(blocks[i : i + n_blocks]) for i in range(0, len(blocks), n_blocks)]
    n_samples = len(places)
    if n_samples < 2:
        raise InputError(f"fit_bases needs at least two samples, got {n_samples}.")
    heads = [unit for unit in chosen if unit.kind == "head"]
    others = [unit for unit in chosen if unit.kind != "head"]
    made = store.provenance
    with tqdm(total=len(chosen) * n_samples, desc="fitting bases", unit="row", disable=not progress) as bar:

        def pca(
            units: Sequence[Unit],
            pieces: Sequence[Places],
            read: Callable[[Unit, Places], Float[Tensor, "sample feature"]],
        ) -> StreamingPCA:
            def piece(unit: int, places: Places) -> Float[Tensor, "sample feature"]:
                bar.update(len(places))
                return read(units[unit], places)

            moments = moments_of_pieces(len(units), pieces, piece) if units else None
            return StreamingPCA() if moments is None else StreamingPCA.from_moments(moments)

        return bases_of_moments(
            chosen,
            heads=pca(heads, several, store.head_reader(n_blocks)),
            frames=store.head_frames,
            others=pca(
                others, blocks, lambda unit, at: store.decompose(at, unit.name, dtype=torch.float64).values[:, 0]
            ),
            d_head=store.layout.d_head,
            center=store.layout.center,
            scale=float(1 / store.inverse_scales(rows).double().mean()),
            model_name=made.model,
            fingerprint=made.model_fingerprint,
            provenance=made.as_json(),
        )
