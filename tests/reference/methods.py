"""What training methods compute, entry by entry in float64."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def low_rank_added(weight: Tensor, a: Tensor, b: Tensor, factor: float) -> Tensor:
    """`W + factor · B A`."""
    out = weight.double().clone()
    for row in range(len(out)):
        for r in range(len(a)):
            out[row] += factor * float(b[row, r]) * a[r].double()
    return out


def singular_values_moved(weight: Tensor, changes: Tensor) -> Tensor:
    """`U diag(σ + δ) Vᵀ` for each of the matrices that lie on top of each other."""
    parts = []
    for part, change in zip(np.split(weight.double().numpy(), len(changes)), changes.double().numpy(), strict=True):
        u, s, v = np.linalg.svd(part, full_matrices=False)
        parts.append(sum((s[i] + change[i]) * np.outer(u[:, i], v[i]) for i in range(len(s))))
    return torch.from_numpy(np.concatenate(parts))


def components_rescaled(
    embedding: Tensor, mean: Tensor, components: Tensor, scales: Sequence[float], *, keep_mean: bool
) -> Tensor:
    """`Σ_k λ_k ⟨φ_k, e − μ⟩ φ_k`, and μ."""
    out = []
    for e in embedding.double():
        edited = mean.double().clone() if keep_mean else torch.zeros_like(e)
        for component, scale in zip(components.double(), scales, strict=True):
            edited += scale * float(component @ (e - mean.double())) * component
        out.append(edited)
    return torch.stack(out)


def logistic_logits(embedding: Tensor, weight: Tensor, bias: Tensor, factor: float) -> Tensor:
    """`factor · (⟨w_c, e / |e|⟩ + b_c)`."""
    rows = []
    for e in embedding.double():
        length = float(e.square().sum()) ** 0.5
        rows.append([factor * (float(w @ e) / length + float(b)) for w, b in zip(weight.double(), bias, strict=True)])
    return torch.tensor(rows, dtype=torch.float64)
