"""How much of the embedding's second moment each rescaled component makes up."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residual_lens.report.explanation import Energy
from residual_lens.training.cached import Coordinates

ROWS = 256
"""Samples that are in float64 at once."""


@dataclass(frozen=True, eq=False)
class Energies:
    """Sums over samples for one choice of λ, float64; see `Energy`."""

    own: Float[Tensor, "component"]
    """`E‖λ_k y_k φ_k‖²`."""
    inner: Float[Tensor, "component"]
    """`E⟨λ_k y_k φ_k, e⟩`."""
    rest: Float[Tensor, ""]
    """`E‖base‖²`."""
    total: Float[Tensor, ""]
    """`E‖e‖²`."""

    def of(self, places: Int[Tensor, "chosen"]) -> Energy:
        """Of components that are orthogonal to each other, such as those of one unit, together."""
        own, inner = float(self.own[places].sum() / self.total), float(self.inner[places].sum() / self.total)
        return Energy(own, inner - own)

    def of_rest(self) -> Energy:
        """Of all that is not rescaled."""
        own = float(self.rest / self.total)
        return Energy(own, 1 - float(self.inner.sum() / self.total) - own)


@torch.no_grad()
def energies(coordinates: Coordinates, factors: Float[Tensor, "component"]) -> Energies:
    """Energies of the embedding `base + (values ⊙ factors) @ directions`, in one pass over the samples.

    Args:
        coordinates: of a ResiDual: directions have unit norm.
        factors: λ by component.
    """
    directions = coordinates.directions.double()
    own, inner = torch.zeros_like(factors, dtype=torch.float64), torch.zeros_like(factors, dtype=torch.float64)
    rest, total = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    n = len(coordinates.labels)
    for start in range(0, n, ROWS):
        base = coordinates.base[start : start + ROWS].double()
        scaled = coordinates.values[start : start + ROWS].double() * factors
        embedding = base + scaled @ directions
        own += scaled.square().sum(dim=0)
        inner += (scaled * (embedding @ directions.mT)).sum(dim=0)
        rest += base.square().sum()
        total += embedding.square().sum()
    return Energies(own / n, inner / n, rest / n, total / n)


@torch.no_grad()
def variances(coordinates: Coordinates) -> Float[Tensor, "component"]:
    """Variance of each component's coordinate over the samples, float64."""
    n, zeros = len(coordinates.labels), torch.zeros(len(coordinates.index), dtype=torch.float64)
    mean = sum((block.sum(dim=0) for block in _blocks(coordinates)), zeros) / n
    return sum(((block - mean).square().sum(dim=0) for block in _blocks(coordinates)), zeros) / n


def _blocks(coordinates: Coordinates) -> Iterator[Float[Tensor, "row component"]]:
    for start in range(0, len(coordinates.labels), ROWS):
        yield coordinates.values[start : start + ROWS].double()
