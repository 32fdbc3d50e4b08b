"""What `HookedViT` takes by name, with the sizes of each model, known without its weights.

Architectures are built without memory (on torch's meta device) from the configuration that the library carries, then
wrapped: what is listed is what `HookedViT` makes of them. transformers carries no configurations; `PUBLISHED` holds the
sizes from the config.json of each repository on the Hugging Face Hub.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from residual_lens.errors import InputError
from residual_lens.hooked.loading import PAPER_MODELS, SHIPPED
from residual_lens.hooked.vit import HookedViT
from residual_lens.zoo import attribute_clip_path


@dataclass(frozen=True)
class Entry:
    """A model that `HookedViT.from_pretrained` loads."""

    name: str
    """What to type: a short name, or the full name."""
    kind: str
    """What sort of model it is, and what is special about it."""
    head: bool = False
    """Whether it is listed with its linear head (`head=True`)."""

    @property
    def checkpoint(self) -> str:
        """Library and the checkpoint's name there."""
        return PAPER_MODELS.get(self.name, self.name)


@dataclass(frozen=True)
class Listing:
    """The sizes of a listed model."""

    entry: Entry
    """Which model."""
    n_layers: int
    """Number of blocks."""
    n_heads: int
    """Heads per block."""
    pooling: str
    """How tokens become one vector."""
    n_units: int
    """Terms of the image embedding."""
    image_size: tuple[int, int]
    """Height and width of the images that it is used with."""


ENTRIES = (
    Entry(SHIPPED, "CLIP, shipped"),
    Entry("clip-b", "CLIP, QuickGELU"),
    Entry("clip-l", "CLIP, QuickGELU"),
    Entry("openclip-b", "CLIP of LAION"),
    Entry("openclip-l", "CLIP of LAION"),
    Entry("blip-l", "BLIP"),
    Entry("vit-l", "supervised ViT"),
    Entry("dinov2-l", "DINOv2, LayerScale"),
    Entry("open_clip:ViT-H-14/laion2b_s32b_b79k", "CLIP of LAION"),
    Entry("open_clip:ViT-bigG-14/laion2b_s39b_b160k", "CLIP of LAION, head_width 104"),
    Entry("open_clip:ViT-L-14-quickgelu/metaclip_fullcc", "MetaCLIP"),
    Entry("open_clip:ViT-L-14/datacomp_xl_s13b_b90k", "DataComp"),
    Entry("open_clip:ViT-H-14-quickgelu/dfn5b", "DFN"),
    Entry("open_clip:ViT-L-14-CLIPA/datacomp1b", "CLIPA, mean of patches"),
    Entry("open_clip:coca_ViT-L-14/laion2b_s13b_b90k", "CoCa, attention pooling"),
    Entry("open_clip:ViT-B-16-SigLIP/webli", "SigLIP, tower of timm"),
    Entry("open_clip:ViT-B-16-SigLIP2/webli", "SigLIP 2, tower of timm"),
    Entry("open_clip:EVA02-L-14/merged2b_s4b_b131k", "EVA-02 CLIP, tower of timm"),
    Entry("open_clip:PE-Core-B-16/meta", "Perception Encoder, tower of timm"),
    Entry("hf:openai/clip-vit-large-patch14", "CLIPModel"),
    Entry("hf:FOLDER", "CLIPVisionModelWithProjection, as large as CLIP-L"),
    Entry("hf:google/vit-base-patch16-224", "ViTForImageClassification", head=True),
    Entry("hf:facebook/dino-vitb16", "ViTModel, DINO"),
    Entry("hf:facebook/dinov2-with-registers-large", "Dinov2WithRegistersModel"),
    Entry("hf:facebook/dinov3-vitb16-pretrain-lvd1689m", "DINOv3ViTModel, rotary"),
    Entry("hf:google/siglip-so400m-patch14-384", "SiglipModel"),
    Entry("hf:google/siglip2-base-patch16-224", "SiglipModel, SigLIP 2"),
    Entry("hf:google/siglip2-base-patch16-naflex", "Siglip2Model"),
    Entry("timm:vit_base_patch16_224.augreg2_in21k_ft_in1k", "AugReg"),
    Entry("timm:deit_base_patch16_224.fb_in1k", "DeiT"),
    Entry("timm:deit3_base_patch16_224.fb_in22k_ft_in1k", "DeiT-3, no position on the class token"),
    Entry("timm:vit_base_patch16_224.dino", "DINO"),
    Entry("timm:vit_base_patch14_dinov2.lvd142m", "DINOv2"),
    Entry("timm:vit_base_patch14_reg4_dinov2.lvd142m", "DINOv2, registers"),
    Entry("timm:vit_giant_patch14_dinov2.lvd142m", "DINOv2, packed SwiGLU"),
    Entry("timm:vit_base_patch16_siglip_224.webli", "SigLIP"),
    Entry("timm:vit_base_patch16_siglip_224.v2_webli", "SigLIP 2"),
    Entry("timm:vit_medium_patch16_reg4_gap_256.sbb_in12k_ft_in1k", "mean, fc_norm, registers"),
    Entry("timm:vit_base_patch16_sapiens2.fb", "Sapiens 2, qk-norm, rotary"),
    Entry("timm:aimv2_large_patch14_224.apple_pt", "AIMv2, SwiGLU, RMSNorm"),
    Entry("timm:vit_base_patch16_clip_224.openai", "CLIP, norm before the blocks"),
    Entry("timm:eva02_large_patch14_448.mim_m38m_ft_in22k_in1k", "EVA-02, rotary, SwiGLU, sub-norm"),
    Entry("timm:vit_base_patch16_dinov3.lvd1689m", "DINOv3, rotary, registers"),
    Entry("timm:vit_pe_core_base_patch16_224.fb", "Perception Encoder, rotary, MAP"),
)
"""The paper's models, then examples of everything that is supported; other models of these kinds work as well."""

