"""What open_clip, timm and Hugging Face state of a model's preprocessing, as one kind of value."""

import math
from collections.abc import Mapping
from typing import Any, get_args

from residual_lens.data.preprocessing import Interpolation, Preprocessing, Resize, ResizedAs, UnknownPreprocessing

Stated = Preprocessing | UnknownPreprocessing

BLACK = (0, 0, 0)

# Codes of Pillow, in which Hugging Face's files state the interpolation.
INTERPOLATIONS: dict[int, Interpolation] = {2: "bilinear", 3: "bicubic"}

# The image processors that do what their base class does, in that order, and what is resized in them.
PROCESSORS: dict[str, ResizedAs] = {
    "BitImageProcessor": "bytes",
    "BlipImageProcessor": "bytes",
    "CLIPImageProcessor": "bytes",
    "DeiTImageProcessor": "bytes",
    "SiglipImageProcessor": "bytes",
    "ViTImageProcessor": "bytes",
    "DINOv3ViTImageProcessor": "floats",
}


def of_open_clip(stated: Mapping[str, Any], image_size: tuple[int, int]) -> Stated:
    """What `open_clip.image_transform` makes of a tower's `preprocess_cfg`.

    Args:
        stated: the `preprocess_cfg`; what it leaves out is open_clip's default.
        image_size: the tower's, where `preprocess_cfg` has none.
    """
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    size, resize = stated.get("size") or image_size, stated.get("resize_mode") or "shortest"
    height, width = (size, size) if isinstance(size, int) else size
    mean = triple(stated.get("mean") or OPENAI_DATASET_MEAN)
    std = triple(stated.get("std") or OPENAI_DATASET_STD)
    # In evaluation "random" is bicubic.
    interpolation: Any = stated.get("interpolation") or "random"
    interpolation = "bicubic" if interpolation == "random" else interpolation
    if mean is None or std is None or interpolation not in get_args(Interpolation) or resize not in get_args(Resize):
        return UnknownPreprocessing(f"is published with {dict(stated)}, which open_clip does not take", mean, std)
    grey = stated.get("fill_color") or 0
    if resize == "shortest" and height != width:
        interpolation = "bicubic"  # open_clip does not hand the interpolation on here.
    return Preprocessing(
        image_size=(height, width),
        mean=mean,
        std=std,
        interpolation=interpolation,
        resize=resize,
        fill=(grey, grey, grey),
    )


def of_timm(stated: Mapping[str, Any], image_size: tuple[int, int]) -> Stated:
    """What `timm.data.create_transform` makes of a model's `pretrained_cfg` in evaluation, at a size.

    Args:
        stated: the `pretrained_cfg`; what it leaves out is timm's default.
        image_size: height and width of what comes out.
    """
    from timm.data.config import resolve_data_config

    config = resolve_data_config({"input_size": (3, *image_size)}, pretrained_cfg=dict(stated))
    mean, std, interpolation = triple(config["mean"]), triple(config["std"]), config["interpolation"]
    if mean is None or std is None or interpolation not in INTERPOLATIONS.values():
        return UnknownPreprocessing(
            f"is published with interpolation {interpolation!r}, mean {config['mean']} and std {config['std']}; "
            "supported are bicubic and bilinear in three channels",
            mean,
            std,
        )
    height, width = (math.floor(side / config["crop_pct"]) for side in image_size)
    border = config["crop_mode"] == "border"
    return Preprocessing(
        image_size=image_size,
        mean=mean,
        std=std,
        interpolation=interpolation,
        resize="squash" if config["crop_mode"] == "squash" else "longest" if border else "shortest",
        resize_to=(height, width),
        fill=(round(255 * mean[0]), round(255 * mean[1]), round(255 * mean[2])) if border else BLACK,
    )


def of_hugging_face(stated: Mapping[str, Any], default: str) -> Stated:
    """What the image processor on torchvision does that a checkpoint's file describes.

    Args:
        stated: the content of `preprocessor_config.json`; what it leaves out is the class's default.
        default: the processor's class, where the file names none.
    """
    import transformers

    named = stated.get("image_processor_type") or stated.get("feature_extractor_type") or default
    named = str(named).replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast")
    mean, std = triple(stated.get("image_mean")), triple(stated.get("image_std"))
    if named not in PROCESSORS:
        return UnknownPreprocessing(f"is published with {named}; supported are {', '.join(PROCESSORS)}", mean, std)
    processor: Any = getattr(transformers, named).from_dict(dict(stated))
    mean, std = triple(processor.image_mean), triple(processor.image_std)
    size, crop = dict(processor.size), dict(processor.crop_size or {})
    squash, crops = set(size) == {"height", "width"}, bool(processor.do_center_crop)
    fits = {
        f"do_resize={processor.do_resize}": bool(processor.do_resize),
        f"{size=}": squash or (crops and set(size) == {"shortest_edge"}),
        f"crop_size={crop}": not crops or set(crop) == {"height", "width"},
        f"resample={processor.resample}": processor.resample in INTERPOLATIONS,
        f"do_rescale={processor.do_rescale}": bool(processor.do_rescale),
        f"rescale_factor={processor.rescale_factor}": processor.rescale_factor == 1 / 255,
        f"do_normalize={processor.do_normalize}": bool(processor.do_normalize),
        f"image_mean={processor.image_mean}": mean is not None,
        f"image_std={processor.image_std}": std is not None,
        f"do_pad={processor.do_pad}": not processor.do_pad,
    }
    unfit = [fact for fact, fit in fits.items() if not fit]
    if unfit or mean is None or std is None:
        reason = f"is published with {named}({', '.join(unfit)}), which gives no normalised images of one known size"
        return UnknownPreprocessing(reason, mean, std)
    resize_to = (size["height"], size["width"]) if squash else (size["shortest_edge"],) * 2
    return Preprocessing(
        image_size=(crop["height"], crop["width"]) if crops else resize_to,
        mean=mean,
        std=std,
        interpolation=INTERPOLATIONS[processor.resample],
        resize="squash" if squash else "shortest",
        resize_to=resize_to,
        resized_as=PROCESSORS[named],
    )


def triple(values: object) -> tuple[float, float, float] | None:
    """Three channel values as a config has them, or one for all; `None` for anything else."""
    if isinstance(values, (int, float)):
        values = (values,) * 3
    if not isinstance(values, (tuple, list)) or len(values) != 3:
        return None
    red, green, blue = values
    return float(red), float(green), float(blue)
