"""open_clip: `VisionTransformer`, bare or inside a CLIP object."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from open_clip.transformer import LayerScale, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from residual_lens.errors import UnsupportedModelError
from residual_lens.hooked.backbones.open_clip_pooling import AttentionalPooling
from residual_lens.hooked.norm import NormParts
from residual_lens.hooked.parts import (
    AttentionParts,
    BlockParts,
    EmbeddingParts,
    HookedViTConfig,
    MLPParts,
    ParameterRef,
    TextParts,
    ViTParts,
)
from residual_lens.hooked.pooling import MeanPooling, NormedMeanPooling, Pooling, TokenPooling


@dataclass(frozen=True)
class FusedAttention(AttentionParts):
    """`nn.MultiheadAttention`'s weights and the LayerScale behind it (`nn.Identity` where there is none)."""

    module: nn.MultiheadAttention
    scale: nn.Module

    def qkv(
        self, queries: Float[Tensor, "batch query d_model"], context: Float[Tensor, "batch pos d_model"]
    ) -> tuple[
        Float[Tensor, "batch query head d_head"],
        Float[Tensor, "batch pos head d_head"],
        Float[Tensor, "batch pos head d_head"],
    ]:
        weight, bias = self.module.in_proj_weight, self.module.in_proj_bias
        if queries is context:
            q, k, v = self._heads(F.linear(context, weight, bias), 3)
            return q, k, v
        d_model = context.shape[-1]
        (q,) = self._heads(F.linear(queries, weight[:d_model], None if bias is None else bias[:d_model]), 1)
        k, v = self._heads(F.linear(context, weight[d_model:], None if bias is None else bias[d_model:]), 2)
        return q, k, v

    def _heads(self, x: Float[Tensor, "batch pos d"], parts: int) -> tuple[Float[Tensor, "batch pos head d_head"], ...]:
        by_head = rearrange(
            x, "batch pos (part head d) -> batch pos part head d", part=parts, head=self.module.num_heads
        )
        # Slices, not unbind: autograd lets hooks write into slices in place.
        return tuple(by_head[:, :, part] for part in range(parts))

    def output(self, z: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos d_model"]:
        return self.scale(self.module.out_proj(rearrange(z, "batch pos head d -> batch pos (head d)")))

    def output_weight(self) -> Float[Tensor, "head d_head d_model"]:
        weight = rearrange(self.module.out_proj.weight, "m (head d) -> head d m", head=self.module.num_heads)
        return weight * self.scale.gamma if isinstance(self.scale, LayerScale) else weight

    def output_bias(self) -> Float[Tensor, "d_model"]:
        bias = self.module.out_proj.bias
        if bias is None:
            bias = self.module.out_proj.weight.new_zeros(self.module.embed_dim)
        return bias * self.scale.gamma if isinstance(self.scale, LayerScale) else bias

    def dropout(self) -> float:
        return self.module.dropout if self.module.training else 0.0


@dataclass(frozen=True)
class SequentialMLP(MLPParts):
    """`c_fc`, `gelu`, `c_proj` and the LayerScale behind them."""

    c_fc: nn.Linear
    gelu: nn.Module
    c_proj: nn.Linear
    scale: nn.Module

    def pre(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_mlp"]:
        return self.c_fc(x)

    def activation(self, pre: Float[Tensor, "batch pos d_mlp"]) -> Float[Tensor, "batch pos d_mlp"]:
        return self.gelu(pre)

    def output(self, post: Float[Tensor, "batch pos d_mlp"]) -> Float[Tensor, "batch pos d_model"]:
        return self.scale(self.c_proj(post))


@dataclass(frozen=True)
class PatchEmbedding(EmbeddingParts):
    """Patch convolution, class token, positions, patch dropout."""

    tower: VisionTransformer

    @property
    def dtype(self) -> torch.dtype:
        return self.tower.conv1.weight.dtype

    def tokens(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch pos d_model"]:
        patches = rearrange(self.tower.conv1(images), "batch d row column -> batch (row column) d")
        cls = self.tower.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        return torch.cat([cls, patches], dim=1)

    def positions(self) -> Float[Tensor, "pos d_model"]:
        return self.tower.positional_embedding

    def drop(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch kept d_model"]:
        return self.tower.patch_dropout(x)


@dataclass(frozen=True)
class ClipText(TextParts):
    """The text tower of a CLIP object."""

    module: Any

    def encode(self, tokens: Tensor) -> Float[Tensor, "text d_out"]:
        return self.module.encode_text(tokens)

    def logit_scale(self) -> float:
        return float(self.module.logit_scale.detach().exp())


def adapt(module: nn.Module, model_name: str) -> ViTParts:
    """The parts of an open_clip image tower, by reference.

    Raises:
        UnsupportedModelError: with the reason.
    """
    tower = module if isinstance(module, VisionTransformer) else getattr(module, "visual", None)
    if not isinstance(tower, VisionTransformer):
        raise UnsupportedModelError(
            f"{model_name}: the image tower is {type(module if tower is None else tower).__name__}; of open_clip's "
            "towers VisionTransformer is supported (no ResNets, no timm towers)."
        )
    _refuse_overrides(tower, VisionTransformer, ("forward", "_embeds", "_pool", "_global_pool"), model_name)
    if not isinstance(tower.ln_post, nn.LayerNorm):
        raise UnsupportedModelError(f"{model_name}: there is no final LayerNorm (ln_post is {tower.ln_post}).")
    blocks = [_block(block, model_name) for block in tower.transformer.resblocks]
    preprocess = getattr(tower, "preprocess_cfg", None) or {}
    return ViTParts(
        tower=tower,
        config=_config(tower, blocks, model_name),
        embedding=PatchEmbedding(tower),
        ln_pre=NormParts(tower.ln_pre) if isinstance(tower.ln_pre, nn.LayerNorm) else None,
        blocks=blocks,
        ln_final=NormParts(tower.ln_post),
        pooling=_pooling(tower, model_name),
        projection=None if tower.proj is None else ParameterRef(tower, "proj"),
        text=ClipText(module) if hasattr(module, "encode_text") else None,
        pixel_mean=_triple(preprocess.get("mean")),
        pixel_std=_triple(preprocess.get("std")),
    )


def _refuse_overrides(module: nn.Module, base: type[nn.Module], methods: Sequence[str], model_name: str) -> None:
    """Refuse a subclass that computes something else than the wiring that is rebuilt here."""
    for method in methods:
        if getattr(type(module), method, None) is not getattr(base, method, None):
            raise UnsupportedModelError(
                f"{model_name}: {type(module).__name__} overrides {base.__name__}.{method}; only open_clip's own is "
                "supported."
            )


def _triple(values: object) -> tuple[float, float, float] | None:
    if not isinstance(values, (tuple, list)):
        return None
    red, green, blue = values
    return float(red), float(green), float(blue)


def _block(block: nn.Module, model_name: str) -> BlockParts:
    if not isinstance(block, ResidualAttentionBlock) or hasattr(block, "ln_1_kv"):
        raise UnsupportedModelError(
            f"{model_name}: blocks are {type(block).__name__}; supported are self-attention ResidualAttentionBlocks "
            "(a norm on attention's output or per-head scales would need units of their own)."
        )
    _refuse_overrides(block, ResidualAttentionBlock, ("forward", "attention"), model_name)
    mlp: dict[str, Any] = dict(block.mlp.named_children())
    if list(mlp) != ["c_fc", "gelu", "c_proj"]:
        raise UnsupportedModelError(f"{model_name}: the MLP is not c_fc, gelu, c_proj: {block.mlp}.")
    if not isinstance(block.attn, nn.MultiheadAttention):
        raise UnsupportedModelError(
            f"{model_name}: attention is {type(block.attn).__name__}; supported is torch's own MultiheadAttention."
        )
    return BlockParts(
        ln1=NormParts(block.ln_1),
        attention=FusedAttention(block.attn, block.ls_1),
        ln2=NormParts(block.ln_2),
        mlp=SequentialMLP(mlp["c_fc"], mlp["gelu"], mlp["c_proj"], block.ls_2),
    )


def _pooling(tower: VisionTransformer, model_name: str) -> Pooling:
    if tower.attn_pool is not None:
        if tower.attn_pool_contrastive is not None or tower.pool_type != "tok":
            raise UnsupportedModelError(
                f"{model_name}: attention pooling of type {tower.attn_pool_type or tower.pool_type!r} has no single "
                "pooled vector to decompose."
            )
        return AttentionalPooling(tower.attn_pool)
    if tower.pool_type == "tok":
        return TokenPooling(0)
    if tower.pool_type == "avg":
        return MeanPooling(1) if tower.final_ln_after_pool else NormedMeanPooling(1)
    raise UnsupportedModelError(f"{model_name}: pool_type={tower.pool_type!r} gives tokens, not one image embedding.")


def _config(tower: VisionTransformer, blocks: list[BlockParts], model_name: str) -> HookedViTConfig:
    block, attention = blocks[0], cast(FusedAttention, blocks[0].attention).module
    norm = cast(nn.LayerNorm, tower.ln_post)
    height, width = tower.image_size
    patch_height, patch_width = tower.patch_size
    return HookedViTConfig(
        model_name=model_name,
        n_layers=len(blocks),
        n_heads=attention.num_heads,
        d_model=attention.embed_dim,
        d_head=attention.head_dim,
        d_mlp=cast(SequentialMLP, block.mlp).c_fc.out_features,
        d_out=norm.normalized_shape[0] if tower.proj is None else cast(Tensor, tower.proj).shape[1],
        n_ctx=tower.positional_embedding.shape[0],
        image_size=(height, width),
        patch_size=(patch_height, patch_width),
        eps=norm.eps,
        act_fn=type(cast(SequentialMLP, block.mlp).gelu).__name__,
    )
