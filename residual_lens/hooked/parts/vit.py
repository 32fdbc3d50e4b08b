"""A whole pre-norm ViT, by reference."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from residual_lens.data.preprocessing import UNSTATED, Preprocessing, UnknownPreprocessing
from residual_lens.hooked.parts.attention import AttentionParts
from residual_lens.hooked.parts.embedding import EmbeddingParts
from residual_lens.hooked.parts.mlp import MLPParts
from residual_lens.hooked.parts.norm import NormParts
from residual_lens.hooked.parts.reference import Ref
from residual_lens.hooked.parts.rotary import Rotary
from residual_lens.hooked.pooling import Pooling


class TextParts(ABC):
    """The text tower that shares the embedding space."""

    @abstractmethod
    def encode(self, tokens: Tensor | Mapping[str, Tensor]) -> Float[Tensor, "text d_out"]:
        """Text embeddings, not normalised, of what the model's tokenizer gives."""

    @abstractmethod
    def logit_scale(self) -> float:
        """Factor on cosines (already exponentiated)."""


@dataclass(frozen=True)
class BlockParts:
    """One pre-norm block."""

    ln1: NormParts
    """Norm before attention."""
    attention: AttentionParts
    """Self-attention."""
    ln2: NormParts
    """Norm before the MLP."""
    mlp: MLPParts
    """The MLP."""


@dataclass(frozen=True)
class Projection:
    """The affine map at the very end, from the pooled vector to the embedding."""

    weight: Ref
    """`[d_model d_out]`, or `[d_out d_model]` where `transposed`."""
    transposed: bool = False
    """Whether it is laid out as in `nn.Linear`."""
    bias: Ref | None = None
    """`[d_out]`."""

    @classmethod
    def of(cls, linear: nn.Linear) -> "Projection":
        """A linear layer."""
        return cls(Ref(linear, "weight"), True, None if linear.bias is None else Ref(linear, "bias"))

    def matrix(self) -> Float[Tensor, "d_model d_out"]:
        """The matrix that multiplies from the right."""
        return self.weight().mT if self.transposed else self.weight()

    def __call__(self, x: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch d_out"]:
        """The embedding of pooled vectors."""
        bias = None if self.bias is None else self.bias()
        if self.transposed:
            return F.linear(x, self.weight(), bias)
        return x @ self.weight() if bias is None else x @ self.weight() + bias


@dataclass(frozen=True)
class ViTParts:
    """Everything that `HookedViT` needs of a model."""

    model_name: str
    """Where it came from, for messages and files."""
    tower: nn.Module
    """The image tower: what the fingerprint covers and `HookedViT` reproduces."""
    image_size: tuple[int, int]
    """Height and width of the images it takes, in pixels."""
    patch_size: tuple[int, int]
    """Height and width of a patch, in pixels."""
    n_prefix: int
    """Tokens before the patches."""
    embedding: EmbeddingParts
    """Images to tokens."""
    blocks: Sequence[BlockParts]
    """The blocks in order."""
    ln_final: NormParts
    """The last norm of the stream, before or after pooling."""
    pooling: Pooling
    """Tokens to one vector."""
    ln_pre: NormParts | None = None
    """Norm before the first block, where there is one."""
    rotary: Rotary | None = None
    """Rotary positions, where the model has them."""
    projection: Projection | None = None
    """Affine map after pooling and final norm; `None` for the identity."""
    final_drops: tuple[nn.Module, ...] = ()
    """Dropout before it."""
    text: TextParts | None = None
    """Text tower, where the model has one."""
    preprocessing: Preprocessing | UnknownPreprocessing = UNSTATED
    """How images become what it takes, as the model itself states."""

    def project(self, pooled: Float[Tensor, "batch d_pool"]) -> Float[Tensor, "batch d_out"]:
        """The embedding of pooled vectors."""
        for drop in self.final_drops:
            pooled = drop(pooled)
        return pooled if self.projection is None else self.projection(pooled)

    def projection_matrix(self, dtype: torch.dtype) -> Float[Tensor, "d_model d_out"]:
        """The matrix of the projection, identity where there is none."""
        if self.projection is not None:
            return self.projection.matrix().to(dtype)
        width = self.pooling.width(self.ln_final)
        return torch.eye(width, dtype=dtype, device=next(self.tower.parameters()).device)

    def projection_bias(self, dtype: torch.dtype) -> Float[Tensor, "d_out"] | None:
        """The bias of the projection."""
        bias = None if self.projection is None else self.projection.bias
        return None if bias is None else bias().to(dtype)
