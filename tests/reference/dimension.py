"""Obvious twins of the dimension estimates, in float64: the whole distance matrix, loops over components."""

import math

import torch
from torch import Tensor


def naive_two_nearest(x: Tensor) -> Tensor:
    """`[sample 2]`, from the difference of every pair of rows `[sample feature]`."""
    x = x.double()
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(math.inf)
    return distances.sort(dim=1).values[:, :2]


def matrix_two_nearest(x: Tensor) -> Tensor:
    """The same as a user in a hurry has it, by products: centred, or they lose the digits that count."""
    x = x.double()
    x = x - x.mean(dim=0)
    distances = torch.cdist(x, x, compute_mode="use_mm_for_euclid_dist").fill_diagonal_(math.inf)
    return distances.topk(2, dim=1, largest=False).values


def naive_two_nn(nearest: Tensor, discard: float = 0.1) -> float:
    """The slope, from `[sample 2]` distances of distinct samples."""
    ratios = sorted(float(second / first) for first, second in nearest)
    n = len(ratios)
    fitted = min(math.floor(n * (1 - discard) + 1e-9), n - 1)
    x = [math.log(ratio) for ratio in ratios[:fitted]]
    y = [-math.log(1 - (i + 1) / n) for i in range(fitted)]
    return sum(a * b for a, b in zip(x, y, strict=True)) / sum(a * a for a in x)


def naive_linear_dimension(variances: Tensor, threshold: float = 0.99) -> int:
    """Of one unit's `[component]`; shares by exact summation."""
    values = sorted(variances.double().tolist(), reverse=True)
    if sum(values) == 0:
        return 0
    return next(k for k in range(1, len(values) + 1) if math.fsum(values[:k]) >= threshold * math.fsum(values))


def naive_participation_ratio(variances: Tensor) -> float:
    """Of one unit's `[component]`."""
    values = variances.double().tolist()
    return sum(values) ** 2 / sum(v**2 for v in values) if any(values) else 0.0


def naive_effective_rank(variances: Tensor) -> float:
    """Of one unit's `[component]`."""
    roots = [math.sqrt(v) for v in variances.double().tolist() if v > 0]
    return math.exp(-sum(r / sum(roots) * math.log(r / sum(roots)) for r in roots)) if roots else 0.0
