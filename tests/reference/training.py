"""Obvious twin of a training step on cached coordinates: one sample, unit and component at a time, in float64."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def naive_embeddings(
    values: Tensor,
    names: Sequence[str],
    scales: Mapping[str, Tensor],
    bases: Mapping | None,
    *,
    variant: str = "residual",
    keep_mean: bool = True,
) -> Tensor:
    """Edited embeddings `[sample d_out]` of contributions `[sample unit d_out]`, differentiable in the scales.

    Args:
        values: contributions.
        names: of the units along the second axis.
        scales: by unit: of as many components as are kept, or a single factor where there are no bases.
        bases: by unit, each with `mean` and `components`; `None`: a unit's one factor multiplies all of it.
        variant: "residual" passes other units and what lies beyond the components, "residual*" drops both.
        keep_mean: add means back.
    """
    embeddings = []
    for sample in values.detach().double():
        total = torch.zeros(values.shape[2], dtype=torch.float64)
        for name, x in zip(names, sample, strict=True):
            if name not in scales:
                total = total + (x if variant == "residual" else 0)
            elif bases is None:
                total = total + scales[name].double() * x
            else:
                total = total + _rescaled(x, scales[name].double(), bases[name], variant, keep_mean)
        embeddings.append(total)
    return torch.stack(embeddings)


def _rescaled(x: Tensor, scales: Tensor, basis: object, variant: str, keep_mean: bool) -> Tensor:
    mean, rest = basis.mean.double(), x - basis.mean.double()
    out = torch.zeros_like(x)
    for factor, direction in zip(scales, basis.components.double(), strict=False):
        coordinate = (x - mean) @ direction
        out = out + factor * coordinate * direction
        rest = rest - coordinate * direction
    out = out + rest if variant == "residual" else out
    return out + mean if keep_mean else out


def naive_loss(embeddings: Tensor, weights: Tensor, labels: Tensor, logit_scale: float) -> Tensor:
    """Mean cross-entropy in nats of `logit_scale` times the cosine to each class."""
    losses = []
    for embedding, label in zip(embeddings, labels, strict=True):
        logits = torch.stack([logit_scale * embedding @ each.double() / embedding.norm() for each in weights])
        losses.append(torch.logsumexp(logits, dim=0) - logits[label])
    return torch.stack(losses).mean()
