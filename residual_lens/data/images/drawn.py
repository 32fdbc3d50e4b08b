"""Images that are drawn on the spot: noise, handwritten digits enlarged, scenes of the attribute world."""

import hashlib
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from residual_lens.data.attribute_world.render import render
from residual_lens.data.attribute_world.scenes import Scenes, sample_scenes
from residual_lens.data.attribute_world.shifts import SHIFTS
from residual_lens.data.attribute_world.vocabulary import ATTRIBUTES, DIGITS
from residual_lens.data.digits import enlarge_scans, load_digit_splits
from residual_lens.data.images.image_set import SPLITS, UNLABELLED, ImageSet, ImageSource, Split
from residual_lens.data.images.sources import numbered
from residual_lens.data.tasks import PREFIX, task_names
from residual_lens.errors import InputError

MIX = "attributes"
NOISE_SIDE = 224
"""Side of the paper's random images in pixels."""
DRAWN_SIDE = 32
"""Side of digits and scenes in pixels, unless asked for another: what the shipped model takes."""
NOISE_SIZES: dict[Split, int] = {"train": 8_000, "validation": 1_000, "test": 1_000}
SCENE_SIZES: dict[Split, int] = {"train": 20_000, "validation": 2_500, "test": 2_500}
DIGIT_SIZES: dict[Split, int] = {"train": 1_437, "validation": 180, "test": 180}
"""80/10/10 of the 1,797 scans."""
BLOCK_PIXELS = 64 * 32 * 32
"""Scenes are drawn in blocks of so many pixels: 64 at once at 32 × 32, which is 16 times as fast as one by one."""
N_NOISE_CLASSES = 10
NOISE_CENTRES = 0.2
"""Mean grey levels of the noise classes lie evenly in ± this."""
CENTRE_SPREAD = 0.05
PIXEL_SPREAD = 0.1


def drawn_names() -> tuple[str, ...]:
    """Names of all drawn data sets.

    >>> drawn_names()[:4]
    ('random', 'digits', 'attributes', 'attributes@sketch')
    """
    return ("random", "digits", MIX, *(f"{MIX}@{shift}" for shift in SHIFTS), *task_names()[1:])


def open_drawn(name: str, split: Split, *, seed: int, n_images: int | None, image_size: int | None) -> ImageSet:
    """One split of a drawn data set; no two splits or seeds share an image (digits: a seed only deals the scans).

    Args:
        name: one of `drawn_names()`.
        split: which split.
        seed: decides what is drawn.
        n_images: how many, any number for noise and scenes; by default `NOISE_SIZES` or `SCENE_SIZES`.
        image_size: side in pixels; by default `NOISE_SIDE` or `DRAWN_SIDE`.

    Raises:
        InputError: for an image size below 8.
    """
    size = image_size if image_size is not None else NOISE_SIDE if name == "random" else DRAWN_SIDE
    if size < 8:
        raise InputError(f"got image_size={size}, expected at least 8 pixels.")
    parameters = {"seed": seed, "image_size": size}
    if name == "random":
        labels = np.arange(NOISE_SIZES[split] if n_images is None else n_images) % N_NOISE_CLASSES
        classes = tuple(f"noise {index}" for index in range(N_NOISE_CLASSES))
        source = NoiseSource(split, size, seed)
    elif name == "digits":
        scans = load_digit_splits([DIGIT_SIZES[part] for part in SPLITS], image_size=8, seed=seed)[SPLITS.index(split)]
        labels, classes = scans.labels.numpy(), DIGITS
        source = DigitSource(split, scans.images[:, 0], size)
    else:
        world, _, shift = name.partition("@")
        attribute = None if world == MIX else world.removeprefix(PREFIX)
        n_scenes = SCENE_SIZES[split] if n_images is None else n_images
        scenes = sample_scenes(n_scenes, _generator(world, split, str(seed)), focus=attribute)
        labels = np.full(n_scenes, UNLABELLED) if attribute is None else scenes.labels[attribute].numpy()
        classes = () if attribute is None else ATTRIBUTES[attribute]
        source = SceneSource(split, scenes, size, shift or None)
    return ImageSet(name=name, split=split, classes=classes, source=source, labels=labels, parameters=parameters)


