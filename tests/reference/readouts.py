"""Obvious twin of pooling, final norm and projection, frozen: how one stream term reaches the embedding, in float64.

Every function here takes the whole stream to freeze at, and gives a linear map of terms, a constant and (where the
pooling has an MLP) what that adds. Nothing of residual_lens is used.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tests.reference.streams import Affine, Stream, itself


@dataclass(frozen=True)
class Frozen:
    """A readout with all statistics frozen."""

    of_term: Callable[[Tensor], Tensor]
    """`[batch pos d_model]` to `[batch d_out]`, linear."""
    constant: Tensor
    """`[batch d_out]`: what adds besides the stream."""
    pool_mlp: Tensor | None = None
    """`[batch d_out]`: what the pooling's MLP adds."""


@dataclass(frozen=True)
class Projection:
    """What follows pooling and norm."""

    matrix: Tensor
    bias: Tensor | float = 0.0


@dataclass(frozen=True)
class PoolAttention:
    """A learned query that attends to tokens, and the MLP behind it."""

    query: Tensor
    """`[head d_head]`, projected and normalised."""
    k: Affine
    v: Affine
    out: Affine
    k_norm: Callable[[Tensor], Tensor] = itself
    mlp: Callable[[Tensor], Tensor] | None = None
    """From the attended vector to what the MLP adds."""
    first: int = 0
    """Tokens before this position are left out."""


class FrozenNorm:
    """A LayerNorm or RMSNorm with the scale it had at `x`."""

    def __init__(self, norm: nn.Module, x: Tensor) -> None:
        self.centred = isinstance(norm, nn.LayerNorm)
        self.gain = 1.0 if norm.weight is None else norm.weight
        bias = getattr(norm, "bias", None)
        self.offset = torch.zeros(x.shape[-1], dtype=x.dtype) if bias is None else bias
        self.mean = x.mean(dim=-1, keepdim=True) if self.centred else torch.zeros_like(x[..., :1])
        self.scale = ((x - self.mean).square().mean(dim=-1, keepdim=True) + norm.eps).sqrt()

    def of_term(self, term: Tensor) -> Tensor:
        """Without the offset: `γ (c − mean(c)) / σ`, or `γ c / σ`."""
        centred = term - term.mean(dim=-1, keepdim=True) if self.centred else term
        return centred * self.gain / self.scale

    def uncentred(self, term: Tensor) -> Tensor:
        return term * self.gain / self.scale

    def constant(self) -> Tensor:
        """What "uniform" shares out: `β − γ m / σ`."""
        return self.offset - self.mean * self.gain / self.scale


def token_readout(norm: nn.Module, x: Tensor, projection: Projection) -> Frozen:
    return pooled_then_normed(norm, x, projection, lambda term: term[:, 0])


def pooled_then_normed(norm: nn.Module, x: Tensor, projection: Projection, pool: Callable[[Tensor], Tensor]) -> Frozen:
    frozen = FrozenNorm(norm, pool(x))
    constant = (frozen.offset @ projection.matrix + projection.bias).expand(len(x), -1)
    return Frozen(lambda term: frozen.of_term(pool(term)) @ projection.matrix, constant)


def mean_of_normed(norm: nn.Module, x: Tensor, projection: Projection, first: int) -> Frozen:
    frozen = FrozenNorm(norm, x)
    constant = (frozen.offset @ projection.matrix + projection.bias).expand(len(x), -1)
    return Frozen(lambda term: frozen.of_term(term)[:, first:].mean(dim=1) @ projection.matrix, constant)


def attention_readout(norm: nn.Module, x: Tensor, projection: Projection, pool: PoolAttention) -> Frozen:
    """Norm of tokens, then attention, its output projection, and the MLP on top."""
    frozen = FrozenNorm(norm, x)
    tokens = norm(x)[:, pool.first :]
    patterns = pool_patterns(pool, tokens)
    weight, bias = pool.out

    def gathered(values: Tensor) -> Tensor:
        """From what the tokens of the pooling are to what `W_O` writes, without biases."""
        return sum_over_heads(pool, patterns, values)

    constant = gathered(frozen.offset.expand_as(tokens)) + pool.v[1] @ weight.T + bias
    attended = gathered(tokens) + pool.v[1] @ weight.T + bias
    return Frozen(
        lambda term: gathered(frozen.of_term(term)[:, pool.first :]) @ projection.matrix,
        constant @ projection.matrix + projection.bias,
        None if pool.mlp is None else pool.mlp(attended) @ projection.matrix,
    )


def pool_patterns(pool: PoolAttention, tokens: Tensor) -> list[Tensor]:
    d_head = pool.query.shape[1]
    patterns = []
    for head, query in enumerate(pool.query):
        rows = slice(head * d_head, (head + 1) * d_head)
        k = pool.k_norm(tokens @ pool.k[0][rows].T + pool.k[1][rows])
        patterns.append(torch.softmax(k @ query / d_head**0.5, dim=-1))
    return patterns


def sum_over_heads(pool: PoolAttention, patterns: list[Tensor], values: Tensor) -> Tensor:
    d_head = pool.query.shape[1]
    out = 0
    for head, pattern in enumerate(patterns):
        rows = slice(head * d_head, (head + 1) * d_head)
        mixed = (pattern[..., None] * (values @ pool.v[0][rows].T)).sum(dim=1)
        out = out + mixed @ pool.out[0][:, rows].T
    return out


def units_of(stream: Stream, frozen: Frozen) -> dict[str, Tensor]:
    """Direct contributions by unit, centring "own"."""
    units = {name: frozen.of_term(term) for name, term in stream.terms.items()}
    if frozen.pool_mlp is not None:
        units["pool_mlp_out"] = frozen.pool_mlp
    return units | {"bias": frozen.constant}


def by_token(stream: Stream, frozen: Frozen, name: str) -> Tensor:
    """Contributions `[batch pos d_out]` of one head by source token: the term with all other tokens left out."""
    pattern, written = stream.patterns[name], stream.written[name]
    parts = [frozen.of_term(pattern[:, :, q, None] * written[:, None, q]) for q in range(written.shape[1])]
    return torch.stack(parts, dim=1)
