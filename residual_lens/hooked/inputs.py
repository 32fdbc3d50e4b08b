"""What a model's own preprocessing makes of images."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from residual_lens.data.preprocessing import Preprocessing, UnknownPreprocessing
from residual_lens.errors import InputError, UnsupportedModelError
from residual_lens.hooked.checks import Images, check_size, check_unit_interval
from residual_lens.hooked.parts.vit import ViTParts
from residual_lens.hooked.wiring import WiredViT

Triple = tuple[float, float, float]


class PreprocessingViT(WiredViT):
    """A wired model that makes its input of images."""

    @property
    def preprocessing(self) -> Preprocessing:
        """The published preprocessing, from images of any size to what the model takes.

        Raises:
            UnsupportedModelError: it is unknown, or cannot be given exactly, with the reason.
        """
        stated = self.parts.preprocessing
        if isinstance(stated, Preprocessing):
            return stated
        raise UnsupportedModelError(
            f"{self.cfg.model_name} {stated.reason}: give what it was trained with to HookedViT.wrap as preprocessing=."
        )

    def preprocess(self, images: Sequence[Image.Image]) -> Float[Tensor, "batch 3 height width"]:
        """A batch for the model, on its device and in its dtype, as it was published to be preprocessed.

        Args:
            images: at least one, of any sizes.

        Raises:
            UnsupportedModelError: see `preprocessing`.
            InputError: no images.
        """
        preprocessing = self.preprocessing
        if isinstance(images, Image.Image) or len(images) == 0:
            raise InputError(f"preprocess needs a list of at least one PIL image, got {images!r}.")
        return torch.stack([preprocessing(image) for image in images]).to(self.device, self.dtype)

    def normalize(self, images: Images) -> Float[Tensor, "batch 3 height width"]:
        """Images in [0, 1] to what the model was trained on: minus its channel means, over its channel deviations.

        Args:
            images: `[batch 3 height width]`, float in [0, 1].

        Raises:
            InputError: values outside [0, 1], or a model whose mean and std are unknown.
        """
        stated = self.parts.preprocessing
        if stated.mean is None or stated.std is None:
            raise InputError(f"{self.cfg.model_name} does not say which mean and std it takes: normalise yourself.")
        check_unit_interval(images)
        mean, std = (images.new_tensor(x)[:, None, None] for x in (stated.mean, stated.std))
        return ((images - mean) / std).to(self.dtype)


def with_inputs(
    parts: ViTParts,
    preprocessing: Preprocessing | UnknownPreprocessing | None,
    image_size: tuple[int, int] | None,
    pixel_mean: Triple | None,
    pixel_std: Triple | None,
) -> ViTParts:
    """Parts with what the caller says of images in place of what the module says.

    Raises:
        InputError: a size that the model does not take.
    """
    stated = preprocessing or parts.preprocessing
    if image_size is None and isinstance(preprocessing, Preprocessing):
        image_size = preprocessing.image_size
    if image_size is not None:
        check_size(image_size, parts)
        parts = replace(parts, image_size=image_size)
    said = {"mean": pixel_mean, "std": pixel_std}
    stated = replace(stated, **{name: value for name, value in said.items() if value is not None})
    if isinstance(stated, Preprocessing) and stated.image_size != parts.image_size:
        sizes = ["×".join(map(str, size)) for size in (stated.image_size, parts.image_size)]
        reason = f"is published with images of {sizes[0]}, which is not the {sizes[1]} that it was wrapped for"
        stated = UnknownPreprocessing(reason, stated.mean, stated.std)
    return replace(parts, preprocessing=stated)
