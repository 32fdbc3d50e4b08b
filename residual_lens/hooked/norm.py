"""A norm with TransformerLens' two hook points."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from residual_lens.hooked.parts.norm import NormParts
from residual_lens.hooked.points import Point


class Normed(NamedTuple):
    """What a norm gave and the statistics it used."""

    output: Float[Tensor, "*batch d"]
    mean: Float[Tensor, "*batch 1"]
    scale: Float[Tensor, "*batch 1"]


class HookedNorm(nn.Module):
    """`γ ⊙ (x − mean(x)) / scale + β` with `scale = sqrt(var(x) + eps)`; fused unless something listens.

    An RMSNorm leaves the mean where it is: `γ ⊙ x / scale` with `scale = sqrt(mean(x²) + eps)`.
    """

    def __init__(self, parts: NormParts) -> None:
        super().__init__()
        self.parts = parts
        self.hook_scale = Point()
        self.hook_normalized = Point()

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        if self.hook_scale.is_hooked or self.hook_normalized.is_hooked:
            return self.with_statistics(x).output
        return self.parts.module(x)

    def with_statistics(self, x: Float[Tensor, "*batch d"]) -> Normed:
        """The norm step by step with the mean and the (hooked) scale it used.

        In float32 or better throughout, as fused norms compute inside: rounding every step of a model of half precision
        would give another output. Its hooks see float32.
        """
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = wide.mean(dim=-1, keepdim=True) if self.parts.centred else torch.zeros_like(wide[..., :1])
        centred = wide - mean
        variance = centred.square().mean(dim=-1, keepdim=True)
        scale = self.hook_scale.on_copy((variance + self.parts.eps).sqrt())
        normalized = self.hook_normalized(centred / scale)
        gain, offset = self.parts.gain, self.parts.offset
        output = normalized if gain is None else normalized * gain
        output = output if offset is None else output + offset
        # Laid out as fused norms lay out theirs: products in half precision round by the layout of what they are given.
        return Normed(output.to(x.dtype).contiguous(), mean, scale)
