"""open_clip's own configs scaled down: fewer and narrower layers, 2×2 or 2×3 patches, every other flag kept."""

import copy
from typing import Any

import open_clip
import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

TINY_TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}

# kind → (open_clip config, what this kind adds to its vision_cfg)
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT-B-16": ("ViT-B-16", {}),
    "ViT-B-32": ("ViT-B-32", {}),
    "ViT-L-14": ("ViT-L-14", {"width": 32}),
    "quickgelu": ("ViT-B-16-quickgelu", {}),
    "layerscale": ("ViT-M-16-alt", {}),
    "clipa": ("ViT-L-14-CLIPA", {"pos_embed_type": "sin_cos_2d"}),
    "avg-norm-before-pool": ("ViT-B-16", {"pool_type": "avg"}),
    "avg-norm-after-pool": ("ViT-B-16", {"pool_type": "avg", "final_ln_after_pool": True}),
    "no-ln-pre": ("ViT-B-16", {"no_ln_pre": True}),
    "coca": ("coca_ViT-B-32", {"attn_pooler_heads": 2}),
    "attention-pool-of-equal-width": ("coca_ViT-B-32", {"attn_pooler_heads": 2, "width": 20, "head_width": 5}),
    "patch-dropout": ("ViT-B-16", {"patch_dropout": 0.5}),
    "not-square": ("ViT-B-16", {"image_size": (32, 48)}),
    "norm-eps": ("ViT-B-16", {"norm_kwargs": {"eps": 1e-2}}),
}
TOKEN_POOLED = ("ViT-B-16", "ViT-B-32", "ViT-L-14", "quickgelu", "layerscale", "no-ln-pre", "not-square", "norm-eps")
UNIFORM_KINDS = tuple(kind for kind in KINDS if kind not in ("coca", "attention-pool-of-equal-width"))
# One of every wiring: token, mean after and before the norm, attention pooling, LayerScale.
WIRINGS = ("ViT-B-16", "layerscale", "clipa", "avg-norm-before-pool", "coca")


def tiny_clip(kind: str, *, custom_text: bool = False, seed: int = 0) -> nn.Module:
    """A whole open_clip model of this kind in eval mode, every parameter drawn."""
    config_name, changes = KINDS[kind]
    config = copy.deepcopy(open_clip.get_model_config(config_name))
    vision = config["vision_cfg"]
    vision |= {"width": 24, "head_width": 8, "layers": 3, "image_size": 2 * vision["patch_size"]} | changes
    config["text_cfg"] = TINY_TEXT
    config["embed_dim"] = 20
    custom = config.pop("custom_text", False) or custom_text
    config.pop("multimodal_cfg", None)
    model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config).eval()
    draw_weights(model, seed)
    return model


def tiny_tower(kind: str, *, seed: int = 0) -> VisionTransformer:
    """The image tower alone."""
    return tiny_clip(kind, seed=seed).visual


@torch.no_grad()
def draw_weights(model: nn.Module, seed: int) -> None:
    """Random values for every trainable parameter, gains and offsets included: initial ones and zeros hide errors."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("gamma"):
            parameter.copy_(0.7 + 0.3 * noise)
        elif "ln_" in name and name.endswith("weight"):
            parameter.copy_(1 + 0.3 * noise)
        elif "in_proj_weight" in name:
            # Wide enough that attention patterns are far from flat.
            parameter.copy_(2 * noise * parameter.shape[1] ** -0.5)
        elif parameter.ndim > 1 and "embedding" not in name and "query" not in name:
            parameter.copy_(noise * parameter[0].numel() ** -0.5)
        elif parameter.ndim == 0:
            continue
        else:
            parameter.copy_(0.3 * noise if name.endswith("bias") else noise)


def tiny_images(model: nn.Module, batch: int = 3, *, seed: int = 1) -> Tensor:
    """Images of the size that a model takes."""
    tower = getattr(model, "visual", model)
    return torch.randn(batch, 3, *tower.image_size, generator=torch.Generator().manual_seed(seed))


def source_embedding(model: nn.Module, images: Tensor) -> Tensor:
    """The embedding that open_clip itself computes."""
    out = getattr(model, "visual", model)(images)
    return out[0] if isinstance(out, tuple) else out
