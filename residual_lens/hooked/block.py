"""One pre-norm transformer block and its MLP."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from residual_lens.hooked.attention import HookedAttention
from residual_lens.hooked.norm import HookedLayerNorm
from residual_lens.hooked.parts import BlockParts, MLPParts
from residual_lens.hooked.points import Point


class HookedMLP(nn.Module):
    """`output(activation(pre(x)))` with a look before and after the activation."""

    def __init__(self, parts: MLPParts) -> None:
        super().__init__()
        self.parts = parts
        self.hook_pre = Point()
        self.hook_post = Point()

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        pre = self.hook_pre(self.parts.pre(x))
        return self.parts.output(self.hook_post(self.parts.activation(pre)))


class BlockRun(NamedTuple):
    """What a block did: the stream before and after, and the terms it added."""

    resid_pre: Float[Tensor, "batch pos d_model"]
    resid_post: Float[Tensor, "batch kept d_model"]
    heads: Float[Tensor, "batch kept head d"]
    written: bool
    mlp_out: Float[Tensor, "batch kept d_model"]


class HookedBlock(nn.Module):
    """`x + attn(ln1(x))`, then `+ mlp(ln2(·))`."""

    def __init__(self, parts: BlockParts) -> None:
        super().__init__()
        self.hook_resid_pre = Point()
        self.ln1 = HookedLayerNorm(parts.ln1)
        self.attn = HookedAttention(parts.attention)
        self.hook_attn_out = Point()
        self.hook_resid_mid = Point()
        self.ln2 = HookedLayerNorm(parts.ln2)
        self.mlp = HookedMLP(parts.mlp)
        self.hook_mlp_out = Point()
        self.hook_resid_post = Point()
        self.hook_mlp_direct = Point()

    def forward(self, x: Float[Tensor, "batch pos d_model"], only: int | None = None) -> BlockRun:
        """The block at all positions, or, for a last block read at one token, at position `only` alone."""
        x = self.hook_resid_pre(x)
        normed = self.ln1(x)
        kept = slice(None) if only is None else slice(only, only + 1)
        attended = self.attn(normed if only is None else normed[:, kept], normed)
        mid = self.hook_resid_mid(x[:, kept] + self.hook_attn_out(attended.output))
        mlp_out = self.hook_mlp_out(self.mlp(self.ln2(mid)))
        return BlockRun(x, self.hook_resid_post(mid + mlp_out), attended.heads, attended.written, mlp_out)

    def is_token_hooked(self) -> bool:
        """Whether anything listens to this block's tokens (direct hook points see pooled terms only)."""
        direct = (self.attn.hook_direct, self.hook_mlp_direct)
        return any(point.is_hooked for point in self.modules() if isinstance(point, Point) and point not in direct)