_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_SO400M = {"hidden_size": 1152, "num_hidden_layers": 27, "num_attention_heads": 16, "intermediate_size": 4304}
_CLIP_L = _LARGE | {"image_size": 224, "patch_size": 14, "projection_dim": 768}

PUBLISHED: dict[str, tuple[str, dict[str, Any], int]] = {
    "hf:Salesforce/blip-itm-large-flickr": (
        "BlipForImageTextRetrieval",
        {"vision_config": _LARGE | {"image_size": 384, "patch_size": 16}, "image_text_hidden_size": 256},
        384,
    ),
    "hf:google/vit-large-patch16-224": ("ViTModel", _LARGE | {"image_size": 224, "patch_size": 16}, 224),
    "hf:facebook/dinov2-large": ("Dinov2Model", _LARGE | {"image_size": 518, "patch_size": 14}, 224),
    "hf:openai/clip-vit-large-patch14": ("CLIPModel", {"vision_config": _CLIP_L, "projection_dim": 768}, 224),
    "hf:FOLDER": ("CLIPVisionModelWithProjection", _CLIP_L, 224),
    "hf:google/vit-base-patch16-224": (
        "ViTForImageClassification",
        _BASE | {"image_size": 224, "patch_size": 16, "num_labels": 1000},
        224,
    ),
    "hf:facebook/dino-vitb16": ("ViTModel", _BASE | {"image_size": 224, "patch_size": 16}, 224),
    "hf:facebook/dinov2-with-registers-large": (
        "Dinov2WithRegistersModel",
        _LARGE | {"image_size": 518, "patch_size": 14, "num_register_tokens": 4},
        224,
    ),
    "hf:facebook/dinov3-vitb16-pretrain-lvd1689m": (
        "DINOv3ViTModel",
        _BASE | {"image_size": 224, "patch_size": 16, "num_register_tokens": 4},
        224,
    ),
    "hf:google/siglip-so400m-patch14-384": (
        "SiglipModel",
        {"vision_config": _SO400M | {"image_size": 384, "patch_size": 14}},
        384,
    ),
    "hf:google/siglip2-base-patch16-224": (
        "SiglipModel",
        {"vision_config": _BASE | {"image_size": 224, "patch_size": 16}},
        224,
    ),
    "hf:google/siglip2-base-patch16-naflex": (
        "Siglip2Model",
        {"vision_config": _BASE | {"num_patches": 256, "patch_size": 16}},
        256,
    ),
}
"""Class, sizes and the size of images after preprocessing, as the repositories state them."""

# Text towers hold no units: as few layers as the classes take, with a vocabulary that their default tokens fit in.
_NO_TEXT = {"num_hidden_layers": 0, "vocab_size": 49408}

_INITIALISERS = {
    *("kaiming_uniform_", "constant_", "uniform_", "normal_", "fill_", "zero_"),
    *("erfinv_", "mul_", "add_", "div_", "clamp_"),
}


class _WithoutInitialisation(TorchFunctionMode):
    """Leave out what gives tensors without memory their values: half the time of building a large model."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in _INITIALISERS and args and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


def entries(containing: str = "") -> tuple[Entry, ...]:
    """The listed models.

    Args:
        containing: only those whose name, checkpoint or kind contains this text, in upper or lower case.

    Raises:
        InputError: there is none.
    """
    wanted = containing.lower()
    chosen = [entry for entry in ENTRIES if wanted in f"{entry.name} {entry.checkpoint} {entry.kind}".lower()]
    if not chosen:
        raise InputError(f"No listed model contains {containing!r} in its name or kind: see `residual-lens models`.")
    return tuple(chosen)


def listing(entry: Entry) -> Listing:
    """The sizes of a model: it is built without memory and wrapped.

    Example:
        >>> [listing(entry).n_units for entry in entries("attribute-clip")]
        [44]
    """
    with torch.device("meta"), _WithoutInitialisation():
        module, size = _architecture(entry)
    hvit = HookedViT.wrap(module, head=entry.head, model_name=entry.name, image_size=size)
    cfg = hvit.cfg
    return Listing(entry, cfg.n_layers, cfg.n_heads, cfg.pooling, len(hvit.units), cfg.image_size)


def _architecture(entry: Entry) -> tuple[nn.Module, tuple[int, int] | None]:
    """The module with random or no values, and the size of images where the module states another."""
    source, _, rest = entry.checkpoint.partition(":")
    if source == "timm":
        import timm

        model: Any = timm.create_model(rest) if entry.head else timm.create_model(rest, num_classes=0)
        _, height, width = model.pretrained_cfg["input_size"]
        return model, (height, width)
    if source == "hf":
        import transformers

        name, sizes, side = PUBLISHED[entry.checkpoint]
        model_class: Any = getattr(transformers, name)
        text = {"text_config": _NO_TEXT} if "vision_config" in sizes else {}
        return model_class(model_class.config_class(**sizes, **text)), (side, side)
    import open_clip

    name = f"local-dir:{attribute_clip_path()}" if entry.name == SHIPPED else rest.partition("/")[0]
    config: Any = open_clip.get_model_config(name)
    config["text_cfg"]["layers"] = 1
    custom = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    return (open_clip.CoCa if "multimodal_cfg" in config else custom)(**config), None
