"""Tiny models of every way that tokens become an embedding, each parameter drawn, with the source's own embedding."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
import transformers
from timm.layers import AttentionPoolLatent, RmsNorm
from torch import Tensor, nn

from residual_lens.hooked.vit import HookedViT
from tests.reference.sources import Plain, plain
from tests.tiny_models import source_embedding, tiny_tower

VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 24,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 50,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "sep_token_id": 2,
}
TIMM = {"embed_dim": 32, "depth": 2, "num_heads": 4, "img_size": 24, "patch_size": 8}


@torch.no_grad()
def drawn(model: nn.Module) -> nn.Module:
    """In eval mode, every parameter random: initial ones and zeros hide errors."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            is_gain = name.endswith("weight") or "gamma" in name or "lambda" in name
            parameter.copy_(float(is_gain) + 0.3 * noise)
        elif parameter.ndim == 2:
            parameter.copy_(1.5 * noise * parameter.shape[1] ** -0.5)
        elif parameter.ndim > 2:
            parameter.copy_(noise * (parameter[0].numel() ** -0.5 if parameter.ndim == 4 else 1))
    return model.eval()


def timm_model(name: str, **changes: Any) -> nn.Module:
    return drawn(timm.create_model(name, **(TIMM | {"num_classes": 0} | changes)))


def timm_with_normed_pool_keys() -> nn.Module:
    """Queries and keys of the pooling normalised, for which timm has no model by name."""
    model = timm.create_model("vit_base_patch16_siglip_224", **TIMM, num_classes=0)
    model.attn_pool = AttentionPoolLatent(32, num_heads=2, qk_norm=True, norm_layer=nn.LayerNorm)
    return drawn(model)


def siglip() -> nn.Module:
    config = transformers.SiglipConfig(vision_config=VISION, text_config=TEXT | {"max_position_embeddings": 8})
    return drawn(transformers.SiglipModel(config))


def blip() -> nn.Module:
    text = TEXT | {"encoder_hidden_size": 32}
    config = transformers.BlipConfig(vision_config=VISION, text_config=text, image_text_hidden_size=20)
    return drawn(transformers.BlipForImageTextRetrieval(config))


def dinov3() -> nn.Module:
    return drawn(transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**VISION, num_register_tokens=2)))


def itself(model: nn.Module, images: Tensor) -> Tensor:
    return model(images)


@dataclass(frozen=True)
class Kind:
    """How to build a model, and what its own embedding is."""

    build: Callable[[], nn.Module]
    embed: Callable[[Any, Tensor], Tensor] = itself
    wrapping: dict[str, Any] = field(default_factory=dict)
    image_size: tuple[int, int] = (24, 24)

    def model(self) -> nn.Module:
        return self.build()

    def images(self, batch: int = 3, seed: int = 1) -> Tensor:
        return torch.randn(batch, 3, *self.image_size, generator=torch.Generator().manual_seed(seed))

    def wrapped(self, model: nn.Module | None = None, **arguments: Any) -> HookedViT:
        return HookedViT.wrap(self.model() if model is None else model, **self.wrapping, **arguments)

    def plain(self, model: nn.Module, images: Tensor) -> Plain:
        return plain(model, images, self.embed, **self.wrapping)


def open_clip_kind(name: str) -> Kind:
    size = tiny_tower(name).image_size
    return Kind(lambda: tiny_tower(name), source_embedding, image_size=(size[0], size[1]))


def timm_kind(name: str, **changes: Any) -> Kind:
    return Kind(lambda: timm_model(name, **changes))


VIT = "vit_base_patch16_224"
ATTENTION_POOLED = {
    "coca": open_clip_kind("coca"),
    "siglip-timm": timm_kind("vit_base_patch16_siglip_224"),
    "siglip-hf": Kind(siglip, lambda model, images: model.get_image_features(images).pooler_output),
    "map-without-prefix": timm_kind(VIT, global_pool="map"),
    "map-with-prefix": timm_kind(VIT, global_pool="map", pool_include_prefix=True),
    "map-with-normed-keys": Kind(timm_with_normed_pool_keys),
    "perception-encoder": Kind(
        lambda: timm_model("vit_pe_core_base_patch16_224", num_classes=20, attn_pool_num_heads=2),
        wrapping={"head": True},
    ),
}
RMS_NORMED = {
    "rms-token": timm_kind(VIT, norm_layer=RmsNorm),
    "rms-mean-before-norm": timm_kind(VIT, norm_layer=RmsNorm, global_pool="avg", fc_norm=True),
    "rms-mean-after-norm": timm_kind("aimv2_large_patch14_224"),
    "rms-map": timm_kind(VIT, norm_layer=RmsNorm, global_pool="map"),
}
KINDS = (
    ATTENTION_POOLED
    | RMS_NORMED
    | {name: open_clip_kind(name) for name in ("ViT-B-16", "layerscale", "avg-norm-before-pool", "avg-norm-after-pool")}
    | {
        "normed-queries": timm_kind(VIT, qk_norm=True, init_values=1.0),
        "rotary-timm": timm_kind("eva02_base_patch14_224", global_pool="token"),
        "grouped-queries": timm_kind(
            "vit_base_patch16_dinov3", num_kv_heads=2, attn_type="rope", qkv_fused=False, global_pool="token"
        ),
        "dinov3-hf": Kind(dinov3, lambda model, images: model(images).pooler_output),
        "projection-with-bias": Kind(
            blip, lambda model, images: model.vision_proj(model.vision_model(images).last_hidden_state[:, 0])
        ),
    }
)
