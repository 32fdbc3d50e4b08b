"""Accuracy when only some components keep their λ: incremental and exact."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residual_lens.training.cached import Coordinates

MOST_NUMBERS = 2**22
"""Coordinates of samples that are in float64 at once: 32 MiB."""


@torch.no_grad()
def pruned_accuracies(
    coordinates: Coordinates,
    factors: Float[Tensor, "component"],
    class_embeddings: Float[Tensor, "class d_out"],
    order: Int[Tensor, "component"],
    kept: Sequence[int],
) -> Float[Tensor, "step"]:
    """Accuracies when the first `k` components of an order have their factor and all others the factor 1.

    The largest cosine is the largest product with a class embedding, whatever the length of the image embedding; and
    products are sums over components. A step therefore adds the products of the components that it adds, in float64:
    all steps together cost one pass over the components.

    Args:
        coordinates: of a ResiDual.
        factors: λ by component.
        class_embeddings: unit-norm.
        order: of the components.
        kept: each `k`, ascending, from 0 to all.
    """
    classes = class_embeddings.detach().to(coordinates.directions.device, torch.float64)
    towards = coordinates.directions.double() @ classes.mT
    changes = ((factors.double() - 1)[:, None] * towards)[order]
    correct = torch.zeros(len(kept), dtype=torch.int64)
    n = len(coordinates.labels)
    rows = max(1, MOST_NUMBERS // max(1, len(factors)))
    for start in range(0, n, rows):
        labels, base, values = (
            part[start : start + rows] for part in (coordinates.labels, coordinates.base, coordinates.values)
        )
        values = values.double()
        logits = base.double() @ classes.mT + values @ towards
        values, done = values[:, order], 0
        for step, k in enumerate(kept):
            logits += values[:, done:k] @ changes[done:k]
            correct[step] += (logits.argmax(dim=-1) == labels).sum().cpu()
            done = k
    return correct.double() / n


def doubling(n: int) -> tuple[int, ...]:
    """0, 1, 2, 4, 8, … and `n`.

    >>> doubling(9)
    (0, 1, 2, 4, 8, 9)
    """
    powers = [2**power for power in range(n.bit_length()) if 2**power < n]
    return (0, *powers, n) if n else (0,)


def fewest(accuracy: Float[Tensor, "step"], share: float) -> tuple[int | None, int | None]:
    """Where a share of the gain of the last step over the first is reached, and from where on it is held.

    Args:
        accuracy: with 0, 1, 2, … components.
        share: of the gain.

    Returns:
        The first number of components that reaches it; the first from which on no number falls below it. `None`
        twice where nothing is gained.

    >>> fewest(torch.tensor([0.5, 0.9, 0.6, 0.9, 1.0], dtype=torch.float64), 0.8)
    (1, 3)
    """
    gain = accuracy[-1] - accuracy[0]
    if gain <= 0:
        return None, None
    # Accuracies are counts of samples: rounding must not decide.
    enough = accuracy >= accuracy[0] + share * gain - 1e-9
    return int(enough.int().argmax()), len(enough) - int(enough.flip(0).int().argmin())
