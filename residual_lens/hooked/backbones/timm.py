"""timm: the `VisionTransformer` and `Eva` families."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from timm.layers.patch_embed import PatchEmbed
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from residual_lens.data.preprocessing import UNSTATED
from residual_lens.errors import UnsupportedModelError
from residual_lens.hooked.backbones.refusals import refuse_head, refuse_overrides
from residual_lens.hooked.backbones.timm_blocks import block_parts
from residual_lens.hooked.backbones.timm_pooling import latent_pooling
from residual_lens.hooked.loading.preprocessing import of_timm
from residual_lens.hooked.parts.embedding import EmbeddingParts, behind_prefix, with_gap
from residual_lens.hooked.parts.norm import NormParts
from residual_lens.hooked.parts.reference import plain_linear
from residual_lens.hooked.parts.rotary import Rotary, Rotation
from residual_lens.hooked.parts.vit import Projection, ViTParts
from residual_lens.hooked.pooling import MeanPooling, NormedMeanPooling, Pooling, TokenPooling

METHODS = ("forward", "forward_features", "forward_head", "pool", "_pos_embed")


@dataclass(frozen=True)
class TimmEmbedding(EmbeddingParts):
    """Patch embedding, class token and registers, positions of all or of the patches alone, dropout of both sorts."""

    model: Any

    @property
    def any_size(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.model.dynamic_img_size

    @property
    def dtype(self) -> torch.dtype:
        return self.model.patch_embed.proj.weight.dtype

    def tokens(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch pos d_model"]:
        patches = self.model.patch_embed(images)
        # Models for images of any size keep the grid apart.
        patches = patches.flatten(1, 2) if patches.ndim == 4 else patches
        prefix = [token for token in (self.model.cls_token, self.model.reg_token) if token is not None]
        return behind_prefix(prefix, patches)

    def positions(self, rows: int, columns: int) -> Float[Tensor, "pos d_model"]:
        model = self.model
        table, prefix = model.pos_embed, model.num_prefix_tokens
        if table is None:
            return model.patch_embed.proj.weight.new_zeros(prefix + rows * columns, model.embed_dim)
        if model.dynamic_img_size:
            table = resample_abs_pos_embed(
                table,
                new_size=[rows, columns],
                old_size=model.patch_embed.grid_size,
                num_prefix_tokens=0 if model.no_embed_class else prefix,
            )
        return with_gap(table[0], 0, prefix if model.no_embed_class else 0)

    def drop(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch kept d_model"]:
        model = self.model
        if model.pos_embed is not None or isinstance(model, Eva):
            x = model.pos_drop(x)
        if model.patch_drop is None:
            return x
        dropped = model.patch_drop(x)
        return dropped[0] if isinstance(dropped, tuple) else dropped


@dataclass(frozen=True)
class EvaRotary(Rotary):
    """The rotary positions of an `Eva`, the same in all layers or (mixed) each layer's own by head."""

    model: Any

    def rotations(self, images: Float[Tensor, "batch 3 height width"], rows: int, columns: int) -> Sequence[Rotation]:
        model, rope = self.model, self.model.rope
        has_own_grid = hasattr(rope, "feat_shape") and not model.dynamic_img_size
        table = rope.get_embed() if has_own_grid else rope.get_embed(shape=(rows, columns))
        # [patch 2·d_head] for all layers, or [layer head patch 2·d_head].
        tables = [layer.transpose(0, 1) for layer in table] if model.rope_mixed else [table[:, None]]
        halves = bool(model.blocks[0].attn.rotate_half)
        rotations = []
        for layer in tables:
            sin, cos = layer.chunk(2, dim=-1)
            rotations.append(Rotation(sin, cos, model.num_prefix_tokens, halves))
        return rotations if model.rope_mixed else rotations * len(model.blocks)


