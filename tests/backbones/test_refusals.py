"""What cannot be taken apart exactly is refused with the reason, and left as it was."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import transformers
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from residual_lens.errors import UnsupportedModelError
from residual_lens.hooked.vit import HookedViT
from tests.backbones.backbone import WIDTH
from tests.backbones.hugging_face_rows import VISION, tiny_hugging_face
from tests.backbones.open_clip_rows import with_timm_tower
from tests.backbones.timm_rows import SIZES, tiny_timm


class LowRank(nn.Module):
    """What adapter libraries put in a linear layer's place."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.down = nn.Linear(layer.in_features, 2, bias=False)
        self.up = nn.Linear(2, layer.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.up(self.down(x))


class ScaledLinear(nn.Linear):
    """A linear layer whose weight is not all that it computes with."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Doubled(VisionTransformer):
    """A vision transformer that computes something else."""

    def forward_features(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        return 2 * super().forward_features(x, attn_mask, is_causal)


class DoubledClip(transformers.CLIPVisionModel):
    """The same from Hugging Face."""

    def forward(self, *args: Any, **options: Any) -> Any:
        return super().forward(*args, **options)


def hugging_face(model: str, **options: Any) -> nn.Module:
    return tiny_hugging_face(model, VISION, options)


def with_adapter(path: str, model: nn.Module) -> nn.Module:
    """The model with one linear layer wrapped."""
    owner, _, name = path.rpartition(".")
    parent = model.get_submodule(owner)
    setattr(parent, name, LowRank(getattr(parent, name)))
    return model


def without_memory(build: Callable[[], nn.Module]) -> nn.Module:
    """A model that cannot be scaled down."""
    with torch.device("meta"):
        return build()


def doubled() -> nn.Module:
    return Doubled(img_size=32, patch_size=16, **SIZES)


def scaled_projection() -> nn.Module:
    model = tiny_timm("vit_tiny_patch16_224")
    model.blocks[1].attn.proj = ScaledLinear(WIDTH, WIDTH)
    return model


def eva_with_two_norms() -> nn.Module:
    model = tiny_timm("eva02_base_patch14_224")
    model.norm = nn.LayerNorm(WIDTH)
    return model


CLIP_TEXT = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 50}
REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "post-norm of timm": (lambda: tiny_timm("vit_base_patch16_rpn_224"), "blocks are ResPostBlock.*norm behind"),
    "post-norm of EVA": (
        lambda: tiny_timm("eva02_enormous_patch14_clip_224"),
        "blocks are EvaBlockPostNorm.*norm behind attention or MLP",
    ),
    "attention and MLP in parallel": (
        lambda: tiny_timm("vit_base_patch16_xp_224"),
        "blocks are ParallelScalingBlock.*in parallel",
    ),
    "several attentions in parallel": (
        lambda: tiny_timm("vit_small_patch16_18x2_224"),
        "blocks are ParallelThingsBlock.*in parallel",
    ),
    "differential attention": (
        lambda: tiny_timm("vit_dlittle_patch16_reg1_gap_256"),
        "attention is DiffAttention; supported are",
    ),
    "a convolutional stem": (
        lambda: timm.create_model("vit_tiny_r_s16_p8_224", **SIZES),
        "the stem is HybridEmbed, not one convolution",
    ),
    "a stem of strided convolutions": (
        lambda: without_memory(lambda: timm.create_model("vit_base_mci_224")),
        "the stem is HybridEmbed, not one convolution",
    ),
    "MobileCLIP in open_clip": (
        lambda: without_memory(lambda: with_timm_tower("MobileCLIP-B")),
        "the stem is HybridEmbed",
    ),
    "Swin of timm": (
        lambda: timm.create_model("swin_tiny_patch4_window7_224", embed_dim=8, depths=(1,), num_heads=(1,)),
        "SwinTransformer is no timm VisionTransformer or Eva.*merge tokens",
    ),
    "Swin in open_clip": (
        lambda: with_timm_tower("swin_base_patch4_window7_224", embed_dim=8, depths=(1,), num_heads=(1,)),
        "SwinTransformer is no timm VisionTransformer or Eva",
    ),
    "ConvNeXt": (
        lambda: timm.create_model("convnext_tiny", depths=(1, 1, 1, 1), dims=(8, 8, 8, 8)),
        "ConvNeXt is no timm VisionTransformer or Eva.*convolutions between blocks",
    ),
    "maximum over tokens": (
        lambda: tiny_timm("vit_tiny_patch16_224", global_pool="max"),
        "global_pool='max' is no linear map of the tokens",
    ),
    "no pooling": (lambda: tiny_timm("vit_tiny_patch16_224", global_pool=""), "global_pool='' is no linear map"),
    "no final norm": (
        lambda: tiny_timm("vit_tiny_patch16_224", final_norm=False),
        "there is no final norm .one of norm and fc_norm",
    ),
    "no final norm in EVA": (lambda: tiny_timm("vit_pe_spatial_base_patch16_512"), "there is no final norm"),
    "two final norms": (eva_with_two_norms, "there is two final norm"),
    "another forward": (doubled, "Doubled overrides VisionTransformer.forward_features"),
    "another forward in Hugging Face": (
        lambda: DoubledClip(transformers.CLIPVisionConfig(**VISION)),
        "DoubledClip overrides CLIPVisionModel.forward",
    ),
    "patch dropout with rotary positions": (
        lambda: tiny_timm("eva02_base_patch14_224", patch_drop_rate=0.5),
        "patch dropout with rotary positions is not supported; create it with patch_drop_rate=0",
    ),
    "distilled DeiT": (
        lambda: timm.create_model("deit_tiny_distilled_patch16_224", **SIZES),
        "VisionTransformerDistilled overrides VisionTransformer",
    ),
    "adapter on queries": (
        lambda: with_adapter("encoder.layers.1.self_attn.q_proj", hugging_face("CLIPVisionModel")),
        r"an input projection of attention is .*LowRank, not a plain nn.Linear.*Merge adapters \(LoRA\)",
    ),
    "adapter on the output projection": (
        lambda: with_adapter("encoder.layers.0.self_attn.out_proj", hugging_face("CLIPVisionModel")),
        "attention's output projection is .*LowRank",
    ),
    "adapter in the MLP": (
        lambda: with_adapter("blocks.1.mlp.fc1", tiny_timm("vit_tiny_patch16_224")),
        "a layer of the MLP is .*LowRank",
    ),
    "adapter on fused queries, keys and values": (
        lambda: with_adapter("blocks.0.attn.qkv", tiny_timm("vit_tiny_patch16_224")),
        "attention's input projection is .*LowRank",
    ),
    "a linear layer that computes something else": (scaled_projection, "output projection is .*ScaledLinear"),
    "Swin of Hugging Face": (
        lambda: transformers.SwinModel(
            transformers.SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1], num_heads=[1], window_size=4)
        ),
        "SwinModel is not supported. Of Hugging Face's models HookedViT takes CLIPModel",
    ),
    "BEiT of Hugging Face": (
        lambda: hugging_face("BeitModel"),
        "BeitModel is not supported.*others need an adapter",
    ),
    "a text model of Hugging Face": (
        lambda: transformers.CLIPTextModel(transformers.CLIPTextConfig(**CLIP_TEXT)),
        "CLIPTextModel is not supported",
    ),
    "SigLIP without its pooling head": (
        lambda: hugging_face("SiglipVisionModel", vision_use_head=False),
        r"without its pooling head \(vision_use_head\) it has no embedding",
    ),
}
HEADLESS: dict[str, Callable[[], nn.Module]] = {
    "timm": lambda: tiny_timm("vit_tiny_patch16_224", num_classes=0),
    "ViTModel": lambda: hugging_face("ViTModel"),
    "CLIPVisionModel": lambda: hugging_face("CLIPVisionModel"),
    "Dinov2Model": lambda: tiny_hugging_face("Dinov2Model", VISION | {"mlp_ratio": 2}, {}),
    "DINOv3ViTModel": lambda: hugging_face("DINOv3ViTModel"),
    "SiglipVisionModel": lambda: hugging_face("SiglipVisionModel"),
    "open_clip": lambda: with_timm_tower("ViT-B-16-SigLIP", patch_size=8, img_size=16, **SIZES),
}


def state(module: nn.Module) -> tuple[Any, ...]:
    """Everything of a model that wrapping could touch."""
    parts = [
        (
            name,
            type(part),
            part.training,
            sorted(part.__dict__),
            len(part._forward_hooks) + len(part._forward_pre_hooks) + len(part._backward_hooks),
        )
        for name, part in module.named_modules()
    ]
    return parts, {name: (id(value), value._version) for name, value in module.state_dict(keep_vars=True).items()}


def refused(module: nn.Module, message: str, *, head: bool = False) -> None:
    before = state(module)
    with pytest.raises(UnsupportedModelError, match=message):
        HookedViT.wrap(module, head=head)
    assert state(module) == before


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_reason_and_left_alone(case: str) -> None:
    build, message = REFUSED[case]
    refused(build(), message)


@pytest.mark.parametrize("case", HEADLESS)
def test_a_head_that_is_not_there_is_refused(case: str) -> None:
    refused(HEADLESS[case](), "has no linear head of its own: leave out head=True", head=True)


def test_a_head_that_is_wrapped_is_refused_only_where_it_is_asked_for() -> None:
    model = with_adapter("head", tiny_timm("vit_tiny_patch16_224"))
    refused(model, "the head is .*LowRank", head=True)
    assert isinstance(HookedViT.wrap(model), HookedViT)


def test_wrapping_touches_nothing_either() -> None:
    model = tiny_timm("vit_tiny_patch16_224").train()
    before = state(model)
    with torch.no_grad():
        HookedViT.wrap(model)(torch.zeros(1, 3, 16, 24))
    assert state(model) == before
