"""Scenes: what is in each image of a batch, as attribute labels and nuisances drawn from a seeded generator."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residual_lens.data.attribute_world.vocabulary import ATTRIBUTES, BACKGROUNDS, COLOURS, SYMBOL_ATTRIBUTES
from residual_lens.errors import InputError

ABSENT = -1
"""Label of an attribute that an image does not have: the digit of a heart, the texture of a letter."""

N_BLOBS = 14
"""Distractors kept with each scene; only the `clutter` shift draws them."""


@dataclass(frozen=True)
class Scenes:
    """Attribute labels and nuisances of a batch of images; `render` turns them into pixels without further randomness.

    Labels are indices into `vocabulary.ATTRIBUTES`, `ABSENT` where an image lacks the attribute.
    All nuisances are uniform in [0, 1) and get their meaning (jitter of angle, stroke, phase ...) in the renderer.
    """

    labels: dict[str, Int[Tensor, "batch"]]
    """One label tensor per attribute name."""
    font: Float[Tensor, "batch"]
    """Which typeface a glyph is set in."""
    stroke: Float[Tensor, "batch"]
    """Thinner or thicker strokes (glyphs)."""
    blur: Float[Tensor, "batch"]
    """Softness of edges."""
    turn: Float[Tensor, "batch"]
    """Jitter of the orientation."""
    scale: Float[Tensor, "batch xy"]
    """Jitter of the size along both object axes."""
    offset: Float[Tensor, "batch xy"]
    """Jitter of the position."""
    phase: Float[Tensor, "batch xy"]
    """Where a texture starts."""
    period: Float[Tensor, "batch"]
    """How fine a texture is."""
    tone: Float[Tensor, "batch"]
    """How dark the second tone of a texture is."""
    tint: Float[Tensor, "batch surface rgb"]
    """Jitter of object and background colour."""
    light: Float[Tensor, "batch xy"]
    """Faint slope of the background's brightness."""
    grain: Float[Tensor, "batch"]
    """Amount of sensor noise."""
    blobs: Float[Tensor, "batch blob 7"]
    """Distractors: x, y, radius, aspect and colour."""

    def __len__(self) -> int:
        return len(self.font)

    def select(self, chosen: slice) -> "Scenes":
        """A run of consecutive scenes."""
        kept = {f.name: getattr(self, f.name)[chosen] for f in fields(self) if f.name != "labels"}
        return Scenes(labels={name: label[chosen] for name, label in self.labels.items()}, **kept)

    def to(self, device: torch.device | str) -> "Scenes":
        """The same scenes on another device."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "labels"}
        return Scenes(labels={name: label.to(device) for name, label in self.labels.items()}, **moved)


def sample_scenes(
    n_images: int,
    generator: torch.Generator,
    *,
    glyph_share: float = 0.35,
    focus: str | None = None,
) -> Scenes:
    """Draws independent scenes; with a `focus`, every image has that attribute and its labels are balanced.

    Args:
        n_images: how many scenes.
        generator: the only source of randomness; it must live on the CPU, so that seeds mean the same everywhere.
        glyph_share: share of images that show a digit or a letter instead of a shape.
        focus: attribute whose labels are balanced (counts differ by at most one), or None for independent labels.

    Returns:
        Scenes on the CPU.

    Raises:
        InputError: for an unknown focus or fewer than one image.

    >>> scenes = sample_scenes(12, torch.Generator().manual_seed(0), focus="size")
    >>> torch.bincount(scenes.labels["size"]).tolist()
    [4, 4, 4]
    """
    if n_images < 1:
        raise InputError(f"got n_images={n_images}, expected at least 1 scene to draw.")
    if focus is not None and focus not in ATTRIBUTES:
        raise InputError(f"got focus={focus!r}, expected one of {', '.join(ATTRIBUTES)}.")
    labels = _sample_labels(n_images, generator, glyph_share, focus)

    def uniform(*shape: int) -> Float[Tensor, "..."]:
        return torch.rand(n_images, *shape, generator=generator)

    return Scenes(
        labels=labels,
        font=uniform(),
        stroke=uniform(),
        blur=uniform(),
        turn=uniform(),
        scale=uniform(2),
        offset=uniform(2),
        phase=uniform(2),
        period=uniform(),
        tone=uniform(),
        tint=uniform(2, 3),
        light=uniform(2),
        grain=uniform(),
        blobs=uniform(N_BLOBS, 7),
    )


def _sample_labels(
    n_images: int, generator: torch.Generator, glyph_share: float, focus: str | None
) -> dict[str, Int[Tensor, "batch"]]:
    """Independent labels, made consistent: one symbol an image, no texture on glyphs, nothing white on snow."""

    def draw(n_values: int) -> Int[Tensor, "batch"]:
        return torch.randint(n_values, (n_images,), generator=generator)

    labels = {name: draw(len(values)) for name, values in ATTRIBUTES.items()}
    kind_dice = torch.rand(n_images, generator=generator)
    if focus is not None:
        n_values = len(ATTRIBUTES[focus])
        balanced = torch.arange(n_images) % n_values
        labels[focus] = balanced[torch.randperm(n_images, generator=generator)]

    if focus in SYMBOL_ATTRIBUTES:
        kind = torch.full((n_images,), SYMBOL_ATTRIBUTES.index(focus))
    elif focus == "texture":
        kind = torch.zeros(n_images, dtype=torch.long)
    else:
        kind = (kind_dice < glyph_share).long() + (kind_dice < glyph_share * LETTER_SHARE_OF_GLYPHS).long()
    for index, name in enumerate(SYMBOL_ATTRIBUTES):
        labels[name] = labels[name].masked_fill(kind != index, ABSENT)
    labels["texture"] = labels["texture"].masked_fill(kind != 0, ABSENT)

    invisible = (labels["colour"] == list(COLOURS).index("white")) & (
        labels["background"] == list(BACKGROUNDS).index("snowy")
    )
    if focus == "background":
        labels["colour"] = torch.where(invisible, draw(len(COLOURS) - 1), labels["colour"])
    else:
        darker = draw(len(BACKGROUNDS) - 1)
        darker = darker + (darker >= list(BACKGROUNDS).index("snowy")).long()
        labels["background"] = torch.where(invisible, darker, labels["background"])
    return labels


LETTER_SHARE_OF_GLYPHS = 0.4
"""Letters among the glyphs; the rest are digits."""
