"""Obvious twin of the blocks of any source: float64, one head at a time, from plain tensors.

Nothing of residual_lens is used. `tests.reference.sources` reads the tensors from a model's own parameters.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Affine = tuple[Tensor, Tensor]
"""`[out in]` and `[out]`, as in `nn.Linear`."""


def itself(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Block:
    """What one pre-norm block is made of."""

    ln1: Callable[[Tensor], Tensor]
    ln2: Callable[[Tensor], Tensor]
    q: Affine
    k: Affine
    v: Affine
    out: Affine
    mlp: Callable[[Tensor], Tensor]
    n_heads: int
    q_norm: Callable[[Tensor], Tensor] = itself
    k_norm: Callable[[Tensor], Tensor] = itself
    rotate: Callable[[Tensor, int], Tensor] | None = None
    """Queries or keys `[batch pos d_head]` of a head, turned."""
    gains: tuple[Tensor | float, Tensor | float] = (1.0, 1.0)
    """LayerScale of attention and MLP."""


@dataclass
class Stream:
    """Everything that was written, by unit."""

    x: Tensor
    """The stream behind the last block, `[batch pos d_model]`."""
    terms: dict[str, Tensor] = field(default_factory=dict)
    """`[batch pos d_model]`; they sum to `x`."""
    patterns: dict[str, Tensor] = field(default_factory=dict)
    """By head: `[batch query pos]`."""
    values: dict[str, Tensor] = field(default_factory=dict)
    """By head: `[batch pos d_head]`."""
    written: dict[str, Tensor] = field(default_factory=dict)
    """By head: `v W_O + b_O / heads` of each source token, LayerScale included: `[batch pos d_model]`."""


def run_blocks(blocks: Sequence[Block], x: Tensor) -> Stream:
    stream = Stream(x, {"embed": x})
    for layer, block in enumerate(blocks):
        normed = block.ln1(stream.x)
        for head in range(block.n_heads):
            run_head(stream, block, normed, f"L{layer}H{head}", head)
        term = block.mlp(block.ln2(stream.x)) * block.gains[1]
        stream.terms[f"{layer}_mlp_out"] = term
        stream.x = stream.x + term
    return stream


def run_head(stream: Stream, block: Block, normed: Tensor, name: str, head: int) -> None:
    d_head = len(block.q[0]) // block.n_heads
    served = block.n_heads * d_head // len(block.k[0])
    q = block.q_norm(rows_of(block.q, normed, head, d_head))
    k = block.k_norm(rows_of(block.k, normed, head // served, d_head))
    v = rows_of(block.v, normed, head // served, d_head)
    if block.rotate is not None:
        q, k = block.rotate(q, head), block.rotate(k, head)
    pattern = torch.softmax(q @ k.transpose(1, 2) / d_head**0.5, dim=-1)
    weight, bias = block.out
    columns = slice(head * d_head, (head + 1) * d_head)
    written = (v @ weight[:, columns].T + bias / block.n_heads) * block.gains[0]
    stream.patterns[name], stream.values[name], stream.written[name] = pattern, v, written
    stream.terms[name] = pattern @ written
    stream.x = stream.x + stream.terms[name]


def rows_of(affine: Affine, x: Tensor, head: int, d_head: int) -> Tensor:
    rows = slice(head * d_head, (head + 1) * d_head)
    return x @ affine[0][rows].T + affine[1][rows]


def turned(x: Tensor, sin: Tensor, cos: Tensor, *, prefix: int, halves: bool) -> Tensor:
    """Rotary positions, one pair of coordinates at a time.

    Args:
        x: `[batch pos d_head]`.
        sin: `[patch d_head]`, of the angle by which each coordinate turns.
        cos: likewise.
        prefix: tokens at the front that have no position.
        halves: whether coordinate i turns with i + d_head/2, else with its neighbour.
    """
    out, width = x.clone(), x.shape[-1]
    for i in range(width // 2):
        a, b = (i, i + width // 2) if halves else (2 * i, 2 * i + 1)
        xa, xb = x[:, prefix:, a], x[:, prefix:, b]
        out[:, prefix:, a] = xa * cos[:, a] - xb * sin[:, a]
        out[:, prefix:, b] = xb * cos[:, b] + xa * sin[:, b]
    return out
