"""How many dimensions data really has: TwoNN of samples, and linear measures of a spectrum."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from residual_lens.errors import InputError
from residual_lens.spectral.neighbours import check_samples, distinct_rows, two_nearest


@dataclass(frozen=True)
class TwoNNResult:
    """Intrinsic dimension of one set of samples."""

    dimension: float
    """Slope of `−log(1 − F)` on `log μ`."""
    standard_error: float
    """Of the slope, for independent `μ` (see `two_nn`)."""
    scale: float
    """Mean distance to the two nearest neighbours, in the units of the data: where the dimension was read."""
    n_used: int
    """Distinct samples."""
    n_duplicates: int
    """Samples left out because an earlier one equals them in every entry."""


@dataclass(frozen=True)
class Decimation:
    """TwoNN over random subsamples of one size."""

    size: int
    """Samples in each."""
    repeats: int
    """How many subsamples."""
    mean: float
    """Mean dimension over them."""
    std: float | None
    """Standard deviation of the dimension over them (over `repeats − 1`); None for a single one."""
    scale: float
    """Mean distance to the two nearest neighbours."""


def two_nn(x: Shaped[Tensor, "..."], *, discard: float = 0.1) -> TwoNNResult:
    """Intrinsic dimension from the ratio of the distances to the second and the first neighbour.

    With `μ = r₂ / r₁` sorted and `F(μ_(i)) = i / n`, the slope through the origin of `−log(1 − F)` on `log μ` over all
    but the largest `discard` of the ratios (Facco, d'Errico, Rodriguez & Laio 2017, Sci. Rep. 7:12140).
    Copies of a sample say nothing about the manifold and are left out first. Distances are exact (see `two_nearest`).

    The standard error is that of the slope: `d log μ_(i)` are order statistics of exponentials, sums of independent
    terms `E_j / (n − j + 1)` (Rényi 1953), so to first order `se = d √(Σ_j (Σ_{i≥j} y_i / (n − j + 1))²) / Σ y²` with
    `y_i = −log(1 − i/n)`. It takes the μ of different samples for independent.

    Args:
        x: `[sample feature]`, floating, need not be centred; at least 3 distinct samples.
        discard: share of the largest ratios to leave out; the very largest never enters, its `F` being 1.

    Raises:
        InputError: bad samples, fewer than 3 distinct ones, a `discard` outside [0, 1) or that leaves nothing, or
            neighbours at equal distances (a grid), whose ratios hold no dimension.

    Example:
        >>> plane = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
        >>> result = two_nn(torch.cat([plane, plane @ torch.ones(2, 3), plane[:, :1]], dim=1))
        >>> round(result.dimension, 1), result.n_duplicates
        (2.0, 0)
    """
    check_samples(x)
    if not 0 <= discard < 1:
        raise InputError(f"discard is a share of the samples, at least 0 and below 1, got {discard}.")
    samples = _distinct(x)
    n = len(samples)
    first, second = two_nearest(samples)
    # 1 − 0.1 is not 9 / 10 in binary: a whole number must not be rounded to the one below.
    fitted = min(math.floor(n * (1 - discard) + 1e-9), n - 1)
    if fitted < 1:
        raise InputError(f"discard={discard} leaves none of {n} samples: discard less.")
    logs = (second / first).log()
    log_ratios, order = logs.sort()
    log_ratios = log_ratios[:fitted]
    # Coordinates are given to half an eps of themselves, which moves two distances by up to this together.
    norm = max(float(rows.double().norm(dim=1).max()) for rows in samples.split(1024))
    resolution = 2 * torch.finfo(samples.dtype).eps * norm / first[order[:fitted]]
    if (log_ratios <= resolution).all():
        raise InputError(
            f"The two nearest neighbours of at least {fitted} of {n} samples are equally far, as on a regular grid: "
            "TwoNN needs samples drawn at random."
        )
    ranks = torch.arange(1, fitted + 1, dtype=torch.float64, device=logs.device)
    heights = -(-ranks / n).log1p()
    dimension = float(heights @ log_ratios / (log_ratios @ log_ratios))
    tails = heights.flip(0).cumsum(0).flip(0) / (n - ranks + 1)
    return TwoNNResult(
        dimension=dimension,
        standard_error=dimension * float(tails.norm() / (heights @ heights)),
        scale=float((first + second).mean() / 2),
        n_used=n,
        n_duplicates=len(x) - n,
    )


def two_nn_scaling(
    x: Shaped[Tensor, "..."],
    fractions: Sequence[float] = (1.0, 0.5, 0.25, 0.125, 0.0625),
    *,
    repeats: int | None = None,
    discard: float = 0.1,
    seed: int = 0,
) -> tuple[Decimation, ...]:
    """TwoNN over ever smaller random subsamples, whose neighbours are ever further away (Facco et al. 2017).

    A dimension that stays where it is while the scale grows is the manifold's; one that falls is that of noise at the
    smallest scale. Subsamples of one size are disjoint as long as there are samples left, then drawn anew.

    Args:
        x: `[sample feature]`, floating. Copies are left out before the subsamples are drawn.
        fractions: of the distinct samples, each above 0 and at most 1.
        repeats: subsamples of every size; by default as many as are disjoint (`1 / fraction`).
        discard: see `two_nn`.
        seed: of the draw.

    Returns:
        One entry a fraction, in their order.

    Raises:
        InputError: as `two_nn`, a fraction out of range or of fewer than 3 samples, or no repeats.

    Example:
        >>> x = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
        >>> [(at.size, at.repeats) for at in two_nn_scaling(x, (1.0, 0.3))]
        [(1000, 1), (300, 3)]
    """
    check_samples(x)
    if repeats is not None and repeats < 1:
        raise InputError(f"repeats must be at least 1, got {repeats}.")
    samples = _distinct(x)
    for fraction in fractions:
        if not 0 < fraction <= 1 or round(fraction * len(samples)) < 3:
            raise InputError(
                f"A fraction must be above 0, at most 1 and of at least 3 samples, got {fraction} of {len(samples)}."
            )
    generator = torch.Generator().manual_seed(seed)
    curve = []
    for fraction in fractions:
        size = round(fraction * len(samples))
        count = repeats or len(samples) // size
        results = [two_nn(samples[rows], discard=discard) for rows in _subsamples(len(samples), size, count, generator)]
        dimensions = torch.tensor([result.dimension for result in results], dtype=torch.float64)
        curve.append(
            Decimation(
                size=size,
                repeats=count,
                mean=float(dimensions.mean()),
                std=float(dimensions.std()) if count > 1 else None,
                scale=sum(result.scale for result in results) / count,
            )
        )
    return tuple(curve)


def linear_dimension(variances: Float[Tensor, "*unit component"], *, threshold: float = 0.99) -> Int[Tensor, "*unit"]:
    """The least number of components that hold a share `threshold` of the variance; 0 for a unit that does not vary.

    Args:
        variances: of all components of every unit, in any order and unit of measure.
        threshold: above 0, at most 1. Shares that miss it by rounding alone count as reaching it.

    Raises:
        InputError: variances that are negative, not finite or missing, or a threshold out of range.

    Example:
        >>> linear_dimension(torch.tensor([[90.0, 9.0, 1.0], [0.0, 0.0, 0.0]])).tolist()
        [2, 0]
    """
    if not 0 < threshold <= 1:
        raise InputError(f"threshold is a share of the variance, above 0 and at most 1, got {threshold}.")
    shares = _shares(variances, largest_first=True)
    # What summing in the data's own precision can lose of a share.
    rounding = variances.shape[-1] * torch.finfo(torch.promote_types(variances.dtype, torch.float32)).eps
    cumulative = shares.cumsum(dim=-1)
    reached = cumulative >= threshold - rounding
    # The last component that varies completes the variance, whatever the sum says.
    reached |= (shares > 0).sum(dim=-1, keepdim=True) <= torch.arange(1, shares.shape[-1] + 1, device=shares.device)
    first = reached.int().argmax(dim=-1) + 1
    return torch.where(shares.any(dim=-1), first, 0)


def participation_ratio(variances: Float[Tensor, "*unit component"]) -> Float[Tensor, "*unit"]:
    """`(Σλ)² / Σλ²`: the number of equal variances that would be as spread out; 0 for a unit that does not vary.

    Source: Gao et al. 2017, bioRxiv 214262, equation 5.

    Args:
        variances: `λ` of all components of every unit, in any order and unit of measure.

    Returns:
        Float64, between 1 and the number of components.

    Raises:
        InputError: variances that are negative, not finite or missing.

    Example:
        >>> participation_ratio(torch.tensor([[2.0, 2.0, 0.0], [0.0, 0.0, 0.0]])).tolist()
        [2.0, 0.0]
    """
    squares = _shares(variances).square().sum(dim=-1)
    return torch.where(squares > 0, 1 / squares.where(squares > 0, 1.0), 0.0)


def effective_rank(variances: Float[Tensor, "*unit component"]) -> Float[Tensor, "*unit"]:
    """`exp(−Σ p log p)` of the *singular values'* shares `p = √λ / Σ√λ`; 0 for a unit that does not vary.

    Source: Roy & Vetterli 2007, EUSIPCO, definition 1. Singular values of centred data are `√λ` up to a common factor.

    Args:
        variances: `λ` of all components of every unit, in any order and unit of measure.

    Returns:
        Float64, between 1 and the number of components.

    Raises:
        InputError: variances that are negative, not finite or missing.

    Example:
        >>> effective_rank(torch.tensor([[4.0, 4.0, 0.0], [0.0, 0.0, 0.0]])).tolist()
        [2.0, 0.0]
    """
    roots = _shares(variances).sqrt()
    total = roots.sum(dim=-1, keepdim=True)
    shares = roots / total.where(total > 0, 1.0)
    return torch.where(total[..., 0] > 0, torch.special.entr(shares).sum(dim=-1).exp(), 0.0)


def _distinct(x: Float[Tensor, "sample feature"]) -> Float[Tensor, "kept feature"]:
    """The samples without copies, at least 3."""
    kept = distinct_rows(x)
    if len(kept) < 3:
        raise InputError(f"TwoNN needs at least 3 distinct samples, got {len(kept)} among {len(x)}.")
    return x if len(kept) == len(x) else x[kept]


def _subsamples(total: int, size: int, count: int, generator: torch.Generator) -> list[Int[Tensor, "sample"]]:
    """Random sets of `size` samples, `total // size` of them from each permutation."""
    subsets: list[Tensor] = []
    while len(subsets) < count:
        permutation = torch.randperm(total, generator=generator)
        subsets += permutation[: total // size * size].split(size)
    return subsets[:count]


def _shares(
    variances: Float[Tensor, "*unit component"], *, largest_first: bool = False
) -> Float[Tensor, "*unit component"]:
    """Each variance over the unit's total, float64; all 0 where the total is."""
    if 0 in variances.shape:
        raise InputError(f"Expected at least one variance, got [... component] {list(variances.shape)}.")
    if not variances.isfinite().all() or (variances < 0).any():
        raise InputError("Variances must be finite and not negative: clamp what rounding left below 0.")
    variances = variances.detach().double()
    # By the largest first: a sum of squares neither overflows nor vanishes.
    largest = variances.amax(dim=-1, keepdim=True)
    variances = variances / largest.where(largest > 0, 1.0)
    if largest_first:
        variances = variances.sort(dim=-1, descending=True).values
    total = variances.sum(dim=-1, keepdim=True)
    return variances / total.where(total > 0, 1.0)
