"""Spectral cosine: how alike two units' principal components are, by a greedy matching batched over pairs."""

import itertools
import math

import numpy as np
import torch
from beartype import beartype
from jaxtyping import Float, jaxtyped
from torch import Tensor

from residual_lens.errors import InputError, MismatchError
from residual_lens.spectral.moments import for_each_unit

# Entries of the pairwise products that a thread holds at once: a few megabytes, so that the matching stays in cache.
BLOCK_ENTRIES = 2**20
# Rows a table that join the matching in each round: stronger ones first, so that few are turned away later.
JOINING = 4
# Rows stored in half precision are off by 1e-3 at most; eigenvectors scaled by anything are off by more.
UNIT_NORM_TOL = 1e-2


Weights = Float[np.ndarray, "..."]


@jaxtyped(typechecker=beartype)
@torch.no_grad()
def spectral_cosine(
    x: Float[Tensor, "*pair component_x feature"],
    y: Float[Tensor, "... component_y _"],
    *,
    x_weights: Float[Tensor, "..."] | None = None,
    y_weights: Float[Tensor, "..."] | None = None,
) -> Float[Tensor, "*pair"]:
    """Spectral cosine of bases, pair by pair (Basile et al. 2025, arXiv 2411.00246, with the matching done in full).

    `C = |X Yᵀ| ⊙ w_x w_yᵀ / ‖diag(w_x w_yᵀ)‖₂`: the largest entry is picked, its row and column are struck, and so on
    `k = min(component_x, component_y)` times; the result is the ℓ2 norm of the picks. Weights are eigenvalues, or all 1
    when left out. The norm of the diagonal takes both weights in descending order (as eigenvalues come) over the first
    `k` entries; it is `√k` without weights. No picks have a larger norm: the result is in [0, 1] up to
    rounding. An orthonormal basis has 1 with itself, weighted or not, whatever the order and signs of its components.
    The scale of weights does not matter; where they are not proportional, equal bases have less than 1.

    A row of zeros is padding and counts as no component, whatever its weight: units that keep different numbers of
    components are padded to one shape without changing any result. A unit without components or with zero weights (it
    does not vary) has 0 with every other.

    Equal entries are picked in the order of their rows, then of their columns. Entries that differ by rounding alone
    are told apart by that rounding: where two candidates are so close, pass float64.

    Args:
        x: orthonormal rows per pair, or zeros; float32 or float64.
        y: the same, with x's pairs and features; any number of components.
        x_weights: `[*pair component_x]`, not negative, any scale: `explained_variance_` for the paper's weighting.
        y_weights: `[*pair component_y]`; left out, all are 1.

    Returns:
        One value a pair in [0, 1], in the wider dtype of the two bases.

    Raises:
        InputError: no components, half precision, rows that are neither unit-norm nor zero (NaN among them), or
            weights of another shape, negative or not finite.
        MismatchError: other pairs or features in `y` than in `x`.

    Example:
        >>> basis = torch.eye(4)[:3]
        >>> spectral_cosine(basis, -basis[[2, 0, 1]])
        tensor(1.)
        >>> spectral_cosine(basis, torch.eye(4)[1:], x_weights=torch.tensor([2.0, 1.0, 1.0]))
        tensor(0.5774)
    """
    if x.shape[:-2] != y.shape[:-2]:
        raise MismatchError(
            f"x has pairs {list(x.shape[:-2])} and y {list(y.shape[:-2])}: pass one y for each x, or compare all with "
            "all by pairwise_spectral_cosine."
        )
    x, of_x, y, of_y = _checked_pair(x, x_weights, y, y_weights)
    return _cosines(x @ y.mT, of_x, of_y)


