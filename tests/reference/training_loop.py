"""Training of λ as a page of arithmetic: one sample and one component at a time, float64, no autograd of ours."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


def trained_scales(
    base: Float[Tensor, "sample d_out"],
    coordinates: Float[Tensor, "sample component"],
    directions: Float[Tensor, "component d_out"],
    classes: Float[Tensor, "class d_out"],
    labels: Int[Tensor, "sample"],
    *,
    logit_scale: float,
    batches: Sequence[Int[Tensor, "_"]],
    learning_rate: float,
    l1: float = 0.0,
) -> Float[Tensor, "component"]:
    """λ from 1 after some steps of schedule-free AdamW without weight decay (Defazio et al. 2024, algorithm 1).

    The average that the paper calls x, with β1 = 0.9, β2 = 0.999 and no warm-up. The gradient is the formula's.
    """
    base, coordinates, directions = base.double(), coordinates.double(), directions.double()
    z = torch.ones(len(directions), dtype=torch.float64)
    x, squares = z.clone(), torch.zeros_like(z)
    for step, rows in enumerate(batches, start=1):
        y = 0.1 * z + 0.9 * x
        gradient = l1 * y.sign()
        for row in rows.tolist():
            embedding = base[row] + sum(y[k] * coordinates[row, k] * directions[k] for k in range(len(y)))
            length = embedding.norm()
            cosines = classes.double() @ embedding / length
            error = torch.softmax(logit_scale * cosines, dim=0)
            error[labels[row]] -= 1
            # d cos_c / d e = (class_c − cos_c e / |e|) / |e|
            by_embedding = sum(
                error[c] * logit_scale * (classes[c].double() - cosines[c] * embedding / length) / length
                for c in range(len(classes))
            )
            for k in range(len(y)):
                gradient[k] += coordinates[row, k] * (directions[k] @ by_embedding) / len(rows)
        squares = 0.999 * squares + 0.001 * gradient**2
        z = z - learning_rate * gradient / ((squares / (1 - 0.999**step)).sqrt() + 1e-8)
        x = x + (z - x) / step
    return x