def adapt(module: nn.Module, model_name: str, *, head: bool) -> ViTParts:
    """The parts of a timm vision transformer, by reference.

    Raises:
        UnsupportedModelError: with the reason.
    """
    base = next((base for base in (VisionTransformer, Eva) if isinstance(module, base)), None)
    if base is None:
        raise UnsupportedModelError(
            f"{model_name}: {type(module).__name__} is no timm VisionTransformer or Eva. Windows that merge tokens "
            "(Swin) and convolutions between blocks leave no one stream that all units write to."
        )
    refuse_overrides(module, base, METHODS, model_name)
    model: Any = module
    if type(model.patch_embed) is not PatchEmbed or model.patch_embed.img_size is None:
        raise UnsupportedModelError(
            f"{model_name}: the stem is {type(model.patch_embed).__name__}, not one convolution over patches of images "
            "of a known size; residual branches of a stem would need units of their own."
        )
    if model.patch_embed.proj.in_channels != 3 or model.patch_embed.dynamic_img_pad:
        raise UnsupportedModelError(
            f"{model_name}: it takes {model.patch_embed.proj.in_channels} channels, or pads images "
            "(dynamic_img_pad); supported are three channels and sizes that are multiples of the patch."
        )
    rotary = EvaRotary(model) if getattr(model, "rope", None) is not None else None
    if rotary is not None and model.patch_drop is not None:
        raise UnsupportedModelError(
            f"{model_name}: patch dropout with rotary positions is not supported; create it with patch_drop_rate=0."
        )
    patch_embed: Any = model.patch_embed
    final, pooling = _final_norm_and_pooling(model, model_name)
    has_head = not isinstance(model.head, nn.Identity)
    refuse_head(head and not has_head, model_name)
    stated = getattr(model, "pretrained_cfg", None)
    return ViTParts(
        model_name=model_name,
        tower=model,
        image_size=patch_embed.img_size,
        patch_size=patch_embed.patch_size,
        n_prefix=model.num_prefix_tokens,
        embedding=TimmEmbedding(model),
        ln_pre=NormParts.maybe(model.norm_pre, model_name),
        rotary=rotary,
        blocks=[block_parts(block, model_name) for block in model.blocks],
        ln_final=final,
        pooling=pooling,
        projection=Projection.of(plain_linear(model.head, "the head", model_name)) if head else None,
        final_drops=(model.head_drop,),
        preprocessing=of_timm(stated, patch_embed.img_size) if stated else UNSTATED,
    )


def _final_norm_and_pooling(model: Any, model_name: str) -> tuple[NormParts, Pooling]:
    """The last norm, before or behind the pooling, and the pooling."""
    on_tokens, on_pooled = NormParts.maybe(model.norm, model_name), NormParts.maybe(model.fc_norm, model_name)
    if (on_tokens is None) == (on_pooled is None):
        number = "no" if on_tokens is None else "two"
        raise UnsupportedModelError(
            f"{model_name}: there is {number} final norm (one of norm and fc_norm is expected), so that no one frozen "
            "scale leads from the stream to the embedding."
        )
    prefix = 0 if getattr(model, "pool_include_prefix", False) else model.num_prefix_tokens
    if model.attn_pool is not None:
        if on_tokens is None:
            raise UnsupportedModelError(f"{model_name}: attention pooling with a norm behind it only (fc_norm).")
        first = 0 if isinstance(model, Eva) else prefix
        return on_tokens, latent_pooling(model.attn_pool, first, model_name)
    if model.global_pool == "token":
        return on_tokens or on_pooled, TokenPooling(0)  # pyright: ignore[reportReturnType]
    if model.global_pool == "avg":
        prefix = model.num_prefix_tokens if isinstance(model, Eva) else prefix
        return (on_tokens, NormedMeanPooling(prefix)) if on_tokens else (on_pooled, MeanPooling(prefix))  # pyright: ignore[reportReturnType]
    raise UnsupportedModelError(
        f"{model_name}: global_pool={model.global_pool!r} is no linear map of the tokens to one vector; supported are "
        "'token', 'avg' and 'map'."
    )
