"""open_clip: `VisionTransformer` or a timm tower, bare or inside a CLIP object."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from open_clip.timm_model import TimmModel
from open_clip.transformer import LayerScale, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from residual_lens.errors import UnsupportedModelError
from residual_lens.hooked.attention_pooling import AttentionPooling, TorchPoolAttention
from residual_lens.hooked.backbones.refusals import refuse_head, refuse_overrides
from residual_lens.hooked.loading.preprocessing import of_open_clip
from residual_lens.hooked.parts.embedding import EmbeddingParts, behind_prefix
from residual_lens.hooked.parts.mlp import MLPParts, PlainInput
from residual_lens.hooked.parts.norm import NormParts
from residual_lens.hooked.parts.reference import Ref, plain_linear
from residual_lens.hooked.parts.torch_attention import TorchAttentionParts
from residual_lens.hooked.parts.vit import BlockParts, Projection, TextParts, ViTParts
from residual_lens.hooked.pooling import MeanPooling, NormedMeanPooling, Pooling, TokenPooling


@dataclass(frozen=True)
class PatchEmbedding(EmbeddingParts):
    """Patch convolution, class token, positions, patch dropout."""

    tower: VisionTransformer

    @property
    def dtype(self) -> torch.dtype:
        return self.tower.conv1.weight.dtype

    def tokens(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch pos d_model"]:
        patches = rearrange(self.tower.conv1(images), "batch d row column -> batch (row column) d")
        return behind_prefix([self.tower.class_embedding], patches)

    def positions(self, rows: int, columns: int) -> Float[Tensor, "pos d_model"]:
        return self.tower.positional_embedding

    def drop(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch kept d_model"]:
        return self.tower.patch_dropout(x)


@dataclass(frozen=True)
class ClipText(TextParts):
    """The text tower of a CLIP object."""

    module: Any

    def encode(self, tokens: Tensor | Mapping[str, Tensor]) -> Float[Tensor, "text d_out"]:
        return self.module.encode_text(tokens)

    def logit_scale(self) -> float:
        return float(self.module.logit_scale.detach().exp())


def adapt(module: nn.Module, model_name: str, *, head: bool) -> ViTParts:
    """The parts of an open_clip image tower, by reference.

    Raises:
        UnsupportedModelError: with the reason.
    """
    is_tower = isinstance(module, (VisionTransformer, TimmModel))
    tower = module if is_tower else getattr(module, "visual", None)
    refuse_head(head, model_name)
    if isinstance(tower, TimmModel):
        parts = _timm_tower(tower, model_name)
    elif isinstance(tower, VisionTransformer):
        parts = _vision_transformer(tower, model_name)
    else:
        raise UnsupportedModelError(
            f"{model_name}: the image tower is {type(module if tower is None else tower).__name__}; of open_clip's "
            "towers VisionTransformer and timm's vision transformers are supported (no ResNets)."
        )
    stated = getattr(tower, "preprocess_cfg", None)
    return replace(
        parts,
        text=ClipText(module) if hasattr(module, "encode_text") else None,
        preprocessing=of_open_clip(stated, parts.image_size) if stated else parts.preprocessing,
    )


def _timm_tower(tower: TimmModel, model_name: str) -> ViTParts:
    from residual_lens.hooked.backbones import timm

    refuse_overrides(tower, TimmModel, ("forward",), model_name)
    last = dict(tower.head.named_children())
    if not set(last) <= {"drop", "proj"}:
        raise UnsupportedModelError(
            f"{model_name}: timm's tower ends in {', '.join(last)}; supported is a linear projection or none (an MLP "
            "behind the pooling is not linear)."
        )
    trunk: Any = tower.trunk
    has_own_head = not isinstance(getattr(trunk, "head", None), nn.Identity | None)
    parts = replace(timm.adapt(trunk, model_name, head=has_own_head), tower=tower)
    if not last:
        return parts
    if parts.projection is not None:
        raise UnsupportedModelError(f"{model_name}: timm's tower has a head of its own and a projection behind it.")
    linear = plain_linear(last["proj"], "the projection", model_name)
    return replace(parts, projection=Projection.of(linear), final_drops=(*parts.final_drops, last["drop"]))


def _vision_transformer(tower: VisionTransformer, model_name: str) -> ViTParts:
    refuse_overrides(tower, VisionTransformer, ("forward", "_embeds", "_pool", "_global_pool"), model_name)
    if not isinstance(tower.ln_post, nn.LayerNorm):
        raise UnsupportedModelError(f"{model_name}: there is no final LayerNorm (ln_post is {tower.ln_post}).")
    height, width = tower.image_size
    patch_height, patch_width = tower.patch_size
    return ViTParts(
        model_name=model_name,
        tower=tower,
        image_size=(height, width),
        patch_size=(patch_height, patch_width),
        n_prefix=1,
        embedding=PatchEmbedding(tower),
        ln_pre=NormParts.maybe(tower.ln_pre, model_name),
        blocks=[_block(block, model_name) for block in tower.transformer.resblocks],
        ln_final=NormParts.of(tower.ln_post, model_name),
        pooling=_pooling(tower, model_name),
        projection=None if tower.proj is None else Projection(Ref(tower, "proj")),
    )


def _block(block: nn.Module, model_name: str) -> BlockParts:
    if not isinstance(block, ResidualAttentionBlock) or hasattr(block, "ln_1_kv"):
        raise UnsupportedModelError(
            f"{model_name}: blocks are {type(block).__name__}; supported are self-attention ResidualAttentionBlocks "
            "(a norm on attention's output or per-head scales would need units of their own)."
        )
    refuse_overrides(block, ResidualAttentionBlock, ("forward", "attention"), model_name)
    mlp: dict[str, Any] = dict(block.mlp.named_children())
    if list(mlp) != ["c_fc", "gelu", "c_proj"]:
        raise UnsupportedModelError(f"{model_name}: the MLP is not c_fc, gelu, c_proj: {block.mlp}.")
    attention = block.attn
    if type(attention) is not nn.MultiheadAttention or attention.bias_k is not None or attention.add_zero_attn:
        raise UnsupportedModelError(
            f"{model_name}: attention is {type(attention).__name__}; supported is torch's own MultiheadAttention, "
            "without keys and values that come from no token (add_bias_kv, add_zero_attn)."
        )
    return BlockParts(
        ln1=NormParts.of(block.ln_1, model_name),
        attention=TorchAttentionParts.of(attention, _gain(block.ls_1), model_name),
        ln2=NormParts.of(block.ln_2, model_name),
        mlp=MLPParts(
            inputs=PlainInput(plain_linear(mlp["c_fc"], "the MLP's first layer", model_name)),
            activation=mlp["gelu"],
            out=plain_linear(mlp["c_proj"], "the MLP's second layer", model_name),
            gain=_gain(block.ls_2),
        ),
    )


def _gain(scale: nn.Module) -> Ref | None:
    return Ref(scale, "gamma") if isinstance(scale, LayerScale) else None


def _pooling(tower: VisionTransformer, model_name: str) -> Pooling:
    pooler = tower.attn_pool
    if pooler is not None:
        if tower.attn_pool_contrastive is not None or tower.pool_type != "tok":
            raise UnsupportedModelError(
                f"{model_name}: attention pooling of type {tower.attn_pool_type or tower.pool_type!r} has no single "
                "pooled vector to decompose."
            )
        attention = TorchPoolAttention(pooler.attn, pooler, "query", pooler.ln_q)
        return AttentionPooling(attention, tokens_norm=NormParts.of(pooler.ln_k, model_name))
    if tower.pool_type == "tok":
        return TokenPooling(0)
    if tower.pool_type == "avg":
        return MeanPooling(1) if tower.final_ln_after_pool else NormedMeanPooling(1)
    raise UnsupportedModelError(f"{model_name}: pool_type={tower.pool_type!r} gives tokens, not one image embedding.")