@final
class NoiseSource(ImageSource):
    """Noise as the paper's released code draws it for its "random" data set, each image from a seed of its own.

    Class `c` of 10 has a centre `g_c + 0.05 ε_c` with grey level `g_c` evenly spaced in ±0.2 and `ε_c` normal for every
    pixel; an image is its centre plus 0.1 times normal noise. In 8 bits this is `trunc(255 x) mod 256`: negative values
    wrap around to bright ones, as they do in the released code (`ToPILImage` of floats; `build_random` in
    src/residual/data/dataset.py of Flegyas/ResiDual, with arXiv 2411.00246). The distribution is that of the paper, the
    images are others: those came in one sequence of 1.5 billion numbers, of which none can be drawn alone.
    """

    def __init__(self, split: Split, image_size: int, seed: int) -> None:
        self._split = split
        self._shape = (image_size, image_size, 3)
        self._seed = seed
        grey = np.linspace(-NOISE_CENTRES, NOISE_CENTRES, N_NOISE_CLASSES, dtype=np.float32)
        self._centres = [level + CENTRE_SPREAD * self._normal("centre", c) for c, level in enumerate(grey)]

    def image(self, index: int) -> Image.Image:
        values = self._centres[index % N_NOISE_CLASSES] + PIXEL_SPREAD * self._normal(self._split, index)
        return Image.fromarray((255 * values).astype(np.int64).astype(np.uint8))

    def sample_id(self, index: int) -> str:
        return numbered(self._split, index)

    def _normal(self, drawn: str, index: int) -> Float[np.ndarray, "height width 3"]:
        generator = np.random.default_rng(_seed("random", drawn, str(self._seed), str(index)))
        return generator.standard_normal(self._shape, dtype=np.float32)


@final
class DigitSource(ImageSource):
    """scikit-learn's scans, enlarged one at a time as `load_task("digits")` does it, rounded to 8 bits."""

    def __init__(self, split: Split, scans: Float[Tensor, "sample 8 8"], image_size: int) -> None:
        self._split = split
        self._scans = scans
        self._image_size = image_size

    def image(self, index: int) -> Image.Image:
        return _to_image(enlarge_scans(self._scans[index : index + 1], self._image_size)[0])

    def sample_id(self, index: int) -> str:
        return numbered(self._split, index)


@final
class SceneSource(ImageSource):
    """Scenes of the attribute world; the block of them that was drawn last is kept."""

    def __init__(self, split: Split, scenes: Scenes, image_size: int, shift: str | None) -> None:
        self._split = split
        self._scenes = scenes
        self._image_size = image_size
        self._shift = shift
        self._block_rows = max(1, BLOCK_PIXELS // image_size**2)
        self._drawn: tuple[int, Float[Tensor, "block 3 height width"]] | None = None

    def image(self, index: int) -> Image.Image:
        block, row = divmod(index, self._block_rows)
        drawn = self._drawn
        if drawn is None or drawn[0] != block:
            start = block * self._block_rows
            scenes = self._scenes.select(slice(start, start + self._block_rows))
            drawn = self._drawn = (block, render(scenes, self._image_size, shift=self._shift))
        return _to_image(drawn[1][row])

    def sample_id(self, index: int) -> str:
        return numbered(self._split, index)


def _to_image(pixels: Float[Tensor, "3 height width"]) -> Image.Image:
    """Pixels in [0, 1] to the nearest of 256 levels."""
    return Image.fromarray((255 * pixels).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


def _seed(*words: str) -> int:
    """A seed of its own for each list of words, the same on any machine; far from the small seeds of pretraining."""
    return int.from_bytes(hashlib.sha256("\n".join(words).encode()).digest()[:7])


def _generator(*words: str) -> torch.Generator:
    return torch.Generator().manual_seed(_seed(*words))
