"""Statistics of the ground-truth studies: bootstrap over images, intervals, rank correlation, multiple comparisons.

Whatever is computed from resampled images has a leading axis `draw`, whose first place is the images as they are. The
same draws serve before and after an edit and for all edits, so that differences are paired.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

LEVEL = 0.95
"""Of every interval."""


def resamples(n_images: int, n_draws: int, seed: int) -> Float[np.ndarray, "draw image"]:
    """How often each image is in each draw: once in the first, as often as drawn with replacement in the others."""
    generator = np.random.default_rng(seed)
    counts = np.ones((n_draws + 1, n_images), np.float32)
    for row in counts[1:]:
        row[:] = np.bincount(generator.integers(n_images, size=n_images), minlength=n_images)
    return counts


def resampled_means(
    values: Float[np.ndarray, "*rest image"], counts: Float[np.ndarray, "draw image"]
) -> Float[np.ndarray, "draw *rest"]:
    """Mean of every draw, over the images that have a value (the others are NaN); float64, NaN where none has."""
    flat = values.reshape(-1, values.shape[-1])
    present = ~np.isnan(flat)
    sums = counts @ np.where(present, flat, 0).astype(np.float32).T
    with np.errstate(invalid="ignore"):
        means = sums.astype(np.float64) / (counts @ present.astype(np.float32).T)
    return means.reshape(len(counts), *values.shape[:-1])


def interval(draws: Float[np.ndarray, "draw"]) -> list[float]:
    """Value, and percentile interval of the resampled values."""
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(draws[1:], [tail, 100 - tail])
    return [float(draws[0]), float(low), float(high)]


def over_attributes(draws: Float[np.ndarray, "draw attribute"], seed: int) -> Float[np.ndarray, "draw"]:
    """Mean over attributes, which are drawn with replacement as well: what other attributes might have given."""
    n_draws, n_attributes = draws.shape
    chosen = np.random.default_rng(seed).integers(n_attributes, size=(n_draws, n_attributes))
    chosen[0] = np.arange(n_attributes)
    return np.take_along_axis(draws, chosen, axis=1).mean(axis=1)


def rank_correlation(
    x: Float[np.ndarray, "*draw head"], y: Float[np.ndarray, "*draw head"]
) -> Float[np.ndarray, "*draw"]:
    """Spearman's ρ, ties at their mean rank; 0 where one of both is constant."""
    x, y = (rankdata(each, axis=-1) - (each.shape[-1] + 1) / 2 for each in (x, y))
    size = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    return (x * y).sum(axis=-1) / np.where(size > 0, size, 1)


def within_groups_p(
    x: Float[np.ndarray, "head"],
    y: Float[np.ndarray, "head"],
    groups: Int[np.ndarray, "head"],
    n_permutations: int,
    seed: int,
) -> float:
    """Chance of so large a ρ if heads were mixed within their groups (layers): one-sided, never below 1/(n + 1)."""
    # Sorting by group, then by noise, mixes within groups.
    noise = np.random.default_rng(seed).random((n_permutations, len(x)))
    order = np.argsort(groups + noise, axis=1, kind="stable")
    places = np.argsort(groups, kind="stable")
    mixed = np.empty((n_permutations, len(x)))
    mixed[:, places] = x[order]
    found = rank_correlation(mixed, np.broadcast_to(y, mixed.shape))
    return float((1 + (found >= rank_correlation(x, y) - 1e-12).sum()) / (n_permutations + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of a family, adjusted so that the chance of any false claim is that of one (Holm 1979)."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values)
    adjusted = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)).clip(max=1)
    return adjusted[np.argsort(order)].tolist()


def paired_p(before: Bool[np.ndarray, "image"], after: Bool[np.ndarray, "image"]) -> float:
    """Exact two-sided McNemar test of two accuracies on the same images."""
    from scipy.stats import binomtest

    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    return float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0
