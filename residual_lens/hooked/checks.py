"""Is this a batch of images that the model can take?"""

from collections.abc import Mapping

import torch
from jaxtyping import Shaped
from torch import Tensor

from residual_lens.errors import InputError
from residual_lens.hooked.parts.config import HookedViTConfig
from residual_lens.hooked.parts.vit import ViTParts

# Left open for the type checker, because check_images says more about a wrong batch than a type error would.
Images = Shaped[Tensor, "..."]

# Normalised images lie within about ±3 for every published mean and std; pixels left in 0–255 lie far outside.
LARGEST_PIXEL = 32.0


def check_images(images: Images, config: HookedViTConfig, dtype: torch.dtype, device: torch.device) -> None:
    """Refuse what cannot be a normalised image batch, before anything runs.

    Raises:
        InputError: not a float tensor `[batch, 3, height, width]` of the model's size, dtype and device, empty, with
            NaN or infinite pixels, or with values that no normalised image has.
    """
    (height, width), (patch_height, patch_width) = config.image_size, config.patch_size
    sizes = f"{height}, {width}" if not config.any_size else f"n · {patch_height}, m · {patch_width}"
    expected = f"a float tensor [batch, 3, {sizes}] for {config.model_name}"
    if not isinstance(images, torch.Tensor):
        raise InputError(f"Expected {expected}, got {type(images).__name__}. Stack images into one tensor first.")
    fits = images.ndim == 4 and images.shape[1] == 3
    if config.any_size:
        fits = fits and not (images.shape[2] % patch_height or images.shape[3] % patch_width)
    else:
        fits = fits and images.shape[2:] == (height, width)
    if not fits:
        raise InputError(
            f"Expected {expected}, got shape {list(images.shape)}. Resize to {height}×{width} with three channels "
            "first; one image needs a leading batch axis (images[None])."
        )
    if images.shape[0] == 0:
        raise InputError(f"Expected {expected}, got an empty batch.")
    if not images.is_floating_point():
        raise InputError(
            f"Expected {expected}, got {images.dtype}. Convert to float in [0, 1] and normalise: "
            "hvit.normalize(images / 255)."
        )
    if images.dtype != dtype and not torch.is_autocast_enabled(images.device.type):
        raise InputError(f"Images are {images.dtype} but the model computes in {dtype}: call images.to({dtype}).")
    if images.device != device:
        raise InputError(f"Images lie on {images.device}, the model on {device}: call images.to(hvit.device).")
    if torch.compiler.is_compiling():
        return
    low, high = (value.item() for value in images.detach().aminmax())
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        bad = int((~images.detach().isfinite()).flatten(1).any(dim=1).sum())
        raise InputError(f"{bad} of {len(images)} images hold NaN or infinite pixels: drop or mend them first.")
    if max(abs(low), abs(high)) > LARGEST_PIXEL:
        raise InputError(
            f"Pixels range from {low:.4g} to {high:.4g}; normalised images lie within about ±3. "
            "Scale to [0, 1] and normalise: hvit.normalize(images / 255)."
        )


def check_size(image_size: tuple[int, int], parts: ViTParts) -> None:
    """Refuse a size that the model does not take.

    Raises:
        InputError: with the sizes that it does.
    """
    if image_size == parts.image_size:
        return
    height, width = parts.patch_size
    if not parts.embedding.any_size:
        raise InputError(
            f"{parts.model_name} takes images of {parts.image_size[0]}×{parts.image_size[1]} only, not "
            f"{image_size[0]}×{image_size[1]}."
        )
    if min(image_size) <= 0 or image_size[0] % height or image_size[1] % width:
        raise InputError(
            f"{parts.model_name} takes images in multiples of its patch, {height}×{width}; {image_size[0]}×"
            f"{image_size[1]} is none."
        )


def check_tokens(tokens: object) -> None:
    """Refuse what a tokenizer gave if it is no tensor, and no mapping to tensors.

    Raises:
        InputError: with how a Hugging Face tokenizer is made to give tensors.
    """
    if isinstance(tokens, Tensor):
        return
    if isinstance(tokens, Mapping) and all(isinstance(value, Tensor) for value in tokens.values()):
        return
    raise InputError(
        f"tokenizer= gave {type(tokens).__name__} without tensors. It must take a list of texts and return a tensor or "
        "a mapping to tensors; of a Hugging Face tokenizer give functools.partial(tokenizer, padding=True, "
        "truncation=True, return_tensors='pt')."
    )


def check_unit_interval(images: Images) -> None:
    """Refuse images that are not float in [0, 1].

    Raises:
        InputError: with what came.
    """
    if not isinstance(images, Tensor):
        raise InputError(f"Expected a float tensor of images in [0, 1], got {type(images).__name__}.")
    if not images.is_floating_point() or images.ndim < 3 or images.shape[-3] != 3 or images.numel() == 0:
        raise InputError(
            f"Expected float images [..., 3, height, width] in [0, 1], got {images.dtype} {list(images.shape)}."
        )
    low, high = (value.item() for value in images.detach().aminmax())
    # Written so that NaN is refused as well; resizing may overshoot the interval by a little.
    if not (low >= -0.1 and high <= 1.1):
        raise InputError(
            f"Expected images in [0, 1], got values from {low:.4g} to {high:.4g}. Divide 0–255 pixels by 255; images "
            "that are normalised already go to hvit(images) as they are."
        )
