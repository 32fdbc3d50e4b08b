"""How many dimensions units' contributions take up, by several measures, from a store."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from tqdm import tqdm

from residual_lens.activations import Rows, Store
from residual_lens.bases import Basis, fit_bases
from residual_lens.errors import InputError
from residual_lens.spectral import linear_dimension, participation_ratio, two_nn


@dataclass(frozen=True)
class UnitDimensions:
    """Measures of one unit's direct contributions over a data set."""

    unit: str
    """Its name."""
    n_samples: int
    """Samples that were measured."""
    linear: int
    """Principal components that hold a given share of the variance."""
    two_nn: float
    """Intrinsic dimension by TwoNN, at the scale of the nearest neighbours among these samples."""
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
    rows: Rows = None,
    share: float = 0.99,
    progress: bool = False,
) -> list[UnitDimensions]:
    """Linear and nonlinear dimensions of units' contributions.

    The linear dimension is the least number of principal components with a share of the variance. The intrinsic one is
    TwoNN (Facco et al. 2017; see `two_nn`): it depends on the number of samples, which set how far neighbours are away,
    so compare data sets at equal numbers.

    Heads are measured in their low-rank coordinates, which have the distances and variances of their contributions
    exactly (see `HeadFrames`); other units in `d_out` dimensions. One unit's samples are in memory at a time.

    Args:
        store: an activation store.
        units: which units (`Units.select`); `bias`, which no unit writes, is left out of "all" and refused by name.
        rows: which samples; all by default.
        share: of the variance, for the linear dimension; above 0, at most 1.
        progress: show progress bars.

    Returns:
        One a unit, in the order of the model. A unit that does not vary has dimension 0 by every measure.

    Raises:
        InputError: no such units or rows, fewer than three samples, or three distinct ones of a unit that varies.
        StoreError: what is read is damaged.

    Example:
        >>> with Store("digits.h5") as store:  # doctest: +SKIP
        ...     unit_dimensions(store, "L3H5")[0].two_nn
        6.1
    """
    if not 0 < share <= 1:
        raise InputError(f"share is of the variance, above 0 and at most 1, got {share}.")
    n_samples = len(store.inverse_scales(rows))
    if n_samples < 3:
        raise InputError(f"Dimensions need at least three samples, got {n_samples} of {store.path}.")
    bases = fit_bases(store, units=units, rows=rows, progress=progress)
    bar = tqdm(bases.items(), desc="dimensions", unit="unit", total=len(bases), disable=not progress)
    return [_measured(store, unit, basis, rows, share) for unit, basis in bar]


def _measured(store: Store, unit: str, basis: Basis, rows: Rows, share: float) -> UnitDimensions:
    points, _ = store.coordinates(unit, rows)
    if basis.total_variance == 0:
        return UnitDimensions(unit, len(points), 0, 0.0, 0.0, len(points) - 1, 0.0, 0.0)
    try:
        neighbours = two_nn(points)
    except InputError as error:
        raise InputError(f"{unit} of {store.path} has no TwoNN dimension. {error}") from error
    variances = basis.variances.double()
    return UnitDimensions(
        unit=unit,
        n_samples=len(points),
        linear=int(linear_dimension(variances, threshold=share)),
        two_nn=neighbours.dimension,
        two_nn_error=neighbours.standard_error,
        n_duplicates=neighbours.n_duplicates,
        participation_ratio=float(participation_ratio(variances)),
        first_share=float(variances[0] / basis.total_variance),
    )
