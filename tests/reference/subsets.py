"""Obvious twin of subset_predictions: embeddings with units left out, summed one subset at a time in float64."""

import torch
from torch import Tensor

from residual_lens.activations import Store
from residual_lens.text import ZeroShotClassifier


def naive_subset_embeddings(store: Store, subsets: list[list[str]], reference: Store | None = None) -> list[Tensor]:
    """`[sample d_out]` of each subset: contributions of kept units, and means over the reference of all others."""
    parts = store.decompose(dtype=torch.float64)
    means = None if reference is None else reference.decompose(dtype=torch.float64).values.mean(dim=0)
    embeddings = []
    for kept in subsets:
        embedding = torch.zeros(len(store), store.layout.d_out, dtype=torch.float64)
        for place, name in enumerate(store.units.names):
            if name in kept:
                embedding += parts[name]
            elif means is not None:
                embedding += means[place]
        embeddings.append(embedding)
    return embeddings


def naive_subset_accuracies(
    store: Store,
    classifier: ZeroShotClassifier,
    labels: Tensor,
    subsets: list[list[str]],
    reference: Store | None = None,
) -> list[float]:
    """Of the classifier itself on what is left."""
    embeddings = naive_subset_embeddings(store, subsets, reference)
    return [classifier.accuracy(embedding, labels) for embedding in embeddings]
