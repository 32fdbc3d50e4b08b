"""The samples at both ends of units' principal components."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from residual_lens.activations import Rows, Store
from residual_lens.bases import Bases, Basis
from residual_lens.figures.images import coordinates_along


@dataclass(frozen=True)
class Ends:
    """Of one component."""

    low: tuple[int, ...]
    """Samples of smallest coordinate, the very smallest first: places in the store."""
    high: tuple[int, ...]
    """Of largest."""


@torch.no_grad()
def component_ends(
    store: Store, bases: Bases, n_components: int, n_ends: int, *, rows: Rows = None, progress: bool = False
) -> Mapping[str, tuple[Ends, ...]]:
    """The samples of smallest and largest coordinate along the first components of each unit, in one pass.

    Args:
        store: where coordinates come from.
        bases: of its units.
        n_components: of each unit, those of largest variance; fewer where a unit varies along fewer.
        n_ends: samples at each end, at most half of all.
        rows: samples to choose from; all by default.
        progress: show a progress bar.

    Returns:
        By unit.

    Raises:
        StoreError: what is read is damaged.
    """
    places = np.sort(store.places(rows))
    n_ends = min(n_ends, len(places) // 2)
    found = {}
    for unit, basis in tqdm(bases.items(), desc="ends", unit="unit", disable=not progress):
        along = coordinates_along(store, unit, basis.components[:n_components], places)
        order = along.argsort(dim=0, stable=True).numpy()
        lows, highs = places[order[:n_ends]], places[order[::-1][:n_ends]]
        found[unit] = tuple(
            Ends(tuple(lows[:, at].tolist()), tuple(highs[:, at].tolist()))
            for at in range(_varying(basis, n_components))
        )
    return found


def _varying(basis: Basis, n_components: int) -> int:
    """How many of the first components are more than rounding."""
    return int((basis.variances[:n_components] > 1e-9 * basis.total_variance).sum())
