"""Checkpoints as the Hub holds them: tiny models of the real classes, tokenizers, and a cache to find them in."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 8,
    "bos_token_id": 6,
    "sep_token_id": 7,
    "eos_token_id": 8,
    "pad_token_id": 0,
}
SIGLIP_TEXT = TEXT | {"projection_size": 16}
PATCHES = {key: value for key, value in VISION.items() if key != "image_size"} | {"num_patches": 4}
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)

# model_type → (class, configuration)
SOURCES: dict[str, tuple[str, transformers.PreTrainedConfig]] = {
    "clip": ("CLIPModel", transformers.CLIPConfig(vision_config=VISION, text_config=TEXT, projection_dim=12)),
    "clip_vision_model": (
        "CLIPVisionModelWithProjection",
        transformers.CLIPVisionConfig(**VISION, projection_dim=12),
    ),
    "siglip": ("SiglipModel", transformers.SiglipConfig(vision_config=VISION, text_config=SIGLIP_TEXT)),
    "siglip_vision_model": ("SiglipVisionModel", transformers.SiglipVisionConfig(**VISION)),
    "siglip2": ("Siglip2Model", transformers.Siglip2Config(vision_config=PATCHES, text_config=SIGLIP_TEXT)),
    "blip": (
        "BlipForImageTextRetrieval",
        transformers.BlipConfig(
            vision_config=VISION, text_config=TEXT | {"encoder_hidden_size": 16}, image_text_hidden_size=12
        ),
    ),
    "vit": ("ViTForImageClassification", transformers.ViTConfig(**VISION, num_labels=5)),
    "dinov2": ("Dinov2Model", transformers.Dinov2Config(**VISION)),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", transformers.Dinov2WithRegistersConfig(**VISION)),
    "dinov3_vit": ("DINOv3ViTModel", transformers.DINOv3ViTConfig(**VISION)),
}
WITH_TEXT = ("clip", "siglip", "siglip2", "blip")


def tiny_source(model_type: str) -> Any:
    """A random model of the class that publishes this type."""
    model_class, config = SOURCES[model_type]
    torch.manual_seed(0)
    return getattr(transformers, model_class)(config).eval()


def save_source(model_type: str, folder: Path, *, preprocessing: dict[str, Any] | None = None) -> Any:
    """Write a model, its tokenizer and its preprocessing as `save_pretrained` does; gives the model back."""
    model = tiny_source(model_type)
    model.save_pretrained(folder)
    if model_type in WITH_TEXT:
        save_tokenizer(folder)
    if preprocessing is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    return model


def save_tokenizer(folder: Path) -> None:
    """Write a tokenizer of a few whole words, in lower case only."""
    words = ["[PAD]", "[UNK]", "a", "red", "dog", "cat", "[CLS]", "[SEP]", "</s>"]
    special = {"pad_token": words[0], "unk_token": words[1], "eos_token": words[8]}
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def save_timm(model: nn.Module, folder: Path, architecture: str, **pretrained_cfg: Any) -> None:
    """Write a timm model as timm pushes it to the Hub."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(model.state_dict()), folder / "model.safetensors")
    config = {"architecture": architecture, "pretrained_cfg": dict(model.pretrained_cfg) | pretrained_cfg}
    (folder / "config.json").write_text(json.dumps(config))


def publish(folder: Path, repository: str, cache: Path, *, absent: tuple[str, ...] = ()) -> None:
    """Put a folder into a Hub cache under a repository's name, as if it had been downloaded.

    `absent` are files that were asked for and that the Hub does not have.
    """
    entry, revision = cache / f"models--{repository.replace('/', '--')}", "0" * 40
    shutil.copytree(folder, entry / "snapshots" / revision)
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text(revision)
    (entry / ".no_exist" / revision).mkdir(parents=True)
    for name in absent:
        (entry / ".no_exist" / revision / name).touch()


class Harmful:
    """Runs a command when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)
