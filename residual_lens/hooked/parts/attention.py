"""Self-attention of one block, by reference: projections in, what stands around them, projection out."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from residual_lens.hooked.parts.reference import Ref, bias_of

HALF = (torch.float16, torch.bfloat16)
"""Half precision, in which the order of operations shows."""

QKV = tuple[
    Float[Tensor, "batch query head d_head"],
    Float[Tensor, "batch pos head d_head"],
    Float[Tensor, "batch pos head d_head"],
]
Weights = tuple[
    Float[Tensor, "head d_model d_head"], Float[Tensor, "head d_model d_head"], Float[Tensor, "head d_model d_head"]
]
Biases = tuple[Float[Tensor, "head d_head"], Float[Tensor, "head d_head"], Float[Tensor, "head d_head"]]


class InputProjections(ABC):
    """From the normalised stream to queries, keys and values."""

    @abstractmethod
    def __call__(
        self, queries: Float[Tensor, "batch query d_model"], context: Float[Tensor, "batch pos d_model"]
    ) -> QKV:
        """Queries, keys and values; `queries is context` for all positions in one product."""

    @abstractmethod
    def weights(self) -> Weights:
        """`W_Q`, `W_K`, `W_V` as views."""

    @abstractmethod
    def biases(self) -> Biases:
        """`b_Q`, `b_K`, `b_V`; zeros where there is none."""


@dataclass(frozen=True)
class JoinedBias:
    """One bias out of three parameters."""

    parts: tuple[Ref, Ref, Ref]
    """Biases of queries, keys and values."""

    def __call__(self) -> Float[Tensor, "d"] | None:
        q, k, v = (part() for part in self.parts)
        return None if q is None else torch.cat([q, k, v])


@dataclass(frozen=True)
class FusedProjections(InputProjections):
    """One matrix for queries, keys and values, in this order, each by head."""

    weight: Ref
    """`[3 · head · d_head, d_model]`."""
    bias: Callable[[], Tensor | None]
    """`[3 · head · d_head]`, or `None`."""
    n_heads: int
    """Heads."""

    def __call__(
        self, queries: Float[Tensor, "batch query d_model"], context: Float[Tensor, "batch pos d_model"]
    ) -> QKV:
        weight, bias = self.weight(), self.bias()
        if queries is context:
            q, k, v = self._heads(F.linear(context, weight, bias), 3)
            return q, k, v
        width = len(weight) // 3
        (q,) = self._heads(F.linear(queries, weight[:width], None if bias is None else bias[:width]), 1)
        k, v = self._heads(F.linear(context, weight[width:], None if bias is None else bias[width:]), 2)
        return q, k, v

    def _heads(self, x: Float[Tensor, "batch pos d"], parts: int) -> tuple[Float[Tensor, "batch pos head d_head"], ...]:
        by_head = rearrange(x, "batch pos (part head d) -> batch pos part head d", part=parts, head=self.n_heads)
        # Slices, not unbind: autograd lets hooks write into slices in place.
        return tuple(by_head[:, :, part] for part in range(parts))

    def weights(self) -> Weights:
        w_q, w_k, w_v = rearrange(
            self.weight(), "(part head d) d_model -> part head d_model d", part=3, head=self.n_heads
        )
        return w_q, w_k, w_v

    def biases(self) -> Biases:
        bias = self.bias()
        bias = self.weight().new_zeros(len(self.weight())) if bias is None else bias
        b_q, b_k, b_v = rearrange(bias, "(part head d) -> part head d", part=3, head=self.n_heads)
        return b_q, b_k, b_v


@dataclass(frozen=True)
class SeparateProjections(InputProjections):
    """A linear layer each for queries, keys and values."""

    q: nn.Linear
    """Queries."""
    k: nn.Linear
    """Keys."""
    v: nn.Linear
    """Values."""
    n_heads: int
    """Heads of the queries; keys and values may have fewer, each serving a group of neighbouring query heads."""

    def __call__(
        self, queries: Float[Tensor, "batch query d_model"], context: Float[Tensor, "batch pos d_model"]
    ) -> QKV:
        q = rearrange(self.q(queries), "batch pos (head d) -> batch pos head d", head=self.n_heads)
        k, v = (
            rearrange(layer(context), "batch pos (head d) -> batch pos head d", d=q.shape[-1])
            for layer in (self.k, self.v)
        )
        return q, self._for_every_head(k, 2), self._for_every_head(v, 2)

    def weights(self) -> Weights:
        d_head = self.q.out_features // self.n_heads
        w_q, w_k, w_v = (
            self._for_every_head(rearrange(layer.weight, "(head d) d_model -> head d_model d", d=d_head), 0)
            for layer in (self.q, self.k, self.v)
        )
        return w_q, w_k, w_v

    def biases(self) -> Biases:
        d_head = self.q.out_features // self.n_heads
        b_q, b_k, b_v = (
            self._for_every_head(rearrange(bias_of(layer), "(head d) -> head d", d=d_head), 0)
            for layer in (self.q, self.k, self.v)
        )
        return b_q, b_k, b_v

    def _for_every_head(self, x: Float[Tensor, "*shape"], dim: int) -> Float[Tensor, "*repeated"]:
        """Heads that serve a group, once for every member; the tensor itself where all heads have their own."""
        return x if x.shape[dim] == self.n_heads else x.repeat_interleave(self.n_heads // x.shape[dim], dim=dim)


@dataclass(frozen=True)
class AttentionParts:
    """Self-attention of one block: `gain ⊙ drops(out(gate ⊙ inner_norm(z)))`.

    What the hook point `hook_z` sees is the input of `out`, so that a head's output is linear in it.
    """

    module: nn.Module
    """The attention module, whose mode says whether dropout is in force."""
    inputs: InputProjections
    """Queries, keys, values."""
    out: nn.Linear
    """Output projection."""
    n_heads: int
    """Heads."""
    dropout: Ref
    """Dropout rate on the pattern in train mode."""
    gain: Ref | None = None
    """LayerScale's factors."""
    drops: tuple[nn.Module, ...] = ()
    """Dropout and stochastic depth behind the output projection."""
    q_norm: nn.Module | None = None
    """Norm of each head's queries."""
    k_norm: nn.Module | None = None
    """Norm of each head's keys."""
    inner_norm: nn.Module | None = None
    """Norm of all heads' outputs together, before the output projection."""
    eager: bool = False
    """Whether the source spells attention out in its own dtype, which in half precision gives other numbers."""
    scales_queries: bool = False
    """Whether it then scales queries instead of scores."""
    gate: nn.Linear | None = None
    """Gate (behind a sigmoid) on the heads' outputs, computed from the block's input."""

    def before_out(
        self, z: Float[Tensor, "batch pos head d_head"], queries: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos head d_head"]:
        """What the output projection is given of the mixed values."""
        if self.inner_norm is None and self.gate is None:
            return z
        flat = rearrange(z, "batch pos head d -> batch pos (head d)")
        flat = flat if self.inner_norm is None else self.inner_norm(flat)
        flat = flat if self.gate is None else flat * self.gate(queries).sigmoid()
        return rearrange(flat, "batch pos (head d) -> batch pos head d", head=self.n_heads)

    def is_eager(self) -> bool:
        """Whether the source spells attention out at this moment."""
        return self.eager

    def project(self, z: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos d_model"]:
        """Output projection and its bias."""
        return self.out(rearrange(z, "batch pos head d -> batch pos (head d)"))

    def output(self, z: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos d_model"]:
        """What attention writes into the stream: output projection, its bias, LayerScale."""
        return scaled_and_dropped(self.project(z), self.gain, self.drops)

    def output_weight(self) -> Float[Tensor, "head d_head d_model"]:
        """`W_O` by head, LayerScale folded in."""
        weight = rearrange(self.out.weight, "m (head d) -> head d m", head=self.n_heads)
        return weight if self.gain is None else weight * self.gain()

    def output_bias(self) -> Float[Tensor, "d_model"]:
        """`b_O`, LayerScale folded in."""
        bias = bias_of(self.out)
        return bias if self.gain is None else bias * self.gain()

    def pattern_dropout(self) -> float:
        """Dropout on the pattern in force at this moment (0 in eval mode)."""
        return float(self.dropout()) if self.module.training else 0.0


def scaled_and_dropped(
    x: Float[Tensor, "*batch d_model"], gain: Ref | None, drops: tuple[nn.Module, ...]
) -> Float[Tensor, "*batch d_model"]:
    """Dropout, LayerScale, stochastic depth: in the sources' order, because half precision rounds in between."""
    for drop in drops:
        x = drop(x) if isinstance(drop, nn.Dropout) else x
    x = x if gain is None else x * gain()
    for drop in drops:
        x = x if isinstance(drop, nn.Dropout) else drop(x)
    return x
