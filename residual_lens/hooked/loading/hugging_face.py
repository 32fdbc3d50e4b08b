"""Models of Hugging Face transformers: `ORG/REPO` on the Hub or a folder."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from residual_lens.errors import InputError
from residual_lens.hooked.loading.failures import explained
from residual_lens.hooked.loading.loaded import Loaded, Tokenizer
from residual_lens.hooked.loading.preprocessing import Stated, of_hugging_face


@dataclass(frozen=True)
class Family:
    """How models of one `model_type` are loaded."""

    model_class: str
    """The class in transformers."""
    processor: str
    """The class of image processor where the checkpoint's file names none."""
    head_class: str | None = None
    """The class that has a linear head on the same embedding, if there is one."""
    has_text: bool = False
    """Whether the model has a text tower."""
    padded: bool = False
    """SigLIP: texts in lower case, padded to full length, padding attended, as in training."""


FAMILIES = {
    "clip": Family("CLIPModel", "CLIPImageProcessor", has_text=True),
    "clip_vision_model": Family("CLIPVisionModelWithProjection", "CLIPImageProcessor"),
    "siglip": Family("SiglipModel", "SiglipImageProcessor", has_text=True, padded=True),
    "siglip_vision_model": Family("SiglipVisionModel", "SiglipImageProcessor"),
    "siglip2": Family("Siglip2Model", "Siglip2ImageProcessor", has_text=True, padded=True),
    "blip": Family("BlipForImageTextRetrieval", "BlipImageProcessor", has_text=True),
    "vit": Family("ViTModel", "ViTImageProcessor", head_class="ViTForImageClassification"),
    "dinov2": Family("Dinov2Model", "BitImageProcessor"),
    "dinov2_with_registers": Family("Dinov2WithRegistersModel", "BitImageProcessor"),
    "dinov3_vit": Family("DINOv3ViTModel", "DINOv3ViTImageProcessor"),
}


def load(rest: str, name: str, *, head: bool) -> Loaded:
    """The model that the config names, in float32, with tokenizer and preprocessing.

    Args:
        rest: what follows `hf:`, a repository or a folder.
        name: the model as the user typed it, for messages.
        head: keep the linear head.

    No code of a repository is run. Files are safetensors, or read by torch with `weights_only=True`.
    """
    import torch
    import transformers

    source = _source(rest)
    with explained(name, source):
        config = _json(source, "config.json")
        if config is None:
            raise InputError(f"{name}: there is no config.json in {source}. Give a folder written by save_pretrained.")
        family = _family(config, name)
        model_class = getattr(transformers, _class_name(family, name, head=head))
        options = {"add_pooling_layer": False} if family.model_class == "ViTModel" and not head else {}
        module, report = model_class.from_pretrained(
            source, dtype=torch.float32, weights_only=True, output_loading_info=True, **options
        )
        _refuse_missing(report["missing_keys"], model_class.__name__, config, name)
        tokenizer = _tokenizer(source, module.config, family) if family.has_text else None
        preprocessing = _preprocessing(source, family)
    return Loaded(module.eval(), tokenizer, preprocessing)


def _source(rest: str) -> str:
    """A repository's name, or the path of a folder that exists."""
    folder = Path(rest).expanduser()
    if folder.is_dir():
        return str(folder)
    if rest.startswith((".", "~")) or folder.is_absolute() or rest.count("/") != 1 or rest.endswith("/"):
        raise InputError(f"'hf:{rest}' is neither a folder here nor 'hf:ORG/REPO', such as 'hf:facebook/dinov2-large'.")
    return rest


def _json(source: str, filename: str) -> dict[str, Any] | None:
    """A JSON file of a repository or folder; `None` where there is no such file."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if Path(source).is_dir():
        path = Path(source) / filename
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    known = try_to_load_from_cache(source, filename)
    if known is not None and not isinstance(known, str):
        return None  # The Hub said before that there is no such file.
    try:
        path = Path(hf_hub_download(source, filename))
    except LocalEntryNotFoundError:
        raise  # Not fetched, which says nothing about what the repository holds.
    except EntryNotFoundError:
        return None
    return json.loads(path.read_text(encoding="utf-8"))


def _family(config: dict[str, Any], name: str) -> Family:
    model_type = config.get("model_type")
    if model_type not in FAMILIES:
        raise InputError(
            f"{name} is of model_type {model_type!r}; supported are {', '.join(FAMILIES)}. Other models: load them "
            "yourself and try HookedViT.wrap, which says what it can take."
        )
    return FAMILIES[model_type]


def _class_name(family: Family, name: str, *, head: bool) -> str:
    if not head:
        return family.model_class
    if family.head_class is None:
        raise InputError(f"{name}: {family.model_class} has no linear head on its embedding; load it with head=False.")
    return family.head_class


def _refuse_missing(missing: set[str], model_class: str, config: dict[str, Any], name: str) -> None:
    """Refuse a checkpoint that leaves weights at random values, which transformers only reports."""
    if missing:
        first = ", ".join(sorted(missing)[:3])
        raise InputError(
            f"{name}: the checkpoint lacks {len(missing)} weights of {model_class} ({first} …), which would be random. "
            f"It was saved from {config.get('architectures')}: load it with that class and wrap it with HookedViT.wrap."
        )


def _tokenizer(source: str, config: Any, family: Family) -> Tokenizer | None:
    """Texts to token ids (and mask) padded as in training; `None` for a folder that has no tokenizer files."""
    from transformers import AutoTokenizer

    files = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")
    if Path(source).is_dir() and not any((Path(source) / file).is_file() for file in files):
        return None
    tokenizer: Callable[..., Any] = AutoTokenizer.from_pretrained(source, config=config, trust_remote_code=False)
    common = {
        "truncation": True,
        "max_length": config.text_config.max_position_embeddings,
        "padding": "max_length" if family.padded else True,
        # As in every training here; the class of SigLIP 2's tokenizer would pad on the left by default.
        "padding_side": "right",
        "return_attention_mask": not family.padded,
        "return_tensors": "pt",
    }
    if family.padded:
        return lambda texts: tokenizer([text.lower() for text in texts], **common)
    return lambda texts: tokenizer(texts, **common)


def _preprocessing(source: str, family: Family) -> Stated | None:
    """The preprocessing as stated; `None` where nothing is stated."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        stated = _json(source, "preprocessor_config.json")
        if stated is None:
            # transformers 5 writes one file for the processors of all modalities.
            stated = (_json(source, "processor_config.json") or {}).get("image_processor")
    except LocalEntryNotFoundError:
        logging.getLogger(__name__).warning(
            "%s: preprocessor_config.json is not in the cache and cannot be fetched, so that image size, mean and std "
            "are what the model itself states, which may be none.",
            source,
        )
        return None
    return None if stated is None else of_hugging_face(stated, family.processor)
