"""Stores with labels and classifiers that tell their images apart."""

from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from residual_lens.activations import Store
from residual_lens.atlas.tasks import LabelledStore
from residual_lens.hooked import HookedViT
from residual_lens.text import Dictionary, ZeroShotClassifier
from tests.activations.stores import encoded, image_set


def store_of(hvit: HookedViT, path: Path, n_images: int = 18, name: str = "a") -> Store:
    """Of noise in three classes, every fifth image without a label."""
    images = image_set(n_images, hvit.cfg.image_size, name=name)
    return encoded(hvit, images, path / f"{name}.h5", value_format="float32")


def labelled(store: Store) -> LabelledStore:
    """With class embeddings that the images of a class are near to, by all units together."""
    embeddings = store.embeddings().double() - store.embeddings().double().mean(dim=0)
    means = torch.stack([embeddings[store.labels == label].mean(dim=0) for label in range(3)])
    classifier = ZeroShotClassifier(normalize(means, dim=1).float(), ("a", "b", "c"), 100.0)
    return LabelledStore("noise", store, classifier, "text", np.flatnonzero(store.labels.numpy() >= 0))


def dictionary(d_out: int, n: int = 30) -> Dictionary:
    """Texts with drawn embeddings."""
    draw = torch.randn(n, d_out, generator=torch.Generator().manual_seed(9))
    return Dictionary(tuple(f"text {place}" for place in range(n)), normalize(draw, dim=1))
