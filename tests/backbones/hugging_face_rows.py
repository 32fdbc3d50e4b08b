"""Hugging Face's classes with small configurations."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from tests.backbones.backbone import CLASSES, DEPTH, HEADS, WIDTH, Backbone

VISION = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "intermediate_size": 48,
    "image_size": 24,
    "patch_size": 8,
}
TEXT = VISION | {
    "num_hidden_layers": 1,
    "vocab_size": 50,
    "max_position_embeddings": 16,
    **{"bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 2, "pad_token_id": 0},
}
PATTERN = {"attention_dropout": 0.3}
OUTPUTS = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3}
BRANCHES = {"drop_path_rate": 0.5}
DROPPED = {
    "attention_dropout": "pattern",
    "attention_probs_dropout_prob": "pattern",
    "hidden_dropout_prob": "tokens, outputs",
    "drop_path_rate": "branches",
}


def naflex(model: Any, images: Tensor) -> Tensor:
    """What SigLIP 2 gives for images on one grid, handed over as flattened patches."""
    batch, _, height, width = images.shape
    side = VISION["patch_size"]
    rows, columns = height // side, width // side
    patches = images.reshape(batch, 3, rows, side, columns, side).permute(0, 2, 4, 3, 5, 1)
    inputs = {
        "pixel_values": patches.reshape(batch, rows * columns, -1),
        "pixel_attention_mask": torch.ones(batch, rows * columns, dtype=torch.long),
        "spatial_shapes": torch.tensor([[rows, columns]] * batch),
    }
    run = model.get_image_features if hasattr(model, "get_image_features") else model
    return run(**inputs).pooler_output


def features(model: Any, images: Tensor) -> Tensor:
    """The projected embedding of a model with two towers."""
    return model.get_image_features(images).pooler_output


def pooler_output(model: Any, images: Tensor) -> Tensor:
    """The embedding of an image tower."""
    return model(images).pooler_output


def encoder_layers(model: Any) -> Sequence[nn.Module]:
    """Blocks of CLIP, SigLIP and BLIP."""
    return getattr(model, "vision_model", model).encoder.layers


def tiny_hugging_face(model: str, vision: dict[str, Any], options: dict[str, Any]) -> Any:
    """A model whose class has one configuration or (with `text_config`) one for images and one for texts."""
    model_class: Any = getattr(transformers, model)
    sizes = {"vision_config": vision} if "text_config" in options else vision
    return model_class(model_class.config_class(**sizes, **options))


def _row(
    model: str,
    special: str,
    pooling: str,
    embedding: Callable[[Any, Tensor], Tensor],
    blocks: Callable[[Any], Sequence[nn.Module]],
    *,
    drops: dict[str, float],
    head: bool = False,
    vision: dict[str, Any] | None = None,
    **options: Any,
) -> Backbone:
    sizes = {name: value for name, value in (VISION | (vision or {})).items() if value is not None}
    return Backbone(
        "Hugging Face",
        model,
        special,
        pooling,
        create=lambda dropout: tiny_hugging_face(model, sizes | (drops if dropout else {}), options),
        embedding=embedding,
        blocks=blocks,
        dropout=", ".join(DROPPED[name] for name in drops),
        sums_under_dropout=drops == PATTERN,
        head=head,
    )


def _clip(model: str, special: str, embedding: Callable[[Any, Tensor], Tensor], **options: Any) -> Backbone:
    return _row(model, special, "class token", embedding, encoder_layers, drops=PATTERN, **options)


def _classifier(special: str, embedding: Callable[[Any, Tensor], Tensor], *, head: bool) -> Backbone:
    return _row(
        "ViTForImageClassification",
        special,
        "class token",
        embedding,
        lambda model: model.vit.layers,
        drops=OUTPUTS,
        head=head,
        num_labels=CLASSES,
    )


def _dinov2(model: str, special: str, **options: Any) -> Backbone:
    return _row(
        model,
        special,
        "class token",
        pooler_output,
        lambda model: model.encoder.layer,
        drops=OUTPUTS | BRANCHES,
        vision={"intermediate_size": None, "mlp_ratio": 2},
        **options,
    )


def _siglip(model: str, special: str, embedding: Callable[[Any, Tensor], Tensor], **options: Any) -> Backbone:
    return _row(model, special, "attention + MLP", embedding, encoder_layers, drops=PATTERN, **options)


def _dinov3(special: str, **options: Any) -> Backbone:
    return _row(
        "DINOv3ViTModel",
        special,
        "class token",
        pooler_output,
        lambda model: model.model.layer,
        drops=PATTERN | BRANCHES,
        num_register_tokens=2,
        **options,
    )


NAFLEX = {"image_size": None, "num_patches": 9}
HUGGING_FACE = (
    _clip("CLIPModel", "", features, text_config=TEXT, projection_dim=20),
    _clip("CLIPVisionModelWithProjection", "", lambda model, images: model(images).image_embeds, projection_dim=20),
    _clip("CLIPVisionModel", "no projection", pooler_output),
    _clip(
        "BlipForImageTextRetrieval",
        "projection with bias",
        lambda model, images: model.vision_proj(model.vision_model(images).last_hidden_state[:, 0]),
        text_config=TEXT | {"encoder_hidden_size": WIDTH},
        image_text_hidden_size=20,
    ),
    _row(
        "ViTModel",
        "class token, not square",
        "class token",
        lambda model, images: model(images).last_hidden_state[:, 0],
        lambda model: model.layers,
        drops=OUTPUTS,
        vision={"image_size": (16, 24)},
    ),
    _classifier("", lambda model, images: model.vit(images).last_hidden_state[:, 0], head=False),
    _classifier("logits", lambda model, images: model(images).logits, head=True),
    _dinov2("Dinov2Model", "LayerScale"),
    _dinov2("Dinov2Model", "LayerScale, SwiGLU", use_swiglu_ffn=True),
    _dinov2("Dinov2WithRegistersModel", "LayerScale, registers", num_register_tokens=3),
    _siglip("SiglipModel", "", features, text_config=TEXT),
    _siglip("SiglipVisionModel", "", pooler_output),
    _siglip("Siglip2Model", "NaFlex", naflex, vision=NAFLEX, text_config=TEXT),
    _siglip("Siglip2VisionModel", "NaFlex", naflex, vision=NAFLEX),
    _dinov3("rotary, registers"),
    _dinov3("rotary, registers, gated MLP", use_gated_mlp=True),
)
"""The rows of Hugging Face."""
