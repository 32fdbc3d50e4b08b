"""Orthonormal bases that depend neither on the order of samples or vectors nor on their repetition."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from residual_lens.spectral import Moments

# Roundings of a number that a forward pass leaves: what varies less than this cannot be told from what does not.
ROUNDINGS = 8


@dataclass(frozen=True, eq=False)
class Axes:
    """Coordinates of an output: directions along which it varies, in float64."""

    directions: Float[Tensor, "axis d_out"]
    """Orthonormal rows."""
    mean: Float[Tensor, "d_out"]
    """The output's."""
    count: int
    """Coordinates that means are taken over: those along which the output does not vary, which count 0, included."""

    @classmethod
    def principal(
        cls, output: Moments, dtype: torch.dtype, *, span: Float[Tensor, "component d_out"] | None = None
    ) -> "Axes":
        """Principal axes of an output, of all of it or of its part in a subspace.

        The output's own span is that of the axes along which it varies at all. Where two variances are equal to
        rounding, the axes of their plane are whichever `eigh` finds.

        Args:
            output: moments of one unit, the whole output.
            dtype: of the output's numbers: what their rounding is.
            span: orthonormal rows, a basis of the subspace.
        """
        scatter = output.scatter[0] if span is None else span @ output.scatter[0] @ span.mT
        spreads, vectors = torch.linalg.eigh(scatter)
        directions = vectors.mT if span is None else vectors.mT @ span
        varying = directions[_above_rounding(spreads, output, dtype)]
        return cls(varying, output.mean[0], len(varying) if span is None else len(span))

    @classmethod
    def given(cls, output: Moments, dtype: torch.dtype, basis: Float[Tensor, "component d_out"]) -> "Axes":
        """The rows of an orthonormal basis as they are."""
        spreads = ((basis @ output.scatter[0]) * basis).sum(dim=1)
        return cls(basis[_above_rounding(spreads, output, dtype)], output.mean[0], len(basis))


def span_of(vectors: Float[Tensor, "atom d_out"]) -> Float[Tensor, "component d_out"]:
    """An orthonormal basis of the span of vectors, float64: the same bits for any order and repetition of them."""
    _, sizes, rows = torch.linalg.svd(vectors.unique(dim=0).double(), full_matrices=False)
    return rows[sizes > sizes[0] * vectors.shape[1] * torch.finfo(vectors.dtype).eps]


def _above_rounding(spreads: Float[Tensor, "axis"], output: Moments, dtype: torch.dtype) -> Bool[Tensor, "axis"]:
    """Axes whose sum of squares is more than rounding of the output's numbers, or of the moments', leaves."""
    spread = output.scatter[0].trace()
    size = spread + output.count * output.mean.square().sum()
    of_numbers = (ROUNDINGS * torch.finfo(dtype).eps) ** 2 * size
    of_moments = output.mean.shape[1] * torch.finfo(torch.float64).eps * spread
    return spreads > torch.maximum(of_numbers, of_moments)
