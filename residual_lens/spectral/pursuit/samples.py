"""Centred samples, in float32 for large products and in float64 where digits decide."""

import math
from collections.abc import Iterator
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

# Rows that are multiplied at once: products with a block of atoms stay in a core's cache, and are summed in working
# precision before float64 takes over.
ROWS = 1024
# Rows that are in float64 at once: they stay in cache, too.
EXACT_ROWS = 256
# Of two, in float64.
LARGEST_POWER = 1023
# Columns of the scatter that are computed at once.
COLUMNS = 192


class Samples:
    """Samples without their mean, in units of about their largest entry (a power of two, which changes no digit).

    Attributes:
        mean: `[rank]`, float64, in the units of the data; zeros where data are not centred.
        scale: what a sample is divided by.
        rows: `[sample rank]`, in working precision.
        given: sum of the norms of the samples before centring: what rounding of the data is measured by.
        norms: `[sample]`, float64, of the centred samples.
    """

    def __init__(self, x: Float[Tensor, "sample rank"], *, center: bool, positive: bool = False) -> None:
        self._x, self._folded = x, partial(torch.clamp_min, min=0.0) if positive else torch.abs
        self.mean = x.new_zeros(x.shape[1], dtype=torch.float64)
        if center:
            self.mean = torch.stack([rows.double().sum(dim=0) for rows in x.split(EXACT_ROWS)]).sum(dim=0) / len(x)
        largest = max(abs(float(entry)) for entry in x.aminmax())
        self.scale = 2.0 ** min(math.frexp(largest)[1], LARGEST_POWER) if largest > 0 else 1.0
        self.rows = torch.empty_like(x, dtype=working_precision(x.device))
        mean, norms, given = self.mean / self.scale, [], []
        for rows, centred in zip(self.rows.split(EXACT_ROWS), self.exact(), strict=True):
            rows.copy_(centred)
            norms.append(torch.linalg.vector_norm(centred, dim=1))
            given.append(norms[-1].square() + 2 * (centred @ mean) + mean.square().sum())
        self.norms = torch.cat(norms)
        self.given = float(torch.cat(given).clamp_min_(0.0).sqrt_().sum())

    def __len__(self) -> int:
        return len(self._x)

    @property
    def length(self) -> float:
        """Sum of the norms of the centred samples."""
        return float(self.norms.sum())

    def exact(self) -> Iterator[Float[Tensor, "row rank"]]:
        """The same rows in float64, block by block."""
        for rows in self._x.split(EXACT_ROWS):
            yield (rows - self.mean).div_(self.scale)

    def scores(self, directions: Float[Tensor, "atom rank"]) -> tuple[Float[Tensor, "atom"], Float[Tensor, "atom"]]:
        """`Σ_n |⟨x_n, p⟩|` in working precision, and by how much rounding may have changed it, both float64.

        (`Σ_n max(⟨x_n, p⟩, 0)` where only positive products count.) A product of `m` terms is off by `γ_m |x| |p|` at
        most (Higham 2002, section 3.1); four more cover the rounding of factors and norms.
        """
        columns = directions.to(self.rows.dtype).mT.contiguous()
        scores = columns.new_zeros(len(directions), dtype=torch.float64)
        for rows in self.rows.split(ROWS):
            products = rows @ columns
            scores += self._folded(products, out=products).sum(dim=0)
        lengths = torch.linalg.vector_norm(directions, dim=1)
        return scores, self.gamma(len(self.mean) + 4) * self.length * lengths + self.gamma(ROWS) * scores

    def exact_scores(self, directions: Float[Tensor, "atom rank"]) -> Float[Tensor, "atom"]:
        """The same in float64."""
        return torch.stack([self._folded(rows @ directions.mT).sum(dim=0) for rows in self.exact()]).sum(dim=0)

    def scatter(self) -> Float[Tensor, "rank rank"]:
        """`S = Σ_n x_n x_nᵀ` of `rows`, float64."""
        n_dims = len(self.mean)
        scatter = self.mean.new_zeros(n_dims, n_dims)
        for rows in self.rows.split(ROWS):
            rows = rows.double()
            # Columns from the diagonal on: the others are these.
            for first in range(0, n_dims, COLUMNS):
                some = slice(first, first + COLUMNS)
                scatter[some, first:].addmm_(rows[:, some].mT, rows[:, first:])
        return scatter.triu_() + scatter.triu(1).mT

    def exact_scatter(self) -> Float[Tensor, "rank rank"]:
        """The same in float64."""
        scatter = self.mean.new_zeros(len(self.mean), len(self.mean))
        for rows in self.exact():
            scatter.addmm_(rows.mT, rows)
        return scatter

    def along(self, directions: Float[Tensor, "pick rank"]) -> Float[Tensor, "sample pick"]:
        """Coordinates along directions, float64, in units of `scale`."""
        return torch.cat([rows @ directions.mT for rows in self.exact()])

    def gamma(self, terms: int, dtype: torch.dtype | None = None) -> float:
        """`γ_m`, of working precision or another: how far a product of `m` terms may be off, relative to norms."""
        unit = torch.finfo(dtype or self.rows.dtype).eps / 2
        return terms * unit / (1 - terms * unit)


def working_precision(device: torch.device) -> torch.dtype:
    """float32 where its products keep all its digits: elsewhere, or at another setting, they may have fewer (TF32)."""
    full = device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
    return torch.float32 if full else torch.float64
