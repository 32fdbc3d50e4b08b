"""Obvious twin of StreamingPCA: all the data at once, one SVD a unit, in float64."""

from typing import NamedTuple

import torch
from torch import Tensor


class NaivePCA(NamedTuple):
    """The PCA of one unit."""

    mean: Tensor
    """`[feature]`."""
    components: Tensor
    """`[component feature]`, largest variance first; signs as they come."""
    variances: Tensor
    """`[component]`, over `n − 1`."""


def naive_pca(x: Tensor) -> list[NaivePCA]:
    """By unit, of data `[sample unit feature]`; as many components as there are features, those beyond the rank too."""
    results = []
    for unit in range(x.shape[1]):
        data = x[:, unit].double()
        mean = data.sum(dim=0) / len(data)
        _, singular, rows = torch.linalg.svd(data - mean, full_matrices=True)
        variances = torch.zeros(x.shape[2], dtype=torch.float64)
        variances[: len(singular)] = singular**2 / (len(data) - 1)
        results.append(NaivePCA(mean, rows, variances))
    return results


def covariance(components: Tensor, variances: Tensor) -> Tensor:
    """What a PCA says about the data, whatever the signs and the choice among equal variances."""
    return components.double().mT @ torch.diag_embed(variances.double()) @ components.double()
