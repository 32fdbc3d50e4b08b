"""Obvious twin of ResiDual on direct contributions: one sample, one unit, one component at a time, in float64.

`RD(x) = Φᵀ diag(λ) Φ (x − μ)`, written as the sum of `λ_k ⟨φ_k, x − μ⟩ φ_k`.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Scales = Mapping[str, Sequence[float]]
"""λ by unit: as many as components are kept."""


def naive_residual(
    values: Tensor, names: Sequence[str], bases: Mapping, scales: Scales, *, variant: str, keep_mean: bool
) -> Tensor:
    """Edited contributions `[batch unit d_out]` of contributions `[batch unit d_out]`.

    Args:
        values: what the model computed.
        names: of the units along the second axis.
        bases: by unit, each with `mean` and `components`.
        scales: of the units that are rescaled; the others are dropped ("residual*") or passed ("residual").
        variant: "residual*" or "residual".
        keep_mean: add the mean back.
    """
    values = values.detach().double()
    edited = torch.zeros_like(values)
    for sample in range(values.shape[0]):
        for place, name in enumerate(names):
            x = values[sample, place]
            if name in scales:
                edited[sample, place] = rescaled(x, bases[name], scales[name], variant=variant, keep_mean=keep_mean)
            elif variant == "residual":
                edited[sample, place] = x
    return edited


def rescaled(
    x: Tensor, basis: object, scales: Sequence[float], *, variant: str, keep_mean: bool, mean: Tensor | None = None
) -> Tensor:
    """One contribution `[d_out]` edited; `mean` stands in for the basis' own where it is given."""
    mean = basis.mean.double() if mean is None else mean
    out = torch.zeros_like(mean)
    beyond = x - mean
    for component, factor in enumerate(scales):
        direction = basis.components[component].double()
        coordinate = sum(float(a) * float(b) for a, b in zip(direction, x - mean, strict=True))
        out = out + factor * coordinate * direction
        beyond = beyond - coordinate * direction
    if variant == "residual":
        out = out + beyond
    return out + mean if keep_mean else out
