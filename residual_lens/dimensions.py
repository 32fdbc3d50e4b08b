"""How many dimensions units' contributions take up, by several measures, from a store."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from tqdm import tqdm

from residual_lens.activations import Store
from residual_lens.bases import fit_bases
from residual_lens.errors import InputError
from residual_lens.spectral import linear_dimension, participation_ratio, two_nn


@dataclass(frozen=True)
class UnitDimensions:
    """Measures of one unit's direct contributions over a data set."""

    unit: str
    """Its name."""
    linear: int
    """Principal components that carry a given share of the variance."""
    two_nn: float
    """Intrinsic dimension (Facco et al. 2017)."""
    two_nn_error: float
    """Its standard error."""
    n_duplicates: int
    """Samples that repeat another one's contribution to the last digit, left out of TwoNN."""
    participation_ratio: float
    """`(Σλ)² / Σλ²` of the variances."""
    first_share: float
    """Share of the variance along the first component."""


@torch.no_grad()
def unit_dimensions(
    store: Store,
    units: str | Iterable[str] = "heads",
    *,
    share: float = 0.99,
    progress: bool = False,
) -> list[UnitDimensions]:
    """Linear and nonlinear dimensions of units' contributions.

    Heads are measured in their low-rank coordinates, which have the distances and variances of their contributions
    exactly (see `HeadFrames`); other units in `d_out` dimensions.

    Args:
        store: an activation store.
        units: which units (`Units.select`).
        share: of the variance, for the linear dimension.
        progress: show a progress bar.

    Returns:
        One a unit, in the order of the model. A unit that does not vary has dimension 0 by every measure.

    Raises:
        InputError: no such units, or `bias`; fewer than three samples.
    """
    if len(store) < 3:
        raise InputError(f"Dimensions need at least three samples, {store.path} has {len(store)}.")
    bases = fit_bases(store, units=units)
    results = []
    for unit in tqdm(list(bases), desc="dimensions", unit="unit", disable=not progress):
        variances = bases[unit].variances.double()
        total = bases[unit].total_variance
        if total == 0:
            result = UnitDimensions(unit, 0, 0.0, 0.0, len(store) - 1, 0.0, 0.0)
        else:
            neighbours = two_nn(_points(store, unit))
            result = UnitDimensions(
                unit=unit,
                linear=int(linear_dimension(variances, threshold=share)),
                two_nn=neighbours.dimension,
                two_nn_error=neighbours.standard_error,
                n_duplicates=neighbours.n_duplicates,
                participation_ratio=float(participation_ratio(variances)),
                first_share=float(variances[0] / total),
            )
        results.append(result)
    return results


def _points(store: Store, unit: str) -> torch.Tensor:
    """Contributions, or what is isometric to them."""
    if store.units[unit].kind != "head":
        return store.decompose(units=unit, dtype=torch.float64).values[:, 0]
    frames = store.head_frames
    mixing = frames.mixing[frames.units.index(unit)]
    return store.head_features(units=unit, dtype=torch.float64)[:, 0] @ mixing
