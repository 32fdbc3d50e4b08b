"""Obvious twins of what `explain` measures: the edited embedding is made anew for every choice of λ, in float64."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from residual_lens.text import ZeroShotClassifier
from tests.reference.residual import naive_residual

Scales = Mapping[str, Sequence[float]]


def naive_embeddings(values: Tensor, names: Sequence[str], bases: Mapping, scales: Scales, **form) -> Tensor:
    """`[sample d_out]` of contributions `[sample unit d_out]`; `form` is `variant` and `keep_mean`."""
    return naive_residual(values, names, bases, scales, **form).sum(dim=1)


def naive_pruned_accuracy(
    values: Tensor,
    labels: Tensor,
    names: Sequence[str],
    bases: Mapping,
    scales: Scales,
    classifier: ZeroShotClassifier,
    kept: Sequence[tuple[str, int]],
    **form,
) -> float:
    """Accuracy when the components in `kept` (unit and place) have their λ and all others have 1."""
    chosen = {
        unit: [factor if (unit, place) in kept else 1.0 for place, factor in enumerate(factors)]
        for unit, factors in scales.items()
    }
    embeddings = naive_embeddings(values, names, bases, chosen, **form)
    correct = 0
    for embedding, label in zip(embeddings, labels.tolist(), strict=True):
        cosines = [float(torch.dot(embedding, row.double()) / embedding.norm()) for row in classifier.weights]
        correct += cosines.index(max(cosines)) == label
    return correct / len(labels)


def naive_energy(
    values: Tensor,
    embeddings: Tensor,
    names: Sequence[str],
    bases: Mapping,
    scales: Scales,
    term: Sequence[tuple[str, int]],
) -> tuple[float, float]:
    """Own and cross share of the second moment of the sum of the components in `term`, sample by sample.

    `embeddings` are those of `naive_embeddings` for the same λ.
    """
    own = cross = total = 0.0
    for row, embedding in zip(values.double(), embeddings, strict=True):
        part = torch.zeros_like(embedding)
        for unit, place in term:
            basis = bases[unit]
            direction = basis.components[place].double()
            x = row[list(names).index(unit)] - basis.mean.double()
            part += scales[unit][place] * torch.dot(direction, x) * direction
        own += float(part @ part)
        cross += float(part @ (embedding - part))
        total += float(embedding @ embedding)
    return own / total, cross / total
