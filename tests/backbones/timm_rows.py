"""timm's own configurations by name, scaled down, every flag that is not a size as published."""

from typing import Any

import timm
from timm.models.eva import EvaBlock
from torch import Tensor, nn

from tests.backbones.backbone import CLASSES, DEPTH, HEADS, WIDTH, Backbone

SIZES = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
DROPOUT = {
    **dict.fromkeys(("drop_rate", "pos_drop_rate", "proj_drop_rate", "attn_drop_rate"), 0.2),
    "drop_path_rate": 0.5,
}


def tiny_timm(name: str, *, gated: bool = False, **options: Any) -> Any:
    """A model of timm with sizes of ours; `gated` gives it the gated attention that no published name has."""
    patch_size = 14 if "patch14" in name else 8
    # Not square, so that rows and columns cannot be confused.
    sizes = {"img_size": (2 * patch_size, 3 * patch_size), "patch_size": patch_size, "num_classes": CLASSES}
    model: Any = timm.create_model(name, **(SIZES | sizes | options))
    if gated:
        prefix = model.num_prefix_tokens
        model.blocks = nn.ModuleList(
            EvaBlock(WIDTH, HEADS, gated_attn=True, num_prefix_tokens=prefix) for _ in range(DEPTH)
        )
    return model


def pre_logits(model: Any, images: Tensor) -> Tensor:
    """What the head is given."""
    return model.forward_head(model.forward_features(images), pre_logits=True)


def _row(model: str, special: str, pooling: str, *, head: bool = False, dropout: str = "", **options: Any) -> Backbone:
    drops = DROPOUT | ({"patch_drop_rate": 0.4} if "patches" in dropout else {})
    if options.get("gated"):
        drops = {name: rate for name, rate in drops.items() if name in ("drop_rate", "pos_drop_rate")}
    return Backbone(
        "timm",
        model,
        special,
        pooling,
        create=lambda dropout: tiny_timm(model, **options, **(drops if dropout else {})),
        embedding=(lambda built, images: built(images)) if head else pre_logits,
        blocks=lambda built: built.blocks,
        dropout=dropout or "tokens, pattern, outputs, branches, head",
        sums_under_dropout=False,
        head=head,
    )


MEAN_AFTER_NORM = {"global_pool": "avg", "fc_norm": False}
TIMM = (
    _row("vit_tiny_patch16_224", "AugReg", "class token", dropout="patches, tokens, pattern, outputs, branches, head"),
    _row("vit_tiny_patch16_224", "AugReg, logits", "class token", head=True),
    _row("vit_small_patch16_224", "DINO, no head", "class token", num_classes=0),
    _row("deit_tiny_patch16_224", "", "class token"),
    _row("deit3_small_patch16_224", "no position on the class token, LayerScale", "class token"),
    _row("vit_small_patch14_dinov2", "LayerScale", "class token"),
    _row("vit_small_patch14_reg4_dinov2", "registers", "class token"),
    _row("vit_giant_patch14_dinov2", "packed SwiGLU", "class token"),
    _row("aimv2_large_patch14_224", "SwiGLU, RMSNorm, norm of patches", "norm, then mean"),
    _row("vit_base_patch16_siglip_224", "SigLIP", "attention + MLP"),
    _row("vit_giantopt_patch16_siglip_256", "SigLIP 2", "attention + MLP"),
    _row("vit_base_patch16_siglip_gap_224", "SigLIP without its pooling head", "norm, then mean"),
    _row("vit_medium_patch16_reg4_gap_256", "fc_norm, registers", "mean, then norm"),
    _row("vit_medium_patch16_gap_256", "no class token", "norm, then mean"),
    _row("vit_tiny_patch16_224", "average without prefix", "norm, then mean", **MEAN_AFTER_NORM),
    _row(
        "vit_tiny_patch16_224",
        "average with prefix",
        "norm, then mean",
        pool_include_prefix=True,
        **MEAN_AFTER_NORM,
    ),
    _row(
        "vit_tiny_patch16_224",
        "fc_norm, average with prefix and registers",
        "mean, then norm",
        **{"global_pool": "avg", "pool_include_prefix": True, "reg_tokens": 2},
    ),
    _row("vit_tiny_patch16_224", "fc_norm behind the class token", "class token", fc_norm=True),
    _row("test_vit3", "registers in attention pooling", "attention + MLP"),
    _row(
        "vit_base_patch16_siglip_224",
        "class token left out of attention pooling",
        "attention + MLP",
        class_token=True,
    ),
    _row("test_vit4", "RMSNorm", "mean, then norm"),
    _row("vit_tiny_patch16_224", "qk-norm", "class token", qk_norm=True),
    _row("vit_tiny_patch16_224", "sub-norms", "class token", scale_attn_norm=True, scale_mlp_norm=True),
    _row("vit_tiny_patch16_224", "no biases", "class token", qkv_bias=False, proj_bias=False),
    _row("vit_base_patch16_clip_224", "norm before the blocks, projection", "class token", head=True),
    _row(
        "vit_base_patch16_clip_quickgelu_224", "QuickGELU, norm before the blocks, projection", "class token", head=True
    ),
    _row("eva02_base_patch16_clip_224", "rotary, sub-norm, SwiGLU", "class token"),
    _row("eva02_base_patch14_224", "rotary, SwiGLU", "mean, then norm"),
    _row("eva_giant_patch14_224", "EVA-01, logits", "mean, then norm", head=True),
    _row("vit_small_patch16_dinov3", "rotary, registers", "norm, then mean"),
    _row("vit_small_plus_patch16_dinov3", "rotary, registers, SwiGLU", "class token", global_pool="token"),
    _row("vit_pe_core_base_patch16_224", "rotary, projection", "attention + MLP", head=True),
    _row("vit_small_patch16_rope_224", "rotary positions alone", "class token"),
    _row("vit_small_patch16_rope_mixed_224", "each head's own rotations", "class token"),
    _row("vit_small_patch16_rope_ape_224", "rotary and added positions", "class token"),
    _row("vit_base_patch16_sapiens2", "grouped queries, qk-norm, RMSNorm, SwiGLU", "class token", num_kv_heads=(4, 2)),
    _row("eva02_base_patch14_224", "gated attention", "mean, then norm", gated=True),
)
"""The rows of timm."""
