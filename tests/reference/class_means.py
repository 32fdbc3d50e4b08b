"""The naive way to class means: one class and one sample after the other, float64."""

import torch
from torch import Tensor


def reference_class_means(embeddings: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Unit-norm means of unit-norm embeddings, `[class d_out]`."""
    rows = []
    for label in range(n_classes):
        total = torch.zeros(embeddings.shape[1], dtype=torch.float64)
        for embedding, own in zip(embeddings.double(), labels.tolist(), strict=True):
            if own == label:
                total += embedding / embedding.norm()
        rows.append(total / total.norm())
    return torch.stack(rows)
