"""Every published name of timm's and open_clip's vision transformers is exact or refused for a known reason."""

import copy
import re
from typing import Any

import open_clip
import pytest
import timm
import torch
from torch import nn

from residual_lens.errors import UnsupportedModelError
from residual_lens.hooked.vit import HookedViT
from tests.backbones.backbone import HEADS, TINY_TEXT, draw_parameters, images_of
from tests.backbones.timm_rows import SIZES, pre_logits
from tests.tolerances import FLOAT32_TOL, assert_close

# Reason in the message → the names that it refuses, as patterns. All others must be exact.
REFUSED = {
    "blocks are ResPostBlock": r"vit_base_patch16_rpn_224",
    "blocks are EvaBlockPostNorm": r"eva02_enormous_patch14_clip_224",
    "blocks are ParallelScalingBlock": r"vit_\w+_xp_\d+|vit_pwee_patch16_reg1_gap_256",
    "blocks are ParallelThingsBlock": r"vit_(base|small)_patch16_18x2_224",
    "blocks are DiffParallelScalingBlock": r"vit_dpwee_patch16_reg1_gap_256",
    "attention is DiffAttention": r"vit_d(little|wee)_patch16_reg1_gap_256",
    "there is no final norm": r"vit_\w+_radio_v[34]\w*|vit_pe_(lang|spatial)_\w+|vit_intern300m_patch14_448",
}
OPEN_CLIP_REFUSED = {
    "the image tower is ModifiedResNet": r"RN\d+.*",
    "timm's tower ends in mlp": r"convnext_large_d.*",
    "is no timm VisionTransformer or Eva": r"convnext_.*|swin_.*|MobileCLIP2?-S\d|vit_relpos_.*",
    "the stem is HybridEmbed": r"MobileCLIP2?-B|ViTamin-.*",
    "blocks are EvaBlockPostNorm": r"EVA02-E-14.*",
}
NAMES = [*timm.list_models(module="vision_transformer"), *timm.list_models(module="eva")]
DEPTH = 2


def expected_reason(name: str, reasons: dict[str, str]) -> str | None:
    return next((reason for reason, names in reasons.items() if re.fullmatch(names, name)), None)


def tiny(name: str) -> Any:
    """Two narrow layers; published counts of key heads fall to one a layer as the layers do."""
    grouped = {"num_kv_heads": (HEADS, HEADS // 2)} if "sapiens2" in name else {}
    return timm.create_model(name, **(SIZES | {"depth": DEPTH, "num_classes": 7} | grouped))


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_timm_is_exact_with_both_heads_or_refused_for_its_reason(name: str) -> None:
    model = tiny(name).eval()
    reason = expected_reason(name, REFUSED)
    draw_parameters(model)
    for head in (False, True):
        if reason is not None:
            with pytest.raises(UnsupportedModelError, match=reason):
                HookedViT.wrap(model, head=head)
            continue
        hvit = HookedViT.wrap(model, head=head)
        images = images_of(hvit.cfg.image_size, batch=2)
        expected = model(images) if head else pre_logits(model, images)
        assert_close(hvit(images), expected, FLOAT32_TOL)
        assert_close(hvit.decompose(images).total(), expected, FLOAT32_TOL)


def without_memory(name: str) -> nn.Module:
    """The image tower of a configuration of open_clip, as large as published, without weights."""
    config: dict[str, Any] = copy.deepcopy(open_clip.get_model_config(name))  # pyright: ignore[reportAssignmentType]
    vision, embed_dim = config["vision_cfg"], config["embed_dim"]
    quick_gelu = config.get("quick_gelu", False)
    with torch.device("meta"):
        return open_clip.CLIP(embed_dim, vision, TINY_TEXT, quick_gelu=quick_gelu).visual


@pytest.mark.slow
@pytest.mark.parametrize("name", open_clip.list_models())
def test_every_configuration_of_open_clip_is_taken_or_refused_for_its_reason(name: str) -> None:
    tower = without_memory(name)
    reason = expected_reason(name, OPEN_CLIP_REFUSED)
    if reason is not None:
        with pytest.raises(UnsupportedModelError, match=reason):
            HookedViT.wrap(tower)
        return
    hvit = HookedViT.wrap(tower)
    assert hvit.cfg.n_layers == len(hvit.parts.blocks) > 1


def test_what_is_refused_is_still_published() -> None:
    for names in REFUSED.values():
        assert any(re.fullmatch(names, name) for name in NAMES), names
    for names in OPEN_CLIP_REFUSED.values():
        assert any(re.fullmatch(names, name) for name in open_clip.list_models()), names
