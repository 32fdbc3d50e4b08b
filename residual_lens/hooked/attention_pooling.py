"""Pooling by attention: a learned query attends to the tokens (MAP of SigLIP and others, CoCa's pooler)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from residual_lens.decomposition import Center
from residual_lens.errors import UnsupportedModelError
from residual_lens.hooked.mlp import HookedMLP
from residual_lens.hooked.norm import HookedNorm, Normed
from residual_lens.hooked.parts.mlp import MLPParts
from residual_lens.hooked.parts.norm import NormParts
from residual_lens.hooked.parts.reference import bias_of
from residual_lens.hooked.points import Point
from residual_lens.hooked.pooling import Pooled, Pooling, centred_rows, through_norm


class PoolAttention(ABC):
    """The attention of a pooling, by reference."""

    out: nn.Linear
    """Output projection."""

    @abstractmethod
    def attend(self, tokens: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch d_pool"]:
        """The pooled vector as the source computes it, output projection included."""

    @abstractmethod
    def query(self) -> Float[Tensor, "route d_head"]:
        """The learned query, projected."""

    @abstractmethod
    def keys_and_values(
        self, tokens: Float[Tensor, "batch pos d_model"]
    ) -> tuple[Float[Tensor, "batch pos route d_head"], Float[Tensor, "batch pos route d_head"]]:
        """Keys and values of the tokens."""

    @abstractmethod
    def value_map(self) -> tuple[Float[Tensor, "route d_model d_head"], Float[Tensor, "route d_head"]]:
        """`W_V` and `b_V` by head."""


@dataclass(frozen=True)
class TorchPoolAttention(PoolAttention):
    """`nn.MultiheadAttention` with a query of its own."""

    attention: nn.MultiheadAttention
    """The module; keys and values may be of another width than queries."""
    probe: nn.Module
    """Owner of the query."""
    name: str
    """Its attribute there; the first of several queries is used."""
    norm: nn.Module | None = None
    """Norm of the query."""
    need_weights: bool = False
    """Which of torch's two ways the source takes; they round differently in half precision."""

    @property
    def out(self) -> nn.Linear:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.attention.out_proj

    def attend(self, tokens: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch d_pool"]:
        # Repeated or expanded as in the source: torch multiplies the two in ways that round differently.
        probes = self._probes()
        query = probes.repeat(len(tokens), 1, 1) if self.need_weights else probes.expand(len(tokens), -1, -1)
        return self.attention(query, tokens, tokens, need_weights=self.need_weights)[0][:, 0]

    def query(self) -> Float[Tensor, "route d_head"]:
        weight, bias = self._part(0)
        query = F.linear(self._probes()[:1], weight, bias)
        return rearrange(query, "1 (route d) -> route d", route=self.attention.num_heads)

    def _probes(self) -> Float[Tensor, "query d_query"]:
        probes = getattr(self.probe, self.name)
        probes = probes.reshape(-1, probes.shape[-1])
        return probes if self.norm is None else self.norm(probes)

    def keys_and_values(
        self, tokens: Float[Tensor, "batch pos d_model"]
    ) -> tuple[Float[Tensor, "batch pos route d_head"], Float[Tensor, "batch pos route d_head"]]:
        k, v = (F.linear(tokens, *self._part(part)) for part in (1, 2))
        split = "batch pos (route d) -> batch pos route d"
        return rearrange(k, split, route=self.attention.num_heads), rearrange(v, split, route=self.attention.num_heads)

    def value_map(self) -> tuple[Float[Tensor, "route d_model d_head"], Float[Tensor, "route d_head"]]:
        weight, bias = self._part(2)
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        routes = self.attention.num_heads
        return rearrange(weight, "(route d) m -> route m d", route=routes), bias.reshape(routes, -1)

    def _part(self, part: int) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of queries (0), keys (1), values (2); torch keeps them apart where widths differ."""
        attention = self.attention
        if attention.in_proj_weight is None:
            weight = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)[part]
        else:
            weight = attention.in_proj_weight.chunk(3)[part]
        return weight, None if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)[part]


class AttentionPooling(Pooling):
    """A learned query attends to the tokens; a contribution flows linearly through the frozen pattern.

    With pattern `a` and token scales `σ_p`, a stream term `c` contributes
    `Σ_j (Σ_p a_jp c_p / σ_p) C diag(γ) W_V^j W_O^j P` over pooling heads `j`, `C` being the centring. A norm behind the
    pooling (CoCa) puts `/ σ` and `C diag(γ')` before `P`. The pooling's own MLP adds `mlp(norm(p))` to the pooled
    vector `p`, which is a unit of its own.
    """

    def __init__(
        self,
        attention: PoolAttention,
        *,
        tokens_norm: NormParts | None = None,
        mlp_norm: NormParts | None = None,
        mlp: MLPParts | None = None,
        first: int = 0,
    ) -> None:
        """Around borrowed parts.

        Args:
            attention: keys, values, query, output projection.
            tokens_norm: norm of the tokens, if that is not the model's final norm, which then follows the pooling.
            mlp_norm: norm before the MLP.
            mlp: the MLP that adds to the pooled vector.
            first: tokens before this position are left out.
        """
        super().__init__()
        self.attention = attention
        self.first = first
        self.has_mlp = mlp is not None
        self.hook_pattern = Point()
        self.ln_tokens = None if tokens_norm is None else HookedNorm(tokens_norm)
        if mlp is not None:
            self.ln_mlp = nn.Identity() if mlp_norm is None else HookedNorm(mlp_norm)
            self.mlp = HookedMLP(mlp)
            self.hook_mlp_out = Point()
            self.hook_mlp_direct = Point()

    def describe(self) -> str:
        return "attention + MLP" if self.has_mlp else "attention"

    def width(self, norm: NormParts) -> int:
        return self.attention.out.out_features

    def check_center(self, center: Center) -> None:
        if center == "uniform":
            raise UnsupportedModelError(
                "center='uniform' is not defined for attention pooling: what the pooling's biases add is no share of "
                "one final norm. Use center='own'."
            )

    def keep(self, term: Float[Tensor, "batch pos *rest"]) -> Float[Tensor, "batch kept *rest"]:
        return term[:, self.first :]

    def vector(
        self, resid: Float[Tensor, "batch pos d_model"], norm: HookedNorm, hook_pooled: Point
    ) -> Float[Tensor, "batch d_pool"]:
        tokens = (self.ln_tokens or norm)(resid)[:, self.first :]
        attended = self._spelled_out(tokens)[0] if self.hook_pattern.is_hooked else self.attention.attend(tokens)
        pooled = hook_pooled(self._with_mlp(attended)[0])
        return pooled if self.ln_tokens is None else norm(pooled)

    def frozen(self, resid: Float[Tensor, "batch pos d_model"], norm: HookedNorm, hook_pooled: Point) -> Pooled:
        normed: Normed = (self.ln_tokens or norm).with_statistics(resid)
        tokens = normed.output[:, self.first :]
        attended, pattern = self._spelled_out(tokens)
        if not self.hook_pattern.is_hooked:
            attended = self.attention.attend(tokens)
        pooled, mlp_out = self._with_mlp(attended)
        pooled = hook_pooled(pooled)
        weights = pattern / normed.scale[:, self.first :].mT
        # One each, unless a hook edits the pattern.
        gathered = pattern.sum(dim=-1)
        if self.ln_tokens is None:
            return Pooled(pooled, weights, gathered, mlp_out)
        final = norm.with_statistics(pooled)
        factors = torch.cat([gathered, torch.ones_like(gathered[:, :1])], dim=-1) / final.scale
        return Pooled(final.output, weights / final.scale[:, None], factors, mlp_out)

    def _spelled_out(
        self, tokens: Float[Tensor, "batch pos d_model"]
    ) -> tuple[Float[Tensor, "batch d_pool"], Float[Tensor, "batch route pos"]]:
        """The pooled vector, and the pattern (in float32 or better) that the tokens are gathered with."""
        k, v = self.attention.keys_and_values(tokens)
        wide = torch.promote_types(k.dtype, torch.float32)
        query = self.attention.query().to(wide) * k.shape[-1] ** -0.5
        scores = einsum(query, k.to(wide), "route d, batch pos route d -> batch route pos")
        pattern = self.hook_pattern.on_copy(torch.softmax(scores, dim=-1))
        gathered = einsum(pattern, v.to(pattern.dtype), "batch route pos, batch pos route d -> batch route d")
        return self.attention.out(gathered.to(v.dtype).flatten(1)), pattern

    def _with_mlp(
        self, attended: Float[Tensor, "batch d_pool"]
    ) -> tuple[Float[Tensor, "batch d_pool"], Float[Tensor, "batch d_pool"] | None]:
        if not self.has_mlp:
            return attended, None
        mlp_out = self.hook_mlp_out(self.mlp(self.ln_mlp(attended)))
        return attended + mlp_out, mlp_out

    def constant_part(
        self,
        norm: NormParts,
        projection: Float[Tensor, "d_pool d_out"],
        bias: Float[Tensor, "d_out"] | None,
        center: Center,
    ) -> tuple[Float[Tensor, "route d_model d_out"], Float[Tensor, "constant d_out"]]:
        self.check_center(center)
        inner = norm if self.ln_tokens is None else self.ln_tokens.parts
        after, rest = projection, bias
        if self.ln_tokens is not None:
            after, rest = through_norm(norm, projection, bias)
            after = centred_rows(after) if norm.centred else after
        dtype, out = projection.dtype, self.attention.out
        w_v, b_v = (part.to(dtype) for part in self.attention.value_map())
        w_o = rearrange(out.weight.to(dtype), "d_pool (route d) -> route d d_pool", route=len(w_v))
        by_head = einsum(w_o, after, "route d d_pool, d_pool d_out -> route d d_out")
        gain, offset = (None if x is None else x.to(dtype) for x in (inner.gain, inner.offset))
        value_bias = b_v if offset is None else b_v + einsum(offset, w_v, "m, route m d -> route d")
        gathered = einsum(value_bias, by_head, "route d, route d d_out -> route d_out")
        added = (bias_of(out).to(dtype) @ after)[None]
        rest = torch.zeros_like(added) if rest is None else rest[None]
        maps = einsum(w_v, by_head, "route m d, route d d_out -> route m d_out")
        maps = maps if gain is None else gain[:, None] * maps
        maps = centred_rows(maps) if inner.centred else maps
        last = added + rest if self.ln_tokens is None else torch.cat([added, rest])
        return maps, torch.cat([gathered, last])
