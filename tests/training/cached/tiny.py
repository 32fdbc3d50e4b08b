"""Few samples of a tiny model: in a store, in memory, as pixels; and adapters for them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from residual_lens.activations import Store
from residual_lens.bases import fit_bases
from residual_lens.hooked import HookedViT
from residual_lens.interventions import Adapter, ResiDual
from residual_lens.training import Coarse, LinearAdapter
from residual_lens.training.cached import cache_samples
from tests.activations.stores import encoded, image_set, pixels_of, wrapped
from tests.interventions.tiny_bases import cut

N = 12
LABELS = torch.arange(N) % 3
ROWS = torch.tensor([3, 11, 0, 9, 8])


def adapters(hvit: HookedViT, store: Store) -> Iterator[Adapter]:
    """Each kind of adapter, away from its start."""
    # Constant in these bases, with nothing to scale; and one with fewer components than its layer's other heads.
    bases = cut(fit_bases(store), {"L0H1": 0, "L1H0": 2, "0_mlp_out": 3})
    by_unit = dict(bases.by_unit) | {"L0H1": replace(bases["L0H1"], total_variance=0.0)}
    bases = replace(bases, by_unit=by_unit)
    for keep_mean in (False, True):
        yield ResiDual.from_bases(bases, keep_mean=keep_mean, seed=1)
        yield ResiDual.from_bases(bases, variant="residual*", explained_variance=0.3, keep_mean=keep_mean, seed=2)
    yield Coarse(hvit.cfg.n_layers, hvit.cfg.n_heads)
    yield LinearAdapter(hvit.cfg.d_out)


def sources(kind: str, center: str, folder: Path, *, dtype: torch.dtype = torch.float32):
    """A model, a store, samples in memory of the same images, and pixels."""
    hvit = wrapped(kind, center=center, dtype=dtype)
    images = image_set(N, hvit.cfg.image_size)
    store = encoded(hvit, images, folder / "a.h5", value_format="float32")
    pixels = pixels_of(hvit, images)
    return hvit, store, cache_samples(hvit, pixels, LABELS, batch_size=4), pixels
