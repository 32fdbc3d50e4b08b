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


def labelled(store: Store, n_classes: int = 3) -> LabelledStore:
    """With class embeddings along which the images differ, so that no unit decides alone."""
    embeddings = store.embeddings().double()
    draws = torch.randn(n_classes, len(store), generator=torch.Generator().manual_seed(3)).double()
    weights = normalize(draws @ (embeddings - embeddings.mean(dim=0)), dim=1).float()
    classifier = ZeroShotClassifier(weights, tuple("abcdef"[:n_classes]), 100.0)
    return LabelledStore("noise", store, classifier, "text", np.flatnonzero(store.labels.numpy() >= 0))


def dictionary(d_out: int, n: int = 30) -> Dictionary:
    """Texts with drawn embeddings."""
    draw = torch.randn(n, d_out, generator=torch.Generator().manual_seed(9))
    return Dictionary(tuple(f"text {place}" for place in range(n)), normalize(draw, dim=1))