@jaxtyped(typechecker=beartype)
@torch.no_grad()
def pairwise_spectral_cosine(
    x: Float[Tensor, "unit_x component_x feature"],
    y: Float[Tensor, "unit_y component_y _"],
    *,
    x_weights: Float[Tensor, "..."] | None = None,
    y_weights: Float[Tensor, "..."] | None = None,
) -> Float[Tensor, "unit_x unit_y"]:
    """Spectral cosine of every unit of one set with every unit of another; see `spectral_cosine`.

    Memory beyond arguments and result does not grow with the number of units.

    Args:
        x: orthonormal rows per unit, or zeros; float32 or float64.
        y: the same, with x's features; any number of units and components.
        x_weights: `[unit_x component_x]`, as for `spectral_cosine`.
        y_weights: `[unit_y component_y]`.

    Returns:
        Values in [0, 1], in the wider dtype of the two bases.

    Raises:
        InputError: as `spectral_cosine`.
        MismatchError: other features in `y` than in `x`.

    Example:
        >>> heads = torch.linalg.qr(torch.randn(5, 8, 3, generator=torch.Generator().manual_seed(0))).Q.mT
        >>> pairwise_spectral_cosine(heads, heads[:2]).shape
        torch.Size([5, 2])
    """
    x, of_x, y, of_y = _checked_pair(x, x_weights, y, y_weights)
    result = x.new_zeros(len(x), len(y))
    side = max(1, math.isqrt(BLOCK_ENTRIES // (x.shape[1] * y.shape[1])))
    starts = list(itertools.product(range(0, len(x), side), range(0, len(y), side)))

    def of_block(block: int) -> None:
        rows, columns = (slice(start, start + side) for start in starts[block])
        # One product of all components of the block, then pairs first.
        products = x[rows].flatten(0, 1) @ y[columns].flatten(0, 1).mT
        products = products.view(len(x[rows]), x.shape[1], -1, y.shape[1]).transpose(1, 2)
        result[rows, columns] = _cosines(products, of_x[rows, None], of_y[columns])

    for_each_unit(len(starts), of_block)
    return result


def _cosines(
    products: Float[Tensor, "*pair row column"],
    x_weights: Weights,
    y_weights: Weights,
) -> Float[Tensor, "*pair"]:
    """Norm of the greedy picks over the largest there can be; 0 where there is nothing to pick.

    On the CPU wherever the products are: a round of the matching is too little work for a GPU. In NumPy, whose calls
    cost a third of torch's and whose argmax is several times faster.
    """
    entries = products.abs().contiguous().cpu().numpy()
    entries *= x_weights[..., None]
    entries *= y_weights[..., None, :]
    k = min(entries.shape[-2:])
    x_sorted, y_sorted = (np.sort(weights)[..., ::-1][..., :k] for weights in (x_weights, y_weights))
    largest = np.sqrt(np.square(x_sorted * y_sorted).sum(axis=-1))
    norms = _greedy_norms(entries.reshape(-1, *entries.shape[-2:])).reshape(entries.shape[:-2])
    shares = norms / np.where(largest > 0, largest, 1)
    return torch.as_tensor(shares.astype(entries.dtype)).to(products.device)


def _greedy_norms(tables: Float[np.ndarray, "pair row column"]) -> Float[np.ndarray, "pair"]:
    """ℓ2 norm of the greedy picks from tables of non-negative entries."""
    of_rows, of_columns = _matched(tables)
    # Picks alone are as large as what their row and their column have, unless the order of equal entries matters.
    as_large = tables >= of_columns[:, None]
    as_large &= tables >= of_rows[:, :, None]
    as_large &= tables > 0
    if np.count_nonzero(as_large) > np.count_nonzero(of_columns):
        tied = np.count_nonzero(as_large, axis=(1, 2)) > np.count_nonzero(of_columns, axis=1)
        of_columns[tied] = _matched_in_order(tables[tied])
    return np.sqrt(np.square(of_columns).sum(axis=1))


def _matched(
    tables: Float[np.ndarray, "pair row column"],
) -> tuple[Float[np.ndarray, "pair row"], Float[np.ndarray, "pair column"]]:
    """Greedy picks by row and by column, 0 where there is none; right for tables without equal entries.

    Rows and columns that both prefer larger entries have one stable matching, the greedy one: the largest entry of all
    is in it, then the largest of what is left. Deferred acceptance (Gale & Shapley 1962) finds it, for all tables
    together: free rows ask for their best column that has nothing larger yet, and a column keeps the largest that it
    was asked for and sets free who held it. That takes a few rounds where picking in turn takes one a component.
    """
    n, height, width = tables.shape
    rows = tables.reshape(-1, width)
    nobody = len(rows)
    kept, holder = np.zeros((n, width), tables.dtype), np.full(n * width, nobody)
    of_columns = kept.reshape(-1)
    waiting = np.arange(nobody).reshape(n, height)
    free, first = waiting[:0, 0], 0
    while first < height or len(free):
        free = np.concatenate([free, waiting[:, first : first + JOINING].ravel()])
        first += JOINING
        pair = free // height
        wanted = rows.take(free, axis=0)
        wanted *= wanted > kept.take(pair, axis=0)
        column = wanted.argmax(axis=1)
        value = wanted.reshape(-1).take(np.arange(0, wanted.size, width) + column)
        place = pair * width + column
        np.maximum.at(of_columns, place, value)
        # A row without any entry that it could have stays alone.
        asked, refused = value > 0, of_columns.take(place) > value
        won, lost = (asked > refused).nonzero()[0], (asked & refused).nonzero()[0]
        place = place.take(won)
        before = holder.take(place)
        holder[place] = free.take(won)
        free = np.concatenate([free.take(lost), before[before < nobody]])
    of_rows = np.zeros(nobody + 1, tables.dtype)
    of_rows[holder] = of_columns
    return of_rows[:-1].reshape(n, height), kept


def _matched_in_order(tables: Float[np.ndarray, "pair row column"]) -> Float[np.ndarray, "pair column"]:
    """Greedy picks by column where the first of equal entries is taken: a matching of the entries' ranks."""
    flat = tables.reshape(len(tables), -1)
    order = np.argsort(-flat, axis=1, kind="stable")
    ranks = np.empty(flat.shape)
    np.put_along_axis(ranks, order, np.arange(flat.shape[1], 0.0, -1.0)[None], axis=1)
    of_columns = _matched(ranks.reshape(tables.shape))[1].astype(np.intp)
    # Rank 0 stands for no pick, which is worth nothing.
    largest_last = np.take_along_axis(flat, order[:, ::-1], axis=1)
    return np.take_along_axis(np.pad(largest_last, ((0, 0), (1, 0))), of_columns, axis=1)


def _checked_pair(
    x: Float[Tensor, "*pair component_x feature"],
    x_weights: Float[Tensor, "..."] | None,
    y: Float[Tensor, "... component_y _"],
    y_weights: Float[Tensor, "..."] | None,
) -> tuple[Tensor, Weights, Tensor, Weights]:
    """Bases in one dtype and their weights, both checked."""
    if x.shape[-1] != y.shape[-1]:
        raise MismatchError(
            f"x has {x.shape[-1]} features and y {y.shape[-1]}: bases must be of the same space to be compared."
        )
    dtype = torch.promote_types(x.dtype, y.dtype)
    return x.to(dtype), _checked_weights(x, x_weights, "x"), y.to(dtype), _checked_weights(y, y_weights, "y")


def _checked_weights(
    basis: Float[Tensor, "*pair component feature"], weights: Float[Tensor, "..."] | None, name: str
) -> Float[np.ndarray, "*pair component"]:
    """Weights with largest 1 (so that squares of squares of eigenvalues stay in range) and 0 for rows of zeros."""
    if basis.dtype not in (torch.float32, torch.float64):
        raise InputError(f"{name} must be float32 or float64, got {basis.dtype}: convert it with .float().")
    if basis.shape[-2] == 0 or basis.shape[-1] == 0:
        raise InputError(f"{name} must have at least one component and feature, got shape {list(basis.shape)}.")
    norms = torch.linalg.vector_norm(basis, dim=-1).cpu().numpy()
    present = norms != 0
    fits = (np.abs(norms - 1) <= UNIT_NORM_TOL) | ~present
    if not fits.all():
        where = np.argwhere(~fits)[0].tolist()
        raise InputError(
            f"Rows of {name} must have norm 1, or 0 as padding; row {where} has {norms[tuple(where)]:.4g}: "
            "pass orthonormal components, and eigenvalues as weights."
        )
    if weights is None:
        return present.astype(norms.dtype)
    if weights.shape != norms.shape:
        raise InputError(
            f"{name}_weights must be one a component of {name}, {list(norms.shape)}, got {list(weights.shape)}."
        )
    values = weights.double().cpu().numpy()
    if not (np.isfinite(values) & (values >= 0)).all():
        raise InputError(f"{name}_weights must be finite and not negative: pass variances, clamped at 0.")
    values = values * present
    largest = values.max(axis=-1, keepdims=True)
    return (values / np.where(largest > 0, largest, 1)).astype(norms.dtype)
