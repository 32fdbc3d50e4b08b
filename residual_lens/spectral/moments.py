"""Count, mean and scatter of many units: everything that principal components need of the data."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock, local
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from residual_lens.errors import InputError

# Relative to the mean, about 16 roundings of float64: what summing equal numbers leaves behind.
CONSTANT_SPREAD = 4e-15
# Rows of 65 features that stay in a core's cache while their products are taken.
CACHED_ROWS = 1024
# The number of torch's threads belongs to the process: who changes it and puts it back must not be interrupted.
_THREADS = Lock()
_INSIDE = local()
Block = TypeVar("Block")


@dataclass(frozen=True, eq=False)
class Moments:
    """First and second moments of every unit, float64.

    Merging is exact (Chan, Golub & LeVeque 1983): `S = S_a + S_b + (μ_b − μ_a)(μ_b − μ_a)ᵀ n_a n_b / n`.

    Example:
        >>> x = torch.randn(9, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> whole = moments_of_pieces(2, [slice(0, 9)], lambda unit, rows: x[rows, unit])
        >>> parts = moments_of_pieces(2, [slice(0, 4), slice(4, 9)], lambda unit, rows: x[rows, unit])
        >>> whole.count, torch.allclose(whole.scatter, parts.scatter)
        (9, True)
    """

    count: int
    """Samples."""
    mean: Float[Tensor, "unit feature"]
    """Mean over the samples."""
    scatter: Float[Tensor, "unit feature feature"]
    """Sum of the outer products of the centred samples."""

    @classmethod
    def empty(cls, units: int, features: int, device: torch.device | str = "cpu") -> "Moments":
        """Of no samples."""
        mean = torch.zeros(units, features, dtype=torch.float64, device=device)
        return cls(0, mean, mean.new_zeros(units, features, features))

    def merged(self, other: "Moments") -> "Moments":
        """Of both sets of samples; neither is changed.

        Raises:
            InputError: other units or features.
        """
        if self.mean.shape != other.mean.shape:
            raise InputError(
                f"Cannot merge: this PCA is over [unit feature] {list(self.mean.shape)}, the other over "
                f"{list(other.mean.shape)}."
            )
        scatters = self.scatter + other.scatter.to(self.scatter.device)
        return self.combined(scatters, other.count, other.mean.to(self.mean.device))

    def combined(
        self, scatters: Float[Tensor, "unit feature feature"], count: int, mean: Float[Tensor, "unit feature"]
    ) -> "Moments":
        """With `count` more samples around `mean`; `scatters`, which is taken over and changed in place, is the sum of
        the old scatter and theirs, each about its own mean.
        """
        total = self.count + count
        if total == 0:
            return self
        delta = mean - self.mean
        scatters.baddbmm_(delta[:, :, None], delta[:, None, :], alpha=self.count * count / total)
        return Moments(total, self.mean + delta * (count / total), scatters)

    def varies(self) -> Bool[Tensor, "unit"]:
        """False for a unit whose spread is below the rounding of its own mean."""
        spread = self.scatter.diagonal(dim1=1, dim2=2).sum(dim=1) / max(self.count - 1, 1)
        return spread > (CONSTANT_SPREAD * self.mean).square().sum(dim=1)

    def mapped(self, mixing: Float[Tensor, "unit feature rank"]) -> "Moments":
        """Of the samples `x M`, from the moments of `x` alone: mean `μ M`, scatter `Mᵀ S M`.

        A unit that does not vary has none after the map either, however small the map makes its mean.

        Args:
            mixing: one matrix a unit.

        Raises:
            InputError: another number of units or features.
        """
        if mixing.ndim != 3 or mixing.shape[:2] != self.mean.shape:
            raise InputError(
                f"A map of these moments is [unit feature rank] {[*self.mean.shape, 'rank']}, got {list(mixing.shape)}."
            )
        mixing = mixing.to(self.mean)
        scatter = mixing.mT @ (self.scatter * self.varies()[:, None, None]) @ mixing
        return Moments(self.count, torch.einsum("uf,ufr->ur", self.mean, mixing), (scatter + scatter.mT) / 2)


def moments_of_pieces(
    n_units: int, blocks: Sequence[Block], piece: Callable[[int, Block], Shaped[Tensor, "..."]]
) -> Moments:
    """Moments of all units in one pass over data that never is in memory as a whole.

    Units are spread over as many threads as torch may use, and each thread holds one piece. Pieces of some thousand
    rows give it enough to do between two of Python's locks; what it works on at once stays in its cache.

    Args:
        n_units: units.
        blocks: what `piece` takes for a block of rows (a slice, a chunk's number), in order.
        piece: reads one unit's rows `[sample feature]` of one block as float64; called from several threads at once. A
            thread is done with a piece when it asks for the next one.

    Returns:
        Float64. The same bits for the same blocks, whatever the number of threads.

    Raises:
        InputError: no units or rows, or pieces that are no finite float64 `[sample feature]` of one width.
    """
    if n_units < 1 or not blocks:
        raise InputError(f"Moments need at least one unit and one block of rows, got {n_units} and {len(blocks)}.")

    def of_unit(unit: int) -> Moments:
        x = _checked(piece(unit, blocks[0]), unit, blocks[0], None)
        # About a point near the mean no digits are lost, and what it is off by is put right at the end.
        shift, features, count = x.mean(dim=0), x.shape[1], 0
        # With a column of ones behind the shifted rows, one product gives their scatter and their sums. Zeros behind it
        # make rows a whole number of cache lines, which takes a tenth off the product's time.
        width = features + 1 + -(features + 1) % 8
        shifted, products = x.new_zeros(CACHED_ROWS, width), x.new_zeros(width, width)
        shifted[:, features] = 1
        for i, block in enumerate(blocks):
            x = x if i == 0 else _checked(piece(unit, block), unit, block, features)
            for rows in x.split(CACHED_ROWS):
                here = shifted if rows.shape[0] == CACHED_ROWS else shifted[: rows.shape[0]]
                torch.sub(rows, shift, out=here[:, :features])
                products.addmm_(here.T, here)
            if not math.isfinite(products[features].sum()):
                raise InputError(f"Values of unit {unit} in block {block} are NaN or infinite.")
            count += len(x)
        delta = products[features, :features] / count
        scatter = products[:features, :features].addr(delta, delta, alpha=-count)
        # One unit as a batch of one, so that moments have one shape everywhere.
        return Moments(count, (shift + delta)[None], scatter[None])

    found = for_each_unit(n_units, of_unit)
    if len({(each.count, each.mean.shape) for each in found}) > 1:
        raise InputError("Units differ in rows or features: every unit must have the same.")
    return Moments(found[0].count, torch.cat([m.mean for m in found]), torch.cat([m.scatter for m in found]))


Result = TypeVar("Result")


def for_each_unit(n_units: int, work: Callable[[int], Result]) -> list[Result]:
    """Results of `work(unit)`, in order, with units in parallel and one thread for each.

    A pass within a pass runs on the thread that it is in. Meanwhile all of torch has one thread in this process.

    A 65 × 65 product or `eigh` is too small to share: threads that compute different units never wait for each other.
    (At 144 units × 20,000 rows on two cores: 1.0 s, batched products over prepared groups of units 2.1 s, numpy's
    symmetric product, whose threads share one lock, 3.1 s.)
    """
    if getattr(_INSIDE, "a_pass", False):
        return [work(unit) for unit in range(n_units)]
    # Read with the lock held: while another pass runs, torch has one thread.
    with _THREADS:
        before = torch.get_num_threads()
        if min(before, n_units) > 1:
            torch.set_num_threads(1)
            try:
                return _in_threads(n_units, work, min(before, n_units))
            finally:
                torch.set_num_threads(before)
    return [work(unit) for unit in range(n_units)]


def _in_threads(n_units: int, work: Callable[[int], Result], threads: int) -> list[Result]:
    with ThreadPoolExecutor(threads) as pool:
        # Threads do not inherit what `torch.no_grad` and `torch.inference_mode` set.
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        tasks = [pool.submit(_inside, work, unit, *modes) for unit in range(n_units)]
        try:
            return [task.result() for task in tasks]
        finally:
            pool.shutdown(cancel_futures=True)


def _inside(work: Callable[[int], Result], unit: int, grad: bool, inference: bool) -> Result:
    _INSIDE.a_pass = True
    # In this order: leaving inference mode switches gradients on.
    with torch.inference_mode(inference), torch.set_grad_enabled(grad):
        return work(unit)


def _checked(
    x: Shaped[Tensor, "..."], unit: int, block: object, features: int | None
) -> Float[Tensor, "sample feature"]:
    if x.ndim != 2 or x.dtype != torch.float64 or len(x) == 0:
        raise InputError(
            f"Expected rows of unit {unit} as float64 [sample feature], got {x.dtype} {list(x.shape)} in block {block}."
        )
    if features is not None and x.shape[1] != features:
        raise InputError(f"Unit {unit} has {x.shape[1]} features in block {block}, before it {features}.")
    return x
