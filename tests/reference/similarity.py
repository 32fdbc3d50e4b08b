"""Obvious twins of the similarities: one pair at a time, in float64, as the formulas read."""

import torch
from torch import Tensor


def naive_spectral_cosine(
    x: Tensor, y: Tensor, x_weights: Tensor | None = None, y_weights: Tensor | None = None
) -> float:
    """Of two bases `[component feature]` with weights in descending order, by a greedy loop."""
    x, y = x.double(), y.double()
    x_weights = torch.ones(len(x), dtype=torch.float64) if x_weights is None else x_weights.double()
    y_weights = torch.ones(len(y), dtype=torch.float64) if y_weights is None else y_weights.double()
    weights = torch.outer(x_weights, y_weights)
    largest = float(weights.diagonal().norm())
    if largest == 0:
        return 0.0
    entries = (x @ y.mT).abs() * weights / largest
    squares = 0.0
    for _ in range(min(entries.shape)):
        row, column = divmod(int(entries.argmax()), entries.shape[1])
        squares += float(entries[row, column]) ** 2
        entries[row, :] = -1.0
        entries[:, column] = -1.0
    return squares**0.5


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    norms = x.norm() * y.norm()
    return (x * y).sum() / norms if norms > 0 else torch.zeros_like(norms)


def naive_mean_cosine(x: Tensor, y: Tensor) -> float:
    """Of two units `[sample feature]`."""
    return float(_cosine(x.double().mean(dim=0), y.double().mean(dim=0)))


def naive_correlation(x: Tensor, y: Tensor) -> float:
    """Pearson's r of all centred entries of two units `[sample feature]`."""
    x, y = x.double() - x.double().mean(dim=0), y.double() - y.double().mean(dim=0)
    return float(torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1])


def naive_relative_cosine(x: Tensor, y: Tensor, anchors: Tensor) -> float:
    """Mean cosine over the samples of two units `[sample feature]`, each relative to its own anchors."""
    x, y = x.double(), y.double()
    cosines = []
    for sample in range(len(x)):
        x_relative = torch.stack([_cosine(x[sample], x[anchor]) for anchor in anchors])
        y_relative = torch.stack([_cosine(y[sample], y[anchor]) for anchor in anchors])
        cosines.append(float(_cosine(x_relative, y_relative)))
    return sum(cosines) / len(cosines)


def naive_linear_cka(x: Tensor, y: Tensor) -> float:
    """Of two units `[sample feature]`, through centred Gram matrices."""
    n = len(x)
    centring = torch.eye(n, dtype=torch.float64) - 1 / n
    x_gram = centring @ x.double() @ x.double().mT @ centring
    y_gram = centring @ y.double() @ y.double().mT @ centring
    return float((x_gram * y_gram).sum() / (x_gram.norm() * y_gram.norm()))
