"""Edits of the stream that are affine in a unit's term: what can be written into weights."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class AffineMap(NamedTuple):
    """`c ↦ c M + t` for what one unit adds to the stream at any token, its even share of the output bias included."""

    matrix: Float[Tensor, "d_model d_model"]
    """`M`, which multiplies from the right."""
    offset: Float[Tensor, "d_model"]
    """`t`."""
