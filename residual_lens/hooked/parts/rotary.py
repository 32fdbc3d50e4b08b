"""Rotary positions: queries and keys of patch tokens turned by angles that depend on where the patch lies."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Rotation:
    """The rotation of one layer; `prefix` tokens at the front are left as they are."""

    sin: Float[Tensor, "patch #head d_head"]
    """Sines."""
    cos: Float[Tensor, "patch #head d_head"]
    """Cosines."""
    prefix: int
    """Tokens without a position."""
    halves: bool
    """Whether coordinate i turns with i + d_head/2 (`True`) or with its neighbour (`False`)."""

    def __call__(
        self, x: Float[Tensor, "batch pos head d_head"], first: int = 0
    ) -> Float[Tensor, "batch pos head d_head"]:
        """Rotated queries or keys, of positions from `first` on."""
        still, start = max(self.prefix - first, 0), max(first - self.prefix, 0)
        turning = x[:, still:]
        sin, cos = (table[start : start + turning.shape[1]] for table in (self.sin, self.cos))
        turned = (turning * cos + self._turned(turning) * sin).to(x.dtype)
        return torch.cat([x[:, :still], turned], dim=1)

    def _turned(self, x: Float[Tensor, "*batch d_head"]) -> Float[Tensor, "*batch d_head"]:
        if self.halves:
            first, second = x.chunk(2, dim=-1)
            return torch.cat([-second, first], dim=-1)
        return torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)


class Rotary(ABC):
    """Where a model's rotations come from."""

    @abstractmethod
    def rotations(self, images: Float[Tensor, "batch 3 height width"], rows: int, columns: int) -> Sequence[Rotation]:
        """One rotation a layer, for a grid of patches."""
