"""What the families share: linear layers by their names, patches, text towers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from residual_lens.hooked.parts.attention import AttentionParts, InputProjections, SeparateProjections
from residual_lens.hooked.parts.embedding import EmbeddingParts, behind_prefix
from residual_lens.hooked.parts.mlp import GatedInput, MLPParts, PlainInput
from residual_lens.hooked.parts.norm import NormParts
from residual_lens.hooked.parts.reference import Ref, plain_linear
from residual_lens.hooked.parts.vit import BlockParts, TextParts


@dataclass(frozen=True)
class ConvEmbedding(EmbeddingParts):
    """Patches by a convolution behind prefix tokens, with a learned table of positions for all of them."""

    embeddings: Any
    """The module that owns everything."""
    conv: nn.Conv2d
    """Patches."""
    prefix: tuple[Ref, ...]
    """Class token, registers."""
    table: Ref
    """Positions, `[pos d_model]` or `[1 pos d_model]`."""
    drops: tuple[nn.Module, ...] = ()
    """Dropout of the tokens."""

    @property
    def dtype(self) -> torch.dtype:
        return self.conv.weight.dtype

    def tokens(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch pos d_model"]:
        patches = rearrange(self.conv(images), "batch d row column -> batch (row column) d")
        return behind_prefix([token() for token in self.prefix], patches)

    def positions(self, rows: int, columns: int) -> Float[Tensor, "pos d_model"]:
        table = self.table()
        return table.reshape(-1, table.shape[-1])

    def drop(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch kept d_model"]:
        for module in self.drops:
            x = module(x)
        return x


@dataclass(frozen=True)
class FeatureText(TextParts):
    """A model with `get_text_features`."""

    model: Any

    def encode(self, tokens: Tensor | Mapping[str, Tensor]) -> Float[Tensor, "text d_out"]:
        inputs = {"input_ids": tokens} if isinstance(tokens, Tensor) else tokens
        return self.model.get_text_features(**inputs, return_dict=True).pooler_output

    def logit_scale(self) -> float:
        return float(self.model.logit_scale.detach().exp())


def separate_projections(attention: Any, n_heads: int, model_name: str) -> SeparateProjections:
    """`q_proj`, `k_proj`, `v_proj`."""
    what = "an input projection of attention"
    q, k, v = (plain_linear(getattr(attention, f"{x}_proj"), what, model_name) for x in "qkv")
    return SeparateProjections(q, k, v, n_heads)


def encoder_block(
    layer: Any,
    inputs: InputProjections,
    out: nn.Module,
    n_heads: int,
    dropout: Ref,
    model_name: str,
    *,
    eager: bool = False,
) -> BlockParts:
    """A block as CLIP, SigLIP and BLIP name its parts."""
    return BlockParts(
        ln1=NormParts.of(layer.layer_norm1, model_name),
        attention=AttentionParts(
            module=layer.self_attn,
            inputs=inputs,
            out=plain_linear(out, "attention's output projection", model_name),
            n_heads=n_heads,
            dropout=dropout,
            eager=eager,
        ),
        ln2=NormParts.of(layer.layer_norm2, model_name),
        mlp=plain_mlp(layer.mlp, model_name),
    )


def plain_mlp(mlp: Any, model_name: str, gain: Ref | None = None, drops: tuple[nn.Module, ...] = ()) -> MLPParts:
    """`fc1`, `activation_fn`, `fc2`."""
    first, second = (plain_linear(layer, "a layer of the MLP", model_name) for layer in (mlp.fc1, mlp.fc2))
    return MLPParts(PlainInput(first), mlp.activation_fn, second, gain=gain, drops=drops)


def projected_mlp(mlp: Any, model_name: str, gain: Ref | None, drops: tuple[nn.Module, ...]) -> MLPParts:
    """`up_proj`, `act_fn`, `down_proj` and, where it is gated, `gate_proj`."""
    up, down = (plain_linear(layer, "a layer of the MLP", model_name) for layer in (mlp.up_proj, mlp.down_proj))
    inputs = PlainInput(up)
    if hasattr(mlp, "gate_proj"):
        inputs = GatedInput(plain_linear(mlp.gate_proj, "the MLP's gate", model_name), up)
    return MLPParts(inputs, mlp.act_fn, down, gain=gain, drops=drops)


def size_pair(size: Any) -> tuple[int, int]:
    """Height and width, which configs may give as one number."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
