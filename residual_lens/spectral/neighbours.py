"""Exact distances to the two nearest neighbours, in memory that grows with the number of samples only."""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt64
from torch import Tensor

from residual_lens.errors import InputError
from residual_lens.spectral.moments import for_each_unit

# Rows and columns of one block of products: it stays in a core's cache.
ROWS, LANES = 256, 2048
# Rows that are measured, or gone through, at once.
COLUMNS = 1024
# Candidates a row that are measured exactly after the sweep: the two nearest and one in reserve.
CANDIDATES = 3
# Components whose singular value is below this share of the largest are left out of the products.
RANK_TOL = 1e-5


class NearestTwo(NamedTuple):
    """Distances of every sample to its two nearest neighbours, float64, in the units of the data."""

    first: Float[Tensor, "sample"]
    second: Float[Tensor, "sample"]


def distinct_rows(x: Shaped[Tensor, "..."]) -> Int[Tensor, "kept"]:
    """Index of the first of every set of exactly equal rows, in ascending order.

    Args:
        x: `[sample feature]`, floating, finite.

    Raises:
        InputError: another shape or type, or values that are not finite.

    Example:
        >>> distinct_rows(torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]])).tolist()
        [0, 1]
    """
    check_samples(x)
    digests = np.concatenate([_digests(_as_numbers(rows)) for rows in x.detach().split(COLUMNS)])
    _, which, counts = np.unique(digests, return_inverse=True, return_counts=True)
    # Rows with a digest of their own are distinct; the others are compared byte by byte.
    shared = counts[which] > 1
    rows = _as_numbers(x.detach()[torch.from_numpy(shared).to(x.device)])
    as_bytes = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1])))[:, 0]
    first = np.flatnonzero(shared)[np.unique(as_bytes, return_index=True)[1]]
    return torch.from_numpy(np.sort(np.concatenate([np.flatnonzero(~shared), first]))).to(x.device)


def _as_numbers(rows: Float[Tensor, "row feature"]) -> Float[np.ndarray, "row feature"]:
    """A copy in which equal numbers have equal bytes."""
    # Adding zero makes -0 and 0 the same. NumPy has no bfloat16, whose numbers float32 holds.
    return (rows.to("cpu", torch.promote_types(rows.dtype, torch.float32)) + 0.0).contiguous().numpy()


def _digests(rows: Float[np.ndarray, "row feature"]) -> UInt64[np.ndarray, "row"]:
    """The same number for equal rows, and hardly ever for others: their words times random factors, modulo 2^64."""
    words = rows.view(np.uint32 if rows.itemsize * rows.shape[1] % 8 else np.uint64).astype(np.uint64, copy=False)
    return words @ np.random.default_rng(0).integers(2**64, size=words.shape[1], dtype=np.uint64)


def two_nearest(x: Shaped[Tensor, "..."]) -> NearestTwo:
    """Euclidean distances to the two nearest other samples, exact to float64 rounding of the data as given.

    Products of float32 coordinates give a *lower bound* of every squared distance: `|x|² + |y|² − 2 x·y` with both
    squared norms shrunk by the worst rounding error `2 γ_m`, `γ_m = m u / (1 − m u)` (Higham 2002, section 3.1). The
    pairs of smallest bound are measured in float64 from the difference of the rows as given. Where no bound of the
    rest is below the second distance, the result is proven; the other rows are compared with all samples in float64.
    Nothing of size n² is held.

    Args:
        x: `[sample feature]`, at least 3 samples; floating, any mean. Equal rows have distance 0.

    Returns:
        First and second distances, `[sample]` each, in the order of `x`.

    Raises:
        InputError: another shape or type, fewer than 3 samples, or values that are not finite.

    Example:
        >>> nearest = two_nearest(torch.tensor([[0.0], [1.0], [3.0], [7.0]]))
        >>> nearest.first.tolist(), nearest.second.tolist()
        ([1.0, 1.0, 2.0, 4.0], [3.0, 2.0, 3.0, 6.0])
    """
    check_samples(x)
    if len(x) < 3:
        raise InputError(f"Two nearest neighbours need at least 3 samples, got {len(x)}.")
    # Autocast would round the products to 8 bits, which the bounds do not allow for.
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        # Neighbours at a regular stride would share a lane of the sweep; in random order they rarely do.
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).to(x.device)
        coordinates = _Coordinates(x.detach(), order)
        blocks = torch.arange(len(x), device=x.device).split(ROWS)
        factors = torch.cat(for_each_unit(len(blocks), lambda i: coordinates.factors(blocks[i], torch.float32)))
        # Elsewhere, or at another setting, products of float32 may be rounded to fewer bits (TF32, bfloat16).
        full_precision = x.device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
        found, beyond = _sweep(factors if full_precision else factors.double())
        measured = torch.cat(for_each_unit(len(blocks), lambda i: coordinates.distances(blocks[i], found[blocks[i]])))
        nearest = measured.sort(dim=1).values[:, :2]
        unproven = (nearest[:, 1].square() > beyond).nonzero()[:, 0]
        for rows in unproven.split(ROWS) if len(unproven) else ():
            nearest[rows] = _nearest_of_all(coordinates, rows)
        distances = torch.empty_like(nearest)
        distances[order] = nearest * coordinates.scale
    return NearestTwo(distances[:, 0], distances[:, 1])


