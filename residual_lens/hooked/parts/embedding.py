"""From images to the tokens that enter the first norm, by reference."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor


class EmbeddingParts(ABC):
    """Patches, prefix tokens (class token, registers) and positions."""

    any_size: bool = False
    """Whether images of every size that is a multiple of the patch are taken, positions being resized."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """What images must be given in; norms may keep weights of a wider dtype."""

    @abstractmethod
    def tokens(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch pos d_model"]:
        """Patch embeddings behind the prefix tokens, without positions."""

    @abstractmethod
    def positions(self, rows: int, columns: int) -> Float[Tensor, "pos d_model"]:
        """Position embedding of every token for a grid of patches; zeros for tokens that have none."""

    def drop(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch kept d_model"]:
        """Dropout of tokens in train mode."""
        return x


def behind_prefix(
    prefix: list[Float[Tensor, "..."]], patches: Float[Tensor, "batch patch d_model"]
) -> Float[Tensor, "batch pos d_model"]:
    """The patches behind the same prefix tokens for every image; each entry of `prefix` holds one or more tokens."""
    if not prefix:
        # Not copied: dropout draws its numbers in the order of memory, which is then that of the source.
        return patches
    batch, _, d_model = patches.shape
    return torch.cat([*(p.to(patches.dtype).reshape(1, -1, d_model).expand(batch, -1, -1) for p in prefix), patches], 1)


def with_gap(table: Float[Tensor, "known d_model"], first: int, gap: int) -> Float[Tensor, "pos d_model"]:
    """A position table with `gap` rows of zeros before row `first`, for tokens without a position."""
    return torch.cat([table[:first], table.new_zeros(gap, table.shape[1]), table[first:]]) if gap else table
