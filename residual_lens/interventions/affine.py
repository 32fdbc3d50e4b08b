"""Edits of the stream that are affine in a unit's term: what can be written into weights."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class AffineMap(NamedTuple):
    """`c ↦ c M + t` for what one unit adds to the stream at any token, its even share of the output bias included."""

    matrix: Float[Tensor, "d_model d_model"]
    """`M`, which multiplies from the right."""
    offset: Float[Tensor, "d_model"]
    """`t`."""


@dataclass(frozen=True, eq=False)
class AffineMaps(Mapping[str, AffineMap]):
    """Maps by unit name, each made when it is asked for: those of all heads of a ViT-L would take 3 GB."""

    makers: Mapping[str, Callable[[], AffineMap]]
    """What makes a unit's map."""

    def __getitem__(self, name: str) -> AffineMap:
        return self.makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.makers)

    def __len__(self) -> int:
        return len(self.makers)

    def __contains__(self, name: object) -> bool:
        return name in self.makers
