"""Attention rollout, one path at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor


def attention_rollout(patterns: Sequence[Tensor]) -> Tensor:
    """`R[q, p]`: the products of the steps, added up over all ways from token `p` through the layers to position `q`.

    A step stays where it is with ½, and goes where a head attends with ½ of the heads' mean (Abnar & Zuidema 2020).
    """
    batch, n_heads, n_pos, _ = patterns[0].shape
    out = torch.zeros(batch, n_pos, n_pos, dtype=torch.float64)

    def walk(image: int, end: int, at: int, layer: int, weight: float) -> None:
        if layer < 0:
            out[image, end, at] += weight
            return
        for source in range(n_pos):
            attended = sum(float(patterns[layer][image, head, at, source]) for head in range(n_heads)) / n_heads
            walk(image, end, source, layer - 1, weight * 0.5 * (attended + (source == at)))

    for image in range(batch):
        for end in range(n_pos):
            walk(image, end, end, len(patterns) - 1, 1.0)
    return out
