"""open_clip's own configurations scaled down, every flag that is not a size as published."""

import copy
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import open_clip
import timm
from torch import Tensor, nn

from tests.backbones.backbone import DEPTH, HEADS, TINY_TEXT, WIDTH, Backbone
from tests.backbones.timm_rows import DROPOUT, SIZES


def scaled_down(config_name: str, **changes: Any) -> dict[str, Any]:
    """A configuration of open_clip with sizes of ours."""
    config = copy.deepcopy(open_clip.get_model_config(config_name))
    assert config is not None, config_name
    vision = config["vision_cfg"]
    sizes = {"width": WIDTH, "head_width": WIDTH // HEADS, "layers": DEPTH, "image_size": 3 * vision["patch_size"]}
    config["vision_cfg"] = vision | sizes | changes
    config.pop("custom_text", None)
    return config | {"embed_dim": 20, "text_cfg": TINY_TEXT}


def visual_embedding(model: Any, images: Tensor) -> Tensor:
    """What the image tower gives, the pooled vector of CoCa's two outputs."""
    out = model.visual(images)
    return out[0] if isinstance(out, tuple) else out


def with_timm_tower(config_name: str, **options: Any) -> nn.Module:
    """A CLIP of open_clip around a tower of timm, which open_clip creates by name: `options` are slipped in there."""
    config = copy.deepcopy(open_clip.get_model_config(config_name))
    assert config is not None, config_name
    config.pop("custom_text", None)
    create_model = timm.create_model

    def create(name: str, **given: Any) -> nn.Module:
        return create_model(name, **(given | options))

    with patch.object(timm, "create_model", create):
        return open_clip.CustomTextCLIP(**config | {"embed_dim": 20, "text_cfg": TINY_TEXT})


def _creating(config_name: str, model: type[nn.Module], changes: dict[str, Any]) -> Callable[[bool], nn.Module]:
    def create(dropout: bool) -> nn.Module:
        config = scaled_down(config_name, **changes, **({"patch_dropout": 0.4} if dropout else {}))
        config.pop("multimodal_cfg", None)
        if model is open_clip.CoCa:
            config["multimodal_cfg"] = TINY_TEXT
        built: Any = model(**config)
        for block in built.visual.transformer.resblocks:
            block.attn.dropout = 0.3 if dropout else 0.0
        return built

    return create


def _row(config: str, special: str, pooling: str, model: type[nn.Module] = open_clip.CLIP, **changes: Any) -> Backbone:
    return Backbone(
        "open_clip",
        config,
        special,
        pooling,
        create=_creating(config, model, changes),
        embedding=visual_embedding,
        blocks=lambda built: built.visual.transformer.resblocks,
        dropout="patches, pattern",
        sums_under_dropout=True,
    )


def _timm_row(config: str, special: str, pooling: str) -> Backbone:
    def create(dropout: bool) -> nn.Module:
        # Zero by name, because some of open_clip's configurations ask for stochastic depth.
        drops = DROPOUT if dropout else dict.fromkeys(DROPOUT, 0.0)
        return with_timm_tower(config, patch_size=8, img_size=(16, 24), **SIZES, **drops)

    return Backbone(
        "open_clip",
        config,
        special,
        pooling,
        create=create,
        embedding=visual_embedding,
        blocks=lambda built: built.visual.trunk.blocks,
        dropout="tokens, pattern, outputs, branches, head",
        sums_under_dropout=False,
    )


OPEN_CLIP = (
    _row("ViT-B-16", "", "class token"),
    _row("ViT-B-32", "not square", "class token", image_size=(64, 96)),
    _row("ViT-L-14", "", "class token"),
    _row("ViT-bigG-14", "head_width, mlp_ratio", "class token", head_width=16),
    _row("ViT-B-16-quickgelu", "QuickGELU", "class token"),
    _row("ViT-B-16", "CustomTextCLIP", "class token", open_clip.CustomTextCLIP),
    _row("ViT-M-16-alt", "LayerScale", "class token"),
    _row("ViT-L-14-CLIPA", "no norm before the blocks", "mean, then norm"),
    _row("ViT-B-16", "average after the norm", "norm, then mean", pool_type="avg"),
    _row("coca_ViT-B-32", "CoCa", "attention", open_clip.CoCa, attn_pooler_heads=2),
    _timm_row("EVA01-g-14", "tower of timm", "class token"),
    _timm_row("EVA02-B-16", "tower of timm, rotary, sub-norm, SwiGLU", "class token"),
    _timm_row("ViT-B-16-SigLIP", "tower of timm", "attention + MLP"),
    _timm_row("PE-Core-B-16", "tower of timm, rotary", "attention + MLP"),
    _timm_row("MobileCLIP2-L-14", "tower of timm, norm before the blocks", "class token"),
    _timm_row("vit_medium_patch16_gap_256", "tower of timm, projection behind it", "norm, then mean"),
)
"""The rows of open_clip."""
