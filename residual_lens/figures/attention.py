"""Where a head, or the whole model, looks: attention over the image that it was given."""

from typing import cast

from matplotlib import colormaps
from matplotlib.axes import Axes

from residual_lens.errors import InputError
from residual_lens.figures.checks import Matrix, numbers
from residual_lens.figures.images import Picture, pixels
from residual_lens.figures.look import GREY, SEQUENTIAL, TITLE, axes_or_new
from residual_lens.figures.rollout import token_attention
from residual_lens.hooked import HookedViT
from residual_lens.hooked.cache import ViTCache
from residual_lens.hooked.parts.config import HookedViTConfig

STRONGEST = 0.65
"""Opacity of the patch with the largest weight; others are as much fainter as their weight is smaller."""


def attention(
    cache: ViTCache,
    image: Picture,
    unit: str | None = None,
    *,
    sample: int = 0,
    title: str | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Attention to the patches of an image where the embedding reads the stream: one head's, or rollout of all layers.

    See `token_attention` for what is read. What goes to prefix tokens (class token, registers) is not drawn; below the
    image stands how much is left for patches.

    Args:
        cache: of the run on the image, with `hook_pattern` of the head's layer, or of all layers.
        image: as the model saw it (resized and cropped), as a Pillow image or pixels in [0, 1].
        unit: a head; attention rollout (Abnar & Zuidema 2020) of all layers by default.
        sample: which image of the batch it is.
        title: stands above; the head, or "rollout", by default.
        axes: where to draw; a figure of its own by default.

    Returns:
        The axes.

    Raises:
        NotCachedError: a pattern that this needs was not cached.
        InputError: no such head or sample, or an image that the patches do not fit on.

    Example:
        >>> import torch
        >>> from residual_lens import HookedViT
        >>> hvit = HookedViT.from_pretrained("attribute-clip")
        >>> images = torch.rand(2, 3, *hvit.cfg.image_size, generator=torch.Generator().manual_seed(0))
        >>> _, cache = hvit.run_with_cache(hvit.normalize(images))
        >>> axes = attention(cache, images[1], "L5H2", sample=1)
        >>> axes.get_title("left"), len(axes.images)
        ('L5H2', 2)
    """
    weights = token_attention(cache, unit)
    if not 0 <= sample < len(weights):
        raise InputError(f"The cache holds {len(weights)} images, 0 to {len(weights) - 1}; got sample={sample}.")
    cfg = cast(HookedViT, cache.model).cfg
    on_patches = weights[sample, cfg.n_prefix :]
    height, width, _ = pixels(image).shape
    grid = _grid(len(on_patches), (height, width), cfg)
    title = unit or "rollout" if title is None else title
    axes = attention_overlay(image, on_patches.reshape(grid), title=title, axes=axes)
    share = f"{100 * float(on_patches.sum()):.0f} % on patches"
    axes.text(0, -0.02, share, transform=axes.transAxes, ha="left", va="top", fontsize=8, color=GREY)
    return axes


def attention_overlay(image: Picture, weights: Matrix, *, title: str = "", axes: Axes | None = None) -> Axes:
    """An image under its patches' weights: the larger the weight, the lighter and the denser its colour.

    Args:
        image: a Pillow image, or pixels in [0, 1].
        weights: `[row column]` of patches, not negative; the largest sets the scale.
        title: stands above.
        axes: where to draw; a figure of its own by default.

    Returns:
        The axes.

    Raises:
        InputError: weights that are negative, NaN or all zero, or what is no image.

    Example:
        >>> import torch
        >>> axes = attention_overlay(torch.zeros(3, 8, 8), torch.tensor([[0.0, 0.2], [0.4, 0.0]]))
        >>> [round(float(alpha), 3) for alpha in axes.images[1].get_array()[..., 3].ravel()]
        [0.0, 0.325, 0.65, 0.0]
    """
    found, shown = numbers(weights, "weights", 2), pixels(image)
    if found.min() < 0 or found.max() == 0:
        raise InputError("Weights of patches are not negative, and some are above 0.")
    share = found / found.max()
    colours = colormaps[SEQUENTIAL](share)
    colours[..., 3] = STRONGEST * share
    axes = axes_or_new(axes, 2.6, 2.8)
    height, width = shown.shape[:2]
    for layer in (shown, colours):
        axes.imshow(layer, extent=(0, width, height, 0), interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, **TITLE)
    return axes


def _grid(n_patches: int, size: tuple[int, int], cfg: HookedViTConfig) -> tuple[int, int]:
    """Rows and columns of patches on an image of this height and width."""
    for height, width in (*([size] if cfg.any_size else []), cfg.image_size):
        rows, columns = height // cfg.patch_size[0], width // cfg.patch_size[1]
        if rows * columns == n_patches and size[0] * width == size[1] * height:
            return rows, columns
    raise InputError(
        f"{n_patches} patches of {cfg.patch_size[0]} × {cfg.patch_size[1]} pixels do not lie on an image of {size[0]} "
        f"× {size[1]}: give it as the model saw it, resized and cropped to {cfg.image_size[0]} × {cfg.image_size[1]}."
    )
