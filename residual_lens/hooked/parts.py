"""What a backbone adapter hands to `HookedViT`: the parts of a pre-norm ViT, by reference.

Every part keeps the module that owns its weights and reads them when called, so nothing is copied, `.to()` and training
reach it, and `deepcopy` of the wrapper takes the parts along. None of them is an `nn.Module`: the wrapped model stays
the one owner of its parameters.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from residual_lens.hooked.norm import NormParts
from residual_lens.hooked.pooling import Pooling


class AttentionParts(ABC):
    """Self-attention of one block: projections in, projection out (with the LayerScale that follows it)."""

    @abstractmethod
    def qkv(
        self, queries: Float[Tensor, "batch query d_model"], context: Float[Tensor, "batch pos d_model"]
    ) -> tuple[
        Float[Tensor, "batch query head d_head"],
        Float[Tensor, "batch pos head d_head"],
        Float[Tensor, "batch pos head d_head"],
    ]:
        """Queries, keys and values; `queries is context` for all positions in one product."""

    @abstractmethod
    def output(self, z: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos d_model"]:
        """What attention writes into the stream: output projection, its bias, LayerScale."""

    @abstractmethod
    def output_weight(self) -> Float[Tensor, "head d_head d_model"]:
        """`W_O` by head, LayerScale folded in."""

    @abstractmethod
    def output_bias(self) -> Float[Tensor, "d_model"]:
        """`b_O`, LayerScale folded in."""

    @abstractmethod
    def dropout(self) -> float:
        """Dropout on the attention pattern in force at this moment (0 in eval mode)."""


class MLPParts(ABC):
    """The MLP of one block, cut where `hook_pre` and `hook_post` look in."""

    @abstractmethod
    def pre(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_mlp"]:
        """Input projection, before the activation."""

    @abstractmethod
    def activation(self, pre: Float[Tensor, "batch pos d_mlp"]) -> Float[Tensor, "batch pos d_mlp"]:
        """The non-linearity."""

    @abstractmethod
    def output(self, post: Float[Tensor, "batch pos d_mlp"]) -> Float[Tensor, "batch pos d_model"]:
        """What the MLP writes into the stream: output projection, its bias, LayerScale."""


class EmbeddingParts(ABC):
    """From images to the tokens that enter the first norm."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """What images must be given in; norms may keep weights of a wider dtype."""

    @abstractmethod
    def tokens(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch pos d_model"]:
        """Patch embeddings behind the prefix tokens, without positions."""

    @abstractmethod
    def positions(self) -> Float[Tensor, "pos d_model"]:
        """Position embedding of every token."""

    @abstractmethod
    def drop(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch kept d_model"]:
        """Patch dropout (identity in eval mode)."""


@dataclass(frozen=True)
class ParameterRef:
    """A parameter read through its owner each time, so that replacing it there is seen here."""

    owner: nn.Module
    """Module that holds it."""
    name: str
    """Attribute name."""

    def __call__(self) -> Tensor:
        return getattr(self.owner, self.name)


class TextParts(ABC):
    """The text tower that shares the embedding space."""

    @abstractmethod
    def encode(self, tokens: Tensor) -> Float[Tensor, "text d_out"]:
        """Text embeddings, not normalised."""

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
class HookedViTConfig:
    """Sizes of a wrapped model, under TransformerLens' names."""

    model_name: str
    """Where it came from, for messages and files."""
    n_layers: int
    """Number of blocks."""
    n_heads: int
    """Heads per block."""
    d_model: int
    """Width of the stream."""
    d_head: int
    """Width of one head."""
    d_mlp: int
    """Width inside the MLP."""
    d_out: int
    """Width of the image embedding."""
    n_ctx: int
    """Tokens per image, prefix tokens included."""
    image_size: tuple[int, int]
    """Height and width of the images it takes, in pixels."""
    patch_size: tuple[int, int]
    """Height and width of a patch, in pixels."""
    eps: float
    """Epsilon of the final norm."""
    act_fn: str
    """Class name of the MLPs' activation."""
    normalization_type: str = "LN"
    """TransformerLens' word for LayerNorm with weights."""
    attn_only: bool = False
    """Whether blocks lack an MLP."""
    final_rms: bool = False
    """Whether the final norm is an RMSNorm."""


@dataclass(frozen=True)
class ViTParts:
    """A whole pre-norm ViT, by reference."""

    tower: nn.Module
    """The image tower: what the fingerprint covers and `HookedViT` reproduces."""
    config: HookedViTConfig
    """Its sizes."""
    embedding: EmbeddingParts
    """Images to tokens."""
    ln_pre: NormParts | None
    """Norm before the first block, where there is one."""
    blocks: Sequence[BlockParts]
    """The blocks in order."""
    ln_final: NormParts
    """Norm before the projection."""
    pooling: Pooling
    """Tokens to one vector."""
    projection: ParameterRef | None
    """`[d_model d_out]` matrix after the final norm; `None` for the identity."""
    text: TextParts | None
    """Text tower, where the model has one."""
    pixel_mean: tuple[float, float, float] | None
    """Channel means the model was trained with, where known."""
    pixel_std: tuple[float, float, float] | None
    """Channel standard deviations, where known."""

    def projection_matrix(self) -> Float[Tensor, "d_model d_out"]:
        """The map from the normalised stream to the embedding."""
        if self.projection is not None:
            return self.projection()
        device = next(self.tower.parameters()).device
        return torch.eye(self.config.d_out, dtype=self.embedding.dtype, device=device)
