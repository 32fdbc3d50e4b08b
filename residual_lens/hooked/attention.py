"""Self-attention with every hook point; fused unless scores or pattern are asked for."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Float
from torch import Tensor, nn

from residual_lens.hooked.parts import AttentionParts
from residual_lens.hooked.points import Point


class Attended(NamedTuple):
    """What attention adds to the stream, and the heads' part in it."""

    output: Float[Tensor, "batch pos d_model"]
    heads: Float[Tensor, "batch pos head d"]
    """`z`, or what each head writes where `hook_result` is hooked."""
    written: bool
    """Whether `heads` is the latter."""


class HookedAttention(nn.Module):
    """One block's attention around borrowed projections.

    `hook_result` is what each head adds to the stream, LayerScale included and without the output bias, so that
    `hook_attn_out = Σ_head hook_result + b_O`. `hook_direct` fires later, at the readout of the whole model.
    """

    def __init__(self, parts: AttentionParts) -> None:
        super().__init__()
        self.parts = parts
        self.hook_q = Point()
        self.hook_k = Point()
        self.hook_v = Point()
        self.hook_attn_scores = Point()
        self.hook_pattern = Point()
        self.hook_z = Point()
        self.hook_result = Point()
        self.hook_direct = Point()

    @property
    def W_O(self) -> Float[Tensor, "head d_head d_model"]:
        """Output weights by head (LayerScale folded in)."""
        return self.parts.output_weight()

    @property
    def b_O(self) -> Float[Tensor, "d_model"]:
        """Output bias (LayerScale folded in)."""
        return self.parts.output_bias()

    def forward(
        self, queries: Float[Tensor, "batch query d_model"], context: Float[Tensor, "batch pos d_model"]
    ) -> Attended:
        """Attention from `queries` to `context`; pass one tensor twice for all positions."""
        q, k, v = self.parts.qkv(queries, context)
        q, k, v = self.hook_q(q), self.hook_k(k), self.hook_v(v)
        z = self.hook_z.on_copy(self._mix(q, k, v))
        if not self.hook_result.is_hooked:
            return Attended(self.parts.output(z), z, written=False)
        result = self.hook_result(einsum(z, self.W_O, "batch pos head d, head d d_model -> batch pos head d_model"))
        b_o = self.b_O
        return Attended(result.sum(dim=2) + b_o, result + b_o / result.shape[2], written=True)

    def _mix(
        self,
        q: Float[Tensor, "batch query head d_head"],
        k: Float[Tensor, "batch pos head d_head"],
        v: Float[Tensor, "batch pos head d_head"],
    ) -> Float[Tensor, "batch query head d_head"]:
        dropout = self.parts.dropout()
        if not (self.hook_attn_scores.is_hooked or self.hook_pattern.is_hooked):
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
            return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2)
        scaled = q * q.shape[-1] ** -0.5
        scores = einsum(scaled, k, "batch query head d, batch pos head d -> batch head query pos")
        pattern = self.hook_pattern.on_copy(torch.softmax(self.hook_attn_scores(scores), dim=-1))
        pattern = F.dropout(pattern, dropout) if dropout else pattern
        return einsum(pattern, v, "batch head query pos, batch pos head d -> batch query head d")
