"""Obvious twins of what the atlas measures: one unit, one sample at a time, from whole contributions in float64."""

import torch
from torch import Tensor

from residual_lens.activations import Store


def naive_effects(
    store: Store, class_embeddings: Tensor, labels: list[int], rows: list[int]
) -> tuple[dict[str, list[list[bool]]], dict[str, list[list[float]]]]:
    """Hits and contrasts by class, sample after sample: of the whole model under "", and without each unit."""
    parts = store.decompose(dtype=torch.float64).values
    weights = class_embeddings.double()
    hits, contrasts = {}, {}
    for unit in ("", *store.units.names):
        hits[unit], contrasts[unit] = [[] for _ in weights], [[] for _ in weights]
        for row, label in zip(rows, labels, strict=True):
            embedding = torch.zeros(parts.shape[-1], dtype=torch.float64)
            for place, name in enumerate(store.units.names):
                embedding += parts[:, place].mean(dim=0) if name == unit else parts[row, place]
            products = [float(embedding @ weight) for weight in weights]
            others = products[:label] + products[label + 1 :]
            hits[unit][label].append(products.index(max(products)) == label)
            contrasts[unit][label].append(products[label] - sum(others) / len(others))
    return hits, contrasts
