"""Spectral cosine: how alike two units' principal components are, by a greedy matching batched over pairs."""

import math

import numpy as np
import torch
from beartype import beartype
from jaxtyping import Float, jaxtyped
from torch import Tensor

from residual_lens.errors import InputError, MismatchError

# Entries of the pairwise products held at once: a few megabytes, so that the rounds of the matching stay in cache.
BLOCK_ENTRIES = 2**20
# Rows stored in half precision are off by 1e-3 at most; eigenvectors scaled by anything are off by more.
UNIT_NORM_TOL = 1e-2
# Below every entry.
STRUCK = -1.0


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
    x, x_weights, y, y_weights = _checked_pair(x, x_weights, y, y_weights)
    products = (x @ y.mT).abs_().mul_(x_weights[..., None]).mul_(y_weights[..., None, :])
    norms = _greedy_norms(products.reshape(-1, *products.shape[-2:])).reshape(x.shape[:-2])
    return _share(norms, _diagonal_norms(x_weights, y_weights))


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
    x, x_weights, y, y_weights = _checked_pair(x, x_weights, y, y_weights)
    result = x.new_zeros(len(x), len(y))
    side = max(1, math.isqrt(BLOCK_ENTRIES // (x.shape[1] * y.shape[1])))
    for first_x in range(0, len(x), side):
        rows = slice(first_x, first_x + side)
        for first_y in range(0, len(y), side):
            columns = slice(first_y, first_y + side)
            # One product of all components of the block, then pairs first.
            products = x[rows].flatten(0, 1) @ y[columns].flatten(0, 1).mT
            products = products.view(len(x[rows]), x.shape[1], -1, y.shape[1]).transpose(1, 2).abs()
            products *= x_weights[rows, None, :, None] * y_weights[None, columns, None, :]
            norms = _greedy_norms(products.flatten(0, 1)).view(products.shape[:2])
            result[rows, columns] = _share(norms, _diagonal_norms(x_weights[rows, None], y_weights[columns]))
    return result


def _greedy_norms(entries: Float[Tensor, "pair row column"]) -> Float[Tensor, "pair"]:
    """ℓ2 norm of the greedy picks from tables of non-negative entries, which are overwritten.

    All pairs take their next pick together: the first largest entry of each flat table, which has the lowest row, then
    the lowest column among equals. Whenever half of the lines are struck, what is left moves together in its order, so
    that later picks look through less. This runs on the CPU wherever the tables are: a pick is too little work for a
    GPU, and NumPy's argmax is several times faster than torch's.
    """
    tables = entries.contiguous().cpu().numpy()
    n, pairs = len(tables), np.arange(len(tables))
    squares = np.zeros(n, dtype=tables.dtype)
    while tables.size:
        _, height, width = tables.shape
        flat, struck = tables.reshape(n, -1), (min(height, width) + 1) // 2
        places = np.empty((struck, n), dtype=np.intp)
        picks = np.empty(places.shape, dtype=tables.dtype)
        for place, pick in zip(places, picks, strict=True):
            flat.argmax(axis=1, out=place)
            pick[:] = flat[pairs, place]
            row = place // width
            tables[pairs, row] = tables[pairs, :, place - row * width] = STRUCK
        squares += np.square(picks).sum(axis=0)
        row_left, column_left = np.ones(tables.shape[:2], bool), np.ones(tables.shape[::2], bool)
        row_left[pairs, places // width] = column_left[pairs, places % width] = False
        # Every pair has struck equally many lines.
        tables = tables[row_left].reshape(n, height - struck, width)
        turned = np.ascontiguousarray(tables.transpose(0, 2, 1))[column_left].reshape(
            n, width - struck, height - struck
        )
        tables = np.ascontiguousarray(turned.transpose(0, 2, 1))
    return torch.from_numpy(np.sqrt(squares)).to(entries.device)


def _diagonal_norms(
    x_weights: Float[Tensor, "*#pair component_x"], y_weights: Float[Tensor, "*#pair component_y"]
) -> Float[Tensor, "*pair"]:
    """`‖diag(w_x w_yᵀ)‖₂` of weights in descending order."""
    k = min(x_weights.shape[-1], y_weights.shape[-1])
    x_sorted = x_weights.sort(dim=-1, descending=True).values[..., :k]
    y_sorted = y_weights.sort(dim=-1, descending=True).values[..., :k]
    return torch.linalg.vector_norm(x_sorted * y_sorted, dim=-1)


def _share(norms: Float[Tensor, "*pair"], largest: Float[Tensor, "*pair"]) -> Float[Tensor, "*pair"]:
    """Norm of the picks over the largest there can be; 0 where there is nothing to pick."""
    return norms / largest.where(largest > 0, 1.0)


def _checked_pair(
    x: Float[Tensor, "*pair component_x feature"],
    x_weights: Float[Tensor, "..."] | None,
    y: Float[Tensor, "... component_y _"],
    y_weights: Float[Tensor, "..."] | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Bases in one dtype and their weights as the products take them, both checked."""
    if x.shape[-1] != y.shape[-1]:
        raise MismatchError(
            f"x has {x.shape[-1]} features and y {y.shape[-1]}: bases must be of the same space to be compared."
        )
    x_weights, y_weights = _checked_weights(x, x_weights, "x"), _checked_weights(y, y_weights, "y")
    dtype = torch.promote_types(x.dtype, y.dtype)
    return x.to(dtype), x_weights.to(dtype), y.to(dtype), y_weights.to(dtype)


def _checked_weights(
    basis: Float[Tensor, "*pair component feature"], weights: Float[Tensor, "..."] | None, name: str
) -> Float[Tensor, "*pair component"]:
    """Weights with largest 1 (so that squares of squares of eigenvalues stay in range) and 0 for rows of zeros."""
    if basis.dtype not in (torch.float32, torch.float64):
        raise InputError(f"{name} must be float32 or float64, got {basis.dtype}: convert it with .float().")
    if basis.shape[-2] == 0 or basis.shape[-1] == 0:
        raise InputError(f"{name} must have at least one component and feature, got shape {list(basis.shape)}.")
    norms = torch.linalg.vector_norm(basis, dim=-1)
    present = norms > 0
    fits = ((norms - 1).abs() <= UNIT_NORM_TOL) | (norms == 0)
    if not fits.all():
        where = (~fits).nonzero()[0].tolist()
        raise InputError(
            f"Rows of {name} must have norm 1, or 0 as padding; row {where} has {float(norms[tuple(where)]):.4g}: "
            "pass orthonormal components, and eigenvalues as weights."
        )
    if weights is None:
        return present.to(basis.dtype)
    if weights.shape != norms.shape:
        raise InputError(
            f"{name}_weights must be one a component of {name}, {list(norms.shape)}, got {list(weights.shape)}."
        )
    if not (weights.isfinite() & (weights >= 0)).all():
        raise InputError(f"{name}_weights must be finite and not negative: pass variances, clamped at 0.")
    present_weights = weights * present
    largest = present_weights.amax(dim=-1, keepdim=True)
    return present_weights / largest.where(largest > 0, 1.0)
