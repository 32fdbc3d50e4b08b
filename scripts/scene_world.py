"""Scenes with all their labels, as data sets, stores and pixels of one model; nothing is loaded before it is needed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from studies import file_name
from torch import Tensor

from residual_lens import HookedViT, ImageSet, Store, ZeroShotClassifier, encode, zero_shot_classifier
from residual_lens.data.attribute_world import ATTRIBUTES, TEMPLATES, Scenes
from residual_lens.data.images.drawn import SceneSource
from residual_lens.data.images.image_set import UNLABELLED, Split


@dataclass(frozen=True, eq=False)
class SceneSet:
    """Scenes under a name, which with its parameters stands for them in the store's file."""

    name: str
    """What they are, as part of a file's name."""
    split: Split
    """What they are for."""
    scenes: Scenes
    """What is in the images."""
    parameters: dict[str, int | str]
    """All that they were drawn by."""
    shift: str | None = None
    """How they are rendered: a key of `SHIFTS`, or as in pretraining."""

    def images(self, image_size: int) -> ImageSet:
        """As a data set, rendered when asked for, in 256 levels."""
        return ImageSet(
            name=self.name,
            split=self.split,
            classes=(),
            source=SceneSource(self.split, self.scenes, image_size, self.shift),
            labels=np.full(len(self.scenes), UNLABELLED),
            parameters={**self.parameters, "shift": str(self.shift), "image_size": image_size},
        )

    @property
    def file(self) -> str:
        """Of their store."""
        shift = [] if self.shift is None else [self.shift]
        return file_name(self.name, self.split, *map(str, self.parameters.values()), *shift) + ".h5"


class World:
    """A model, and what it makes of scenes."""

    def __init__(self, model: str, folder: Path, *, device: str, batch_size: int) -> None:
        """Nothing is loaded yet.

        Args:
            model: a name as in `residual-lens models`, with a text tower.
            folder: of the stores.
            device: where the model runs.
            batch_size: images in a forward pass.
        """
        self._model, self._folder, self._device, self.batch_size = model, folder, device, batch_size
        self.store: Callable[[SceneSet], Store] = cache(self._store)
        self.pixels: Callable[[SceneSet], Float[Tensor, "image 3 height width"]] = cache(self._pixels)

    @cached_property
    def hvit(self) -> HookedViT:
        """The model."""
        return HookedViT.from_pretrained(self._model, device=self._device)

    @cached_property
    def classifiers(self) -> dict[str, ZeroShotClassifier]:
        """Of every attribute, from its words in the captions' own prompts, on the CPU."""

        def encode_text(texts: Sequence[str]) -> Float[Tensor, "text d_out"]:
            return self.hvit.encode_text(texts).cpu()

        return {
            name: zero_shot_classifier(encode_text, words, templates=TEMPLATES[name], logit_scale=self.hvit.logit_scale)
            for name, words in ATTRIBUTES.items()
        }

    def _store(self, drawn: SceneSet) -> Store:
        """What the model makes of scenes, encoded as far as it is not there."""
        path = self._folder / f"{file_name(self._model)}--{drawn.file}"
        images = drawn.images(self.hvit.cfg.image_size[0])
        # None is for shards of several processes.
        return cast(Store, encode(self.hvit, images, path, batch_size=self.batch_size, progress=True))

    def _pixels(self, drawn: SceneSet) -> Float[Tensor, "image 3 height width"]:
        """The store's images, preprocessed, on the model's device."""
        images = drawn.images(self.hvit.cfg.image_size[0])
        prepared = [self.hvit.preprocessing(images[row][0]) for row in range(len(images))]
        return torch.stack(prepared).to(self.hvit.device)
