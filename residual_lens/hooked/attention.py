"""Self-attention with every hook point; fused unless scores or pattern are asked for."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from residual_lens.hooked.parts.attention import HALF, AttentionParts
from residual_lens.hooked.parts.rotary import Rotation
from residual_lens.hooked.points import Point
from residual_lens.hooked.pooling import Pooling


class Sources(NamedTuple):
    """Which tokens the heads' outputs come from, at the positions that pooling keeps."""

    pattern: Float[Tensor, "batch kept head pos"]
    """Attention."""
    values: Float[Tensor, "batch pos head d_head"]
    """Values, contiguous: a view would keep queries and keys in memory as well."""


class Attended(NamedTuple):
    """What attention adds to the stream, and the heads' part in it."""

    output: Float[Tensor, "batch pos d_model"]
    heads: Float[Tensor, "batch pos head d"]
    """`z`, or what each head writes where `hook_result` is hooked."""
    written: bool
    """Whether `heads` is the latter."""
    sources: Sources | None
    """Where the heads' outputs come from, if that was asked for."""


class HookedAttention(nn.Module):
    """One block's attention around borrowed projections.

    `hook_q`, `hook_k`, `hook_v` see what the projections give, before norms of queries and keys and rotary positions;
    `hook_rot_q` and `hook_rot_k` (where a model has rotary positions) what comes after both. `hook_z` sees the input of
    the output projection. `hook_result` is what each head adds to the stream, LayerScale included and without the
    output bias, so that `hook_attn_out = Σ_head hook_result + b_O`. `hook_direct` fires later, at the readout of the
    whole model.
    """

    def __init__(self, parts: AttentionParts, *, has_rotary: bool) -> None:
        super().__init__()
        self.parts = parts
        self.hook_q = Point()
        self.hook_k = Point()
        self.hook_v = Point()
        if has_rotary:
            self.hook_rot_q = Point()
            self.hook_rot_k = Point()
        self.hook_attn_scores = Point()
        self.hook_pattern = Point()
        self.hook_z = Point()
        self.hook_result = Point()
        self.hook_direct = Point()

    @property
    def W_Q(self) -> Float[Tensor, "head d_model d_head"]:
        """Query weights by head, as a view."""
        return self.parts.inputs.weights()[0]

    @property
    def W_K(self) -> Float[Tensor, "head d_model d_head"]:
        """Key weights by head, as a view (repeated where a group of heads shares them)."""
        return self.parts.inputs.weights()[1]

    @property
    def W_V(self) -> Float[Tensor, "head d_model d_head"]:
        """Value weights by head, as a view (repeated where a group of heads shares them)."""
        return self.parts.inputs.weights()[2]

    @property
    def b_Q(self) -> Float[Tensor, "head d_head"]:
        """Query biases by head; zeros where there are none."""
        return self.parts.inputs.biases()[0]

    @property
    def b_K(self) -> Float[Tensor, "head d_head"]:
        """Key biases by head; zeros where there are none."""
        return self.parts.inputs.biases()[1]

    @property
    def b_V(self) -> Float[Tensor, "head d_head"]:
        """Value biases by head; zeros where there are none."""
        return self.parts.inputs.biases()[2]

    @property
    def W_O(self) -> Float[Tensor, "head d_head d_model"]:
        """Output weights by head, as a view; a product where a LayerScale is folded in."""
        return self.parts.output_weight()

    @property
    def b_O(self) -> Float[Tensor, "d_model"]:
        """Output bias (LayerScale folded in)."""
        return self.parts.output_bias()

    def forward(
        self,
        queries: Float[Tensor, "batch query d_model"],
        context: Float[Tensor, "batch pos d_model"],
        rotation: Rotation | None = None,
        *,
        first: int = 0,
        pooling: Pooling | None = None,
    ) -> Attended:
        """Attention from `queries` to `context`.

        Args:
            queries: stream that asks; the same tensor as `context` for all positions.
            context: stream that answers.
            rotation: rotary positions of this layer.
            first: position of the first query.
            pooling: given if the sources of what pooling reads are wanted.
        """
        parts = self.parts
        q, k, v = parts.inputs(queries, context)
        q, k, v = self.hook_q(q), self.hook_k(k), self.hook_v(v)
        q = q if parts.q_norm is None else parts.q_norm(q)
        k = k if parts.k_norm is None else parts.k_norm(k)
        if rotation is not None:
            q, k = self.hook_rot_q(rotation(q, first)), self.hook_rot_k(rotation(k))
        sources = None
        # Dropout draws a pattern each time: only the one that the heads' outputs are made with tells their sources.
        must_keep_pattern = self._is_spelled_out() or parts.pattern_dropout() > 0
        if pooling is not None and pooling.token is not None and not must_keep_pattern:
            sources = Sources(self._pattern(pooling.keep(q), k), v.contiguous())
        spelled_out = self._is_spelled_out() or (pooling is not None and sources is None)
        mixed, pattern = self._mix(q, k, v, spelled_out)
        if pooling is not None and sources is None and pattern is not None:
            sources = Sources(pooling.keep(pattern), v.contiguous())
        z = self.hook_z.on_copy(parts.before_out(mixed, queries))
        if not self.hook_result.is_hooked:
            return Attended(parts.output(z), z, False, sources)
        result = self.hook_result(einsum(z, self.W_O, "batch pos head d, head d d_model -> batch pos head d_model"))
        b_o = self.b_O
        return Attended(result.sum(dim=2) + b_o, result + b_o / result.shape[2], True, sources)

    def _is_spelled_out(self) -> bool:
        return self.hook_attn_scores.is_hooked or self.hook_pattern.is_hooked or self._rounds_as_source()

    def _rounds_as_source(self) -> bool:
        """Whether to spell attention out in half precision because the source does."""
        return self.parts.out.weight.dtype in HALF and self.parts.is_eager()

    def _mix(
        self,
        q: Float[Tensor, "batch query head d_head"],
        k: Float[Tensor, "batch pos head d_head"],
        v: Float[Tensor, "batch pos head d_head"],
        spelled_out: bool,
    ) -> tuple[Float[Tensor, "batch query head d_head"], Float[Tensor, "batch query head pos"] | None]:
        dropout = self.parts.pattern_dropout()
        if not spelled_out:
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
            return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2), None
        pattern = self._pattern(q, k)
        dropped = F.dropout(pattern, dropout) if dropout else pattern
        mixed = einsum(dropped, v.to(dropped.dtype), "batch query head pos, batch pos head d -> batch query head d")
        return mixed.to(v.dtype), dropped

    def _pattern(
        self, q: Float[Tensor, "batch query head d_head"], k: Float[Tensor, "batch pos head d_head"]
    ) -> Float[Tensor, "batch query head pos"]:
        """Who attends to whom: in float32 or better, as fused attention has it inside, or in the source's own dtype."""
        dtype = k.dtype if self._rounds_as_source() else torch.promote_types(k.dtype, torch.float32)
        scale = q.shape[-1] ** -0.5
        q = (q * scale if self.parts.scales_queries else q).to(dtype)
        scores = einsum(q, k.to(dtype), "batch query head d, batch pos head d -> batch head query pos")
        scores = scores if self.parts.scales_queries else scores * scale
        pattern = self.hook_pattern.on_copy(torch.softmax(self.hook_attn_scores(scores), dim=-1))
        return rearrange(pattern, "batch head query pos -> batch query head pos")
