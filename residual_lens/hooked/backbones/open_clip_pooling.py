"""CoCa's attention pooling: one learned query attends to the tokens, then the final norm."""

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from open_clip.transformer import AttentionalPooler
from torch import Tensor

from residual_lens.decomposition import Center, Readout
from residual_lens.errors import UnsupportedModelError
from residual_lens.hooked.norm import HookedLayerNorm, NormParts
from residual_lens.hooked.points import Point
from residual_lens.hooked.pooling import Pooled, Pooling


class AttentionalPooling(Pooling):
    """The first query of an `AttentionalPooler`; a contribution flows linearly through its frozen pattern.

    With pattern `a`, token scales `σ_p` and final scale `σ`, a stream term `c` contributes
    `Σ_j (Σ_p a_jp c_p / (σ_p σ)) C diag(γ_k) W_V^j W_O^j C diag(γ) P` over pooling heads `j`, `C` being the centring.
    """

    def __init__(self, pooler: AttentionalPooler) -> None:
        self.pooler = pooler

    def check_center(self, center: Center) -> None:
        if center == "uniform":
            raise UnsupportedModelError(
                "center='uniform' is not defined for attention pooling (two norms in a row); use center='own'."
            )

    def keep(self, term: Float[Tensor, "batch pos *rest"]) -> Float[Tensor, "batch pos *rest"]:
        return term

    def vector(
        self, resid: Float[Tensor, "batch pos d_model"], norm: HookedLayerNorm, hook_pooled: Point
    ) -> Float[Tensor, "batch d_pool"]:
        tokens = self.pooler.ln_k(resid)
        query = self.pooler.ln_q(self.pooler.query)[:1].expand(len(tokens), -1, -1)
        return norm(hook_pooled(self.pooler.attn(query, tokens, tokens, need_weights=False)[0][:, 0]))

    def frozen(self, resid: Float[Tensor, "batch pos d_model"], norm: HookedLayerNorm, hook_pooled: Point) -> Pooled:
        normed = HookedLayerNorm(NormParts(self.pooler.ln_k)).with_statistics(resid)
        query = self.pooler.ln_q(self.pooler.query)[:1].expand(len(resid), -1, -1)
        pooled, pattern = self.pooler.attn(
            query, normed.output, normed.output, need_weights=True, average_attn_weights=False
        )
        final = norm.with_statistics(hook_pooled(pooled[:, 0]))
        weights = pattern[:, :, 0] / (normed.scale.mT * final.scale[:, None])
        return Pooled(final.output, weights, final.scale.reciprocal())

    def readout(
        self, pooled: Pooled, norm: HookedLayerNorm, projection: Float[Tensor, "d_pool d_out"], center: Center
    ) -> Readout:
        maps, rows = self.constant_part(norm, projection, center)
        constants = torch.cat([pooled.factor, torch.ones_like(pooled.factor)], dim=-1)
        return Readout(center, pooled.weights.to(maps.dtype), maps, constants.to(maps.dtype), rows)

    def constant_part(
        self, norm: HookedLayerNorm, projection: Float[Tensor, "d_pool d_out"], center: Center
    ) -> tuple[Float[Tensor, "route d_model d_out"], Float[Tensor, "constant d_out"]]:
        self.check_center(center)
        (after,), (offset,) = super().constant_part(norm, projection, center)
        attention, inner = self.pooler.attn, self.pooler.ln_k
        output, heads = attention.out_proj, attention.num_heads
        parts = (inner.weight, inner.bias, self._value_weight(), attention.in_proj_bias, output.weight, output.bias)
        gain, shift, values, in_bias, out, out_bias = (part.to(projection.dtype) for part in parts)
        w_v = rearrange(values, "(route d) d_model -> route d d_model", route=heads)
        w_o = rearrange(out, "d_pool (route d) -> route d d_pool", route=heads)
        through = einsum(w_v, w_o, after, "route d m, route d d_pool, d_pool d_out -> route m d_out")
        constant = ((shift @ values.mT + in_bias.chunk(3)[2]) @ out.mT + out_bias) @ after
        maps = gain[:, None] * through
        return maps - maps.mean(dim=1, keepdim=True), torch.stack([constant, offset])

    def _value_weight(self) -> Float[Tensor, "d_pool d_model"]:
        """`W_V`, which torch keeps with `W_Q` and `W_K` where pooler and stream are equally wide."""
        attention = self.pooler.attn
        return attention.v_proj_weight if attention.in_proj_weight is None else attention.in_proj_weight.chunk(3)[2]
