"""Hugging Face transformers: one file a family, each under a hundred lines.

A file has an `adapt(model, model_name, head)`; `MODELS` says which classes it takes.
"""

from importlib import import_module

import transformers
from torch import nn

from residual_lens.errors import UnsupportedModelError
from residual_lens.hooked.backbones.refusals import refuse_overrides
from residual_lens.hooked.parts.vit import ViTParts

MODELS = {
    "CLIPModel": "clip",
    "CLIPVisionModelWithProjection": "clip",
    "CLIPVisionModel": "clip",
    "SiglipModel": "siglip",
    "SiglipVisionModel": "siglip",
    "Siglip2Model": "siglip",
    "Siglip2VisionModel": "siglip",
    "BlipForImageTextRetrieval": "blip",
    "ViTModel": "vit",
    "ViTForImageClassification": "vit",
    "Dinov2Model": "dinov2",
    "Dinov2WithRegistersModel": "dinov2",
    "DINOv3ViTModel": "dinov3",
}

LIBRARIES = ("torch", "transformers")


def adapt(module: nn.Module, model_name: str, *, head: bool) -> ViTParts:
    """The parts of a Hugging Face vision model, by reference.

    Raises:
        UnsupportedModelError: with the reason.
    """
    name = next((base.__name__ for base in type(module).__mro__ if base.__name__ in MODELS), None)
    if name is None:
        raise UnsupportedModelError(
            f"{model_name}: {type(module).__name__} is not supported. Of Hugging Face's models HookedViT takes "
            f"{', '.join(MODELS)}; others need an adapter, or do not add their units to one stream (Swin, "
            "convolutional stages)."
        )
    refuse_overrides(module, getattr(transformers, name), ("forward",), model_name)
    parts = import_module(f"{__name__}.{MODELS[name]}").adapt(module, model_name, head)
    foreign = {type(part) for part in parts.tower.modules() if type(part).__module__.split(".")[0] not in LIBRARIES}
    if foreign:
        names = ", ".join(sorted(f"{part.__module__}.{part.__name__}" for part in foreign))
        raise UnsupportedModelError(
            f"{model_name} is made of modules that are neither torch's nor Hugging Face's ({names}): what they compute "
            "is not known."
        )
    return parts
