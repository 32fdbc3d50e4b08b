"""Scenes in which colour says what shape it is, as far as it is asked to: data to learn a shortcut from."""

from dataclasses import replace

import torch

from residual_lens.data.attribute_world.scenes import Scenes, sample_scenes
from residual_lens.data.attribute_world.vocabulary import COLOURS, SHAPES
from residual_lens.errors import InputError

SHORTCUT: dict[str, str] = dict(zip(SHAPES, COLOURS, strict=False))
"""Each shape and the colour that gives it away; white, the colour left over, is not drawn."""


def sample_shortcut(n_images: int, generator: torch.Generator, *, correlation: float) -> Scenes:
    """Draws scenes of shapes whose colour is that of `SHORTCUT` more often than by chance.

    With `K` shapes and colours, a share `1/K + correlation · (1 − 1/K)` of the scenes of each shape has its colour; the
    others have any other colour of the `K`. The correlation is Cramér's V of the table of shapes by colours: 0 where
    colour says nothing, 1 where it says all. Everything else is drawn as by `sample_scenes`.

    Args:
        n_images: how many scenes; shapes are balanced (counts differ by at most one).
        generator: the only source of randomness, on the CPU.
        correlation: in [0, 1]. The share holds for every shape exactly, up to rounding to whole scenes.

    Raises:
        InputError: a correlation out of range, or fewer than one image.

    >>> scenes = sample_shortcut(160, torch.Generator().manual_seed(0), correlation=0.8)
    >>> float((scenes.labels["colour"] == scenes.labels["shape"]).double().mean())  # 1/8 + 0.8 · 7/8 = 0.825, of 20: 16
    0.8
    """
    if not 0 <= correlation <= 1:
        raise InputError(f"got correlation={correlation}, expected 0 (colour says nothing) to 1 (it says the shape).")
    scenes = sample_scenes(n_images, generator, focus="shape")
    shape, n_values = scenes.labels["shape"], len(SHORTCUT)
    others = (shape + 1 + torch.randint(n_values - 1, (n_images,), generator=generator)) % n_values
    colour = others.clone()
    share = 1 / n_values + correlation * (1 - 1 / n_values)
    # Labels are in random order already, so that the first of a shape are any of them.
    for value in range(n_values):
        rows = (shape == value).nonzero()[:, 0]
        colour[rows[: round(share * len(rows))]] = value
    return replace(scenes, labels={**scenes.labels, "colour": colour})
