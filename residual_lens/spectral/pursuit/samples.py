"""Centred samples, in float32 for large products and in float64 where digits decide."""

import math
from collections.abc import Iterator
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

# Rows that are multiplied at once: their products with a block of atoms stay in a core's cache.
ROWS = 4096
# Rows that are in float64 at once: they stay in cache, too.
EXACT_ROWS = 256
# Dimensions that count as few: float64 costs next to nothing there, and a product with the samples not much more than
# following a pick.
FEW = 256
# Of two, in float64.
LARGEST_POWER = 1023
# Products that are summed in working precision before float64 takes over.
SUMMED = 512


class Samples:
    """Samples without their mean, in units of about their largest entry (a power of two, which changes no digit).

    Attributes:
        mean: `[rank]`, float64, in the units of the data; zeros where data are not centred.
        scale: what a sample is divided by.
        rows: `[sample rank]`, in working precision.
        given: sum of the norms of the samples before centring: what rounding of the data is measured by.
    """

    def __init__(self, x: Float[Tensor, "sample rank"], *, center: bool, positive: bool = False) -> None:
        self._x, self._folded = x, partial(torch.clamp_min, min=0.0) if positive else torch.abs
        self.mean = x.new_zeros(x.shape[1], dtype=torch.float64)
        if center:
            self.mean = torch.stack([rows.sum(dim=0, dtype=torch.float64) for rows in x.split(ROWS)]).sum(dim=0) / len(
                x
            )
        largest = max(abs(float(entry)) for entry in x.aminmax())
        self.scale = 2.0 ** min(math.frexp(largest)[1], LARGEST_POWER) if largest > 0 else 1.0
        self.rows = torch.empty_like(x, dtype=working_precision(x.device))
        for rows, centred in zip(self.rows.split(EXACT_ROWS), self.exact(), strict=True):
            rows.copy_(centred)
        given = [torch.linalg.vector_norm(rows.double() / self.scale, dim=1).sum() for rows in x.split(EXACT_ROWS)]
        self.given = float(torch.stack(given).sum())
        norms = torch.linalg.vector_norm(self.rows, dim=1).double()
        self._length = float(norms.sum())
        self._energy = float(norms.square().sum())

    def __len__(self) -> int:
        return len(self._x)

    def exact(self) -> Iterator[Float[Tensor, "row rank"]]:
        """The same rows in float64, block by block."""
        for rows in self._x.split(EXACT_ROWS):
            yield (rows - self.mean).div_(self.scale)

    def scores(self, directions: Float[Tensor, "atom rank"]) -> tuple[Float[Tensor, "atom"], Float[Tensor, "atom"]]:
        """`Σ_n |⟨x_n, p⟩|` in working precision, and by how much rounding may have changed it, both float64."""
        columns = directions.to(self.rows.dtype).mT.contiguous()
        scores = torch.stack([self.summed(block @ columns) for block in self.rows.split(ROWS)]).sum(dim=0)
        return scores, self.slack(scores, torch.linalg.vector_norm(directions, dim=1))

    def summed(self, products: Float[Tensor, "row atom"]) -> Float[Tensor, "atom"]:
        """`Σ |·|` over rows (`Σ max(·, 0)` where only positive products count), float64."""
        # One place for all magnitudes: fresh memory would cost as much as the sums.
        room = torch.empty_like(products[:SUMMED])
        parts = [self._folded(part, out=room[: len(part)]).sum(dim=0) for part in products.split(SUMMED)]
        return torch.stack(parts).sum(dim=0, dtype=torch.float64)

    def slack(
        self, scores: Float[Tensor, "atom"], lengths: Float[Tensor, "atom"], updates: int = 0
    ) -> Float[Tensor, "atom"]:
        """How far scores in working precision may be off.

        A product of `m` terms is off by `γ_m |x| |p|` at most (Higham 2002, section 3.1). Four more cover the rounding
        of factors and norms.

        Args:
            scores: as `summed` gives them.
            lengths: `|p|`, and what was taken off it later.
            updates: how often something was taken off.
        """
        return self.gamma(len(self.mean) + 4 * (updates + 1)) * self._length * lengths + self.gamma(SUMMED) * scores

    def exact_scores(self, directions: Float[Tensor, "atom rank"]) -> Float[Tensor, "atom"]:
        """The same in float64."""
        return torch.stack([self._folded(rows @ directions.mT).sum(dim=0) for rows in self.exact()]).sum(dim=0)

    def scatter(self) -> tuple[Float[Tensor, "rank rank"], float]:
        """`S = Σ_n x_n x_nᵀ`, and how far products `pᵀ S q` of unit vectors may be off.

        In float64 where samples have few dimensions: bounds are sharper then, and that costs next to nothing.
        """
        dtype = torch.float64 if len(self.mean) <= FEW else self.rows.dtype
        scatter = self.mean.new_zeros(len(self.mean), len(self.mean))
        for rows in self.rows.split(ROWS // 4):
            rows = rows.to(dtype)
            scatter += rows.mT @ rows
        # Products of rows, of their sum with a vector, of that with another; and rounding of the rows themselves.
        worst = 4 * self.gamma(ROWS // 4 + 2 * len(self.mean), dtype) + 2 * self.gamma(1)
        return scatter.to(dtype), worst * self._energy

    def exact_scatter(self) -> Float[Tensor, "rank rank"]:
        """The same in float64."""
        scatter = self.mean.new_zeros(len(self.mean), len(self.mean))
        for rows in self.exact():
            scatter.addmm_(rows.mT, rows)
        return scatter

    def along(
        self, directions: Float[Tensor, "pick rank"]
    ) -> tuple[Float[Tensor, "sample pick"], Float[Tensor, "sample"]]:
        """Coordinates along directions and norms of the samples, float64, in units of `scale`."""
        parts = [(rows @ directions.mT, torch.linalg.vector_norm(rows, dim=1)) for rows in self.exact()]
        coordinates, norms = zip(*parts, strict=True)
        return torch.cat(coordinates), torch.cat(norms)

    def gamma(self, terms: int, dtype: torch.dtype | None = None) -> float:
        """`γ_m`, of working precision or another: how far a product of `m` terms may be off, relative to norms."""
        unit = torch.finfo(dtype or self.rows.dtype).eps / 2
        return terms * unit / (1 - terms * unit)


def working_precision(device: torch.device) -> torch.dtype:
    """float32 where its products keep all its digits: elsewhere, or at another setting, they may have fewer (TF32)."""
    full = device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
    return torch.float32 if full else torch.float64