def check_samples(x: object) -> None:
    """Refuse what is no finite float tensor `[sample feature]`."""
    if not isinstance(x, Tensor) or x.ndim != 2 or not x.is_floating_point():
        got = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"Expected a float tensor [sample feature], got {got}.")
    if 0 in x.shape:
        raise InputError(f"Expected at least one sample and one feature, got [sample feature] {list(x.shape)}.")
    # A finite sum proves it in one pass; that of large numbers may be infinite.
    if not x.sum().isfinite() and not x.isfinite().all():
        raise InputError("Some values are NaN or infinite: find the samples they come from first.")


class _Coordinates:
    """Centred samples in a given order, in units of their largest entry, rotated to fewer where that is possible."""

    def __init__(self, x: Float[Tensor, "sample feature"], order: Int[Tensor, "sample"]) -> None:
        self._x, self._order = x, order
        self._mean = torch.stack([rows.sum(dim=0, dtype=torch.float64) for rows in x.split(COLUMNS)]).sum(dim=0) / len(
            x
        )
        lowest, highest = x.amin(dim=0), x.amax(dim=0)
        largest = float(torch.maximum(highest - self._mean, self._mean - lowest).max())
        # A power of two: dividing by it changes no digit.
        self.scale = 2.0 ** min(math.frexp(largest)[1], 1023) if largest > 0 else 1.0
        self._basis = self._find_basis()

    def __len__(self) -> int:
        return len(self._x)

    def factors(self, samples: Int[Tensor, "row"], dtype: torch.dtype) -> Float[Tensor, "row column"]:
        """Coordinates, their squared norm shrunk by all rounding, and 1: what `_turned` factors are multiplied with."""
        rows = self._centred(samples)
        unit = torch.finfo(torch.float64).eps / 2
        # Rounding of the rotation (its columns and its sums), and what underflow can add.
        slack = 16 * rows.shape[1] ** 1.5 * unit * _squared_norms(rows) + 1e-30
        points = (rows if self._basis is None else rows @ self._basis).to(dtype)
        # 2 γ_m for a product of m = components + 2 columns; what is beyond m covers the rounding to `dtype`.
        terms = (points.shape[1] + 12) * torch.finfo(dtype).eps / 2
        norms = (_squared_norms(points.double()) * (1 - 2 * terms / (1 - terms)) - slack).to(dtype)
        return torch.cat([points, norms, torch.ones_like(norms)], dim=1)

    def distances(
        self, rows: Int[Tensor, "row"], found: Int[Tensor, "row candidate"]
    ) -> Float[Tensor, "row candidate"]:
        """Distances in units of `scale`, from the data as given; infinite where a candidate is -1."""
        first, second = self._x[self._order[rows]].double(), self._x[self._order[found.clamp_min(0)]].double()
        distances = torch.linalg.vector_norm(second.sub_(first[:, None]).div_(self.scale), dim=-1)
        return distances.where(found >= 0, torch.inf)

    def _centred(self, samples: Int[Tensor, "row"]) -> Float[Tensor, "row feature"]:
        return (self._x[self._order[samples]] - self._mean).div_(self.scale)

    def _find_basis(self) -> Float[Tensor, "feature component"] | None:
        """Orthonormal columns that hold all samples up to `RANK_TOL`; none where that takes over half the features.

        Any orthonormal columns give valid bounds. How sharp they are is checked on the samples that gave no columns.
        """
        n, features = self._x.shape
        if features < 2 or n < 2 * features:
            return None
        some = torch.arange(features // 2, device=self._x.device)
        centred = self._centred(some)
        # Squares of singular values; products of small ones are no orthonormal columns before the QR.
        squares, turned = torch.linalg.eigh(centred @ centred.mT)
        rank = int((squares > RANK_TOL**2 * squares[-1]).sum())
        basis = torch.linalg.qr(centred.mT @ turned[:, len(some) - rank :]).Q
        others = self._centred(some + len(some))
        left_out = _squared_norms(others) - _squared_norms(others @ basis)
        return None if rank == len(some) or (left_out > RANK_TOL * _squared_norms(others)).any() else basis


def _squared_norms(x: Float[Tensor, "row column"]) -> Float[Tensor, "row 1"]:
    return torch.linalg.vector_norm(x, dim=1, keepdim=True).square()


def _turned(factors: Float[Tensor, "row column"]) -> Float[Tensor, "row column"]:
    """Rows whose product with `factors` gives lower bounds of squared distances; they may be negative."""
    return torch.cat([-2 * factors[:, :-2], factors[:, -1:], factors[:, -2:-1]], dim=1)


def _sweep(points: Float[Tensor, "sample column"]) -> tuple[Int[Tensor, "sample candidate"], Float[Tensor, "sample"]]:
    """The samples of smallest bound for every sample, and a bound that holds for all others.

    A lane takes every `LANES`-th sample and keeps the smallest of their bounds. The samples of the best lanes are then
    looked at one by one.
    """
    blocks = torch.arange(len(points), device=points.device).split(ROWS)
    results = for_each_unit(len(blocks), lambda block: _nearest_by_bound(points, blocks[block]))
    found, beyond = zip(*results, strict=True)
    return torch.cat(found), torch.cat(beyond)


def _nearest_by_bound(
    points: Float[Tensor, "sample column"], rows: Int[Tensor, "row"]
) -> tuple[Int[Tensor, "row candidate"], Float[Tensor, "row"]]:
    n, turned = len(points), _turned(points[rows])
    lanes = turned.new_full((len(rows), min(n, LANES)), torch.inf)
    buffer = torch.empty_like(lanes)
    for columns in points.split(LANES):
        width = len(columns)
        product = torch.mm(turned, columns.mT, out=buffer) if width == lanes.shape[1] else turned @ columns.mT
        torch.minimum(lanes[:, :width], product, out=lanes[:, :width])
    # One more for the lane of the sample itself.
    smallest, best = lanes.topk(min(CANDIDATES + 2, lanes.shape[1]), dim=1, largest=False)
    taken = best[:, : CANDIDATES + 1]
    steps = torch.arange(0, n, LANES, device=points.device)
    members = (taken[:, :, None] + steps).flatten(1)
    bounds = torch.bmm(points[members.clamp_max(n - 1)], turned[:, :, None])[:, :, 0]
    bounds.masked_fill_((members >= n) | (members == rows[:, None]), torch.inf)
    lowest, which = bounds.topk(min(CANDIDATES + 1, bounds.shape[1]), dim=1, largest=False)
    found = members.gather(1, which[:, :CANDIDATES]).where(lowest[:, :CANDIDATES] < torch.inf, -1)
    beyond = lowest.new_full((len(rows),), torch.inf)
    if lowest.shape[1] > CANDIDATES:
        beyond = torch.minimum(beyond, lowest[:, CANDIDATES])
    if smallest.shape[1] > taken.shape[1]:
        beyond = torch.minimum(beyond, smallest[:, -1])
    return found, beyond.double()


def _nearest_of_all(coordinates: _Coordinates, rows: Int[Tensor, "row"]) -> Float[Tensor, "row two"]:
    """The two smallest distances of some samples, in units of `scale`: pairs that float64 leaves open are measured."""
    n = len(coordinates)
    turned = _turned(coordinates.factors(rows, torch.float64))
    columns = torch.arange(n, device=rows.device).split(COLUMNS)
    lower = torch.cat([turned @ coordinates.factors(block, torch.float64).mT for block in columns], dim=1)
    lower.scatter_(1, rows[:, None], torch.inf)
    smallest, found = lower.topk(min(CANDIDATES + 1, n), dim=1, largest=False)
    nearest = coordinates.distances(rows, found.where(smallest < torch.inf, -1)).sort(dim=1).values[:, :2]
    for i in (nearest[:, 1].square() > smallest[:, -1]).nonzero()[:, 0]:
        open_pairs = (lower[i] <= nearest[i, 1].square()).nonzero()[:, 0]
        measured = [coordinates.distances(rows[i : i + 1], part[None]) for part in open_pairs.split(COLUMNS)]
        nearest[i] = torch.cat(measured, dim=1)[0].sort().values[:2]
    return nearest
