"""One pre-norm transformer block and its MLP."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from residual_lens.hooked.attention import Attended, HookedAttention
from residual_lens.hooked.mlp import HookedMLP
from residual_lens.hooked.norm import HookedNorm
from residual_lens.hooked.parts.rotary import Rotation
from residual_lens.hooked.parts.vit import BlockParts
from residual_lens.hooked.points import Point
from residual_lens.hooked.pooling import Pooling


class BlockRun(NamedTuple):
    """What a block did: the stream on its way, before hooks at the sums, and the terms that were added."""

    resid_pre: Float[Tensor, "batch kept d_model"]
    attended: Attended
    attn_out: Float[Tensor, "batch kept d_model"]
    mid_sum: Float[Tensor, "batch kept d_model"]
    resid_mid: Float[Tensor, "batch kept d_model"]
    mlp_out: Float[Tensor, "batch kept d_model"]
    post_sum: Float[Tensor, "batch kept d_model"]
    resid_post: Float[Tensor, "batch kept d_model"]


class HookedBlock(nn.Module):
    """`x + attn(ln1(x))`, then `+ mlp(ln2(·))`."""

    def __init__(self, parts: BlockParts, *, has_rotary: bool) -> None:
        super().__init__()
        self.hook_resid_pre = Point()
        self.ln1 = HookedNorm(parts.ln1)
        self.attn = HookedAttention(parts.attention, has_rotary=has_rotary)
        self.hook_attn_out = Point()
        self.hook_resid_mid = Point()
        self.ln2 = HookedNorm(parts.ln2)
        self.mlp = HookedMLP(parts.mlp)
        self.hook_mlp_out = Point()
        self.hook_resid_post = Point()
        self.hook_mlp_direct = Point()

    def forward(
        self,
        x: Float[Tensor, "batch pos d_model"],
        rotation: Rotation | None = None,
        *,
        only: int | None = None,
        pooling: Pooling | None = None,
    ) -> BlockRun:
        """The block.

        Args:
            x: the stream.
            rotation: rotary positions of this layer.
            only: run for this position alone, in a last block that is read at one token.
            pooling: given if the sources of what pooling reads are wanted.
        """
        x = self.hook_resid_pre(x)
        normed = self.ln1(x)
        first = only or 0
        kept = slice(None) if only is None else slice(only, only + 1)
        attended = self.attn(
            normed if only is None else normed[:, kept], normed, rotation, first=first, pooling=pooling
        )
        x = x[:, kept]
        attn_out = self.hook_attn_out(attended.output)
        mid_sum = x + attn_out
        mid = self.hook_resid_mid(mid_sum)
        mlp_out = self.hook_mlp_out(self.mlp(self.ln2(mid)))
        post_sum = mid + mlp_out
        return BlockRun(x, attended, attn_out, mid_sum, mid, mlp_out, post_sum, self.hook_resid_post(post_sum))

    def is_token_hooked(self) -> bool:
        """Whether anything listens to this block's tokens (direct hook points see pooled terms only)."""
        direct = (self.attn.hook_direct, self.hook_mlp_direct)
        return any(point.is_hooked for point in self.modules() if isinstance(point, Point) and point not in direct)
