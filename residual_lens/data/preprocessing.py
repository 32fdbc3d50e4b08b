"""A model's own image preprocessing as a value: what it was published with, bit for bit, to compare and to record."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor

from residual_lens.errors import InputError

Resize = Literal["shortest", "squash", "longest"]
Interpolation = Literal["bicubic", "bilinear"]
ResizedAs = Literal["pillow", "bytes", "floats"]


MAX_RESIZED = 2**26
"""Pixels that an image may have after resizing: 67 million, 200 MB."""


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop or pad at the centre, scale to [0, 1], subtract the mean, divide by the deviation.

    Bit for bit what the sources' own transforms give: `image_transform` of open_clip, `create_transform` of timm, and
    the image processors of Hugging Face that run on torchvision, as transformers 5 uses them by default.

    Example:
        >>> preprocessing = Preprocessing((32, 32), mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), resize_to=(36, 36))
        >>> preprocessing(Image.new("L", (60, 45), 255))[:, 0, 0]
        tensor([2.5000, 2.5000, 2.5000])
        >>> Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing
        True
    """

    image_size: tuple[int, int]
    """Height and width of what comes out."""
    mean: tuple[float, float, float]
    """Channel means, of pixels in [0, 1]."""
    std: tuple[float, float, float]
    """Channel standard deviations, of pixels in [0, 1]."""
    interpolation: Interpolation = "bicubic"
    """How pixels are interpolated, always with antialiasing."""
    resize: Resize = "shortest"
    """"shortest" covers `resize_to` and "longest" fits into it, the aspect ratio kept; "squash" has both sides."""
    resize_to: tuple[int, int] | None = None
    """Height and width before cropping or padding to `image_size`; `image_size` by default."""
    fill: tuple[int, int, int] = (0, 0, 0)
    """Colour of the padding where the resized image is smaller than `image_size`, in 0–255."""
    resized_as: ResizedAs = "pillow"
    """What is interpolated, which decides the rounding: a Pillow image (open_clip, timm), or a tensor, of bytes
    (Hugging Face) or of floats in [0, 1] (its DINOv3)."""

    def __post_init__(self) -> None:
        if self.resize_to is None:
            object.__setattr__(self, "resize_to", self.image_size)
        for name in ("image_size", "resize_to"):
            size = getattr(self, name)
            whole = isinstance(size, tuple) and all(isinstance(side, int) and side > 0 for side in size)
            if not whole or len(size) != 2:
                raise InputError(f"{name} is a tuple of height and width in whole pixels, got {size!r}.")
        for name, low, high in (("mean", -math.inf, math.inf), ("std", 0.0, math.inf), ("fill", -1, 256)):
            channels = getattr(self, name)
            if not isinstance(channels, tuple) or len(channels) != 3 or not all(low < x < high for x in channels):
                raise InputError(f"{name} is a tuple of three numbers between {low} and {high}, got {channels!r}.")
        for name, options in (("interpolation", Interpolation), ("resize", Resize), ("resized_as", ResizedAs)):
            if getattr(self, name) not in get_args(options):
                raise InputError(f"{name} is one of {', '.join(get_args(options))}; got {getattr(self, name)!r}.")

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON has them: numbers, strings, lists."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """What `to_dict` gave.

        Raises:
            InputError: it is no such mapping.
        """
        known = {field.name for field in fields(cls)}
        if set(values) != known:
            raise InputError(f"A preprocessing has the fields {', '.join(sorted(known))}; got {', '.join(values)}.")
        fields_of: dict[str, Any] = {key: tuple(x) if isinstance(x, list) else x for key, x in values.items()}
        return cls(**fields_of)

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 height width"]:
        """What the model takes for one image: float32, normalised.

        Args:
            image: any size, 8 bits a channel. What has no three channels is made RGB as the sources do: transparency is
                dropped behind Pillow's resizing (open_clip), laid on white before torch's (Hugging Face).

        Raises:
            InputError: no such image, or so long and thin that nothing is left of it.
        """
        # Loaded with the first image: these take as long to import as torch.
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional as transforms

        if not isinstance(image, Image.Image):
            raise InputError(f"Expected a PIL image, got {type(image).__name__}: make one with PIL.Image.fromarray.")
        if image.mode.startswith(("I", "F")):
            raise InputError(
                f"The image has pixels of mode {image.mode!r}, which Pillow would cut off at 255: scale it to 8 bits a "
                "channel first."
            )
        height, width = self._size_of(image.height, image.width)
        if height * width > MAX_RESIZED:
            raise InputError(
                f"An image of {image.height}×{image.width} would be resized to {height}×{width} before it is cropped: "
                "crop it first."
            )
        if self.resized_as == "pillow":
            resampling = getattr(Image.Resampling, self.interpolation.upper())
            pixels = transforms.pil_to_tensor(image.resize((width, height), resampling).convert("RGB"))
        else:
            pixels = transforms.pil_to_tensor(_on_white(image))
            pixels = pixels * (1 / 255) if self.resized_as == "floats" else pixels
            mode = InterpolationMode[self.interpolation.upper()]
            pixels = transforms.resize(pixels, [height, width], mode, antialias=True)
        return self._normalized(self._cropped_or_padded(pixels))

    def _size_of(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that an image is resized to."""
        to_height, to_width = self.resize_to or self.image_size
        if self.resize == "squash":
            return to_height, to_width
        if self.resize == "shortest" and to_height == to_width:
            # The long side is cut to whole pixels here and rounded below, as torchvision and timm do.
            short, long = min(height, width), max(height, width)
            scaled = int(to_height * long / short)
            return (to_height, scaled) if height <= width else (scaled, to_height)
        ratios = height / to_height, width / to_width
        ratio = min(ratios) if self.resize == "shortest" else max(ratios)
        resized = round(height / ratio), round(width / ratio)
        if min(resized) == 0:
            raise InputError(f"An image of {height}×{width} has no pixels left inside {to_height}×{to_width}.")
        return resized

    def _cropped_or_padded(self, pixels: Shaped[Tensor, "3 rows columns"]) -> Shaped[Tensor, "3 height width"]:
        """`image_size` around the centre."""
        if pixels.shape[1:] == self.image_size:
            return pixels
        fill = torch.tensor(self.fill)[:, None, None] / (255 if self.resized_as == "floats" else 1)
        canvas = fill.to(pixels.dtype).expand(3, *self.image_size).clone()
        source, target = zip(*map(self._overlap, pixels.shape[1:], self.image_size), strict=True)
        canvas[:, *target] = pixels[:, *source]
        return canvas

    def _overlap(self, size: int, wanted: int) -> tuple[slice, slice]:
        """Along one side: what is taken of the image, and where it goes."""
        if size <= wanted:
            before = (wanted - size) // 2
            return slice(size), slice(before, before + size)
        # Hugging Face cuts half pixels off; torchvision rounds them to even.
        before = round((size - wanted) / 2) if self.resized_as == "pillow" else (size - wanted) // 2
        return slice(before, before + wanted), slice(wanted)

    def _normalized(self, pixels: Shaped[Tensor, "3 height width"]) -> Float[Tensor, "3 height width"]:
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        if self.resized_as == "bytes":
            # Mean and deviation are brought to the pixels' scale, not the pixels to theirs: other last bits.
            return (pixels.float() - mean * 255) / (std * 255)
        if self.resized_as == "pillow":
            pixels = pixels.float() / 255
        return (pixels - mean) / std


@dataclass(frozen=True)
class UnknownPreprocessing:
    """What is known of a model's inputs where its preprocessing is not, or cannot be given exactly."""

    reason: str
    """Why, as a clause that follows the model's name."""
    mean: tuple[float, float, float] | None = None
    """Channel means, where known."""
    std: tuple[float, float, float] | None = None
    """Channel standard deviations, where known."""


UNSTATED = UnknownPreprocessing("does not say how its images are preprocessed")


def _on_white(image: Image.Image) -> Image.Image:
    """RGB, with what shows through painted white."""
    if "A" not in image.getbands() and image.info.get("transparency") is None:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
