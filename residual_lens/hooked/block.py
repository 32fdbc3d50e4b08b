"""One pre-norm transformer block and its MLP."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from residual_lens.hooked.attention import HookedAttention
from residual_lens.hooked.mlp import HookedMLP
from residual_lens.hooked.norm import HookedNorm
from residual_lens.hooked.parts.rotary import Rotation
from residual_lens.hooked.parts.vit import BlockParts
from residual_lens.hooked.points import Point
from residual_lens.hooked.recording import BlockTerms, Recorder


class BlockRun(NamedTuple):
    """What a block did."""

    resid_post: Float[Tensor, "batch kept d_model"]
    """The stream behind it."""
    terms: BlockTerms | None
    """What was added to it, where there is a recorder."""


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
        recorder: Recorder | None = None,
    ) -> BlockRun:
        """The block.

        Args:
            x: the stream.
            rotation: rotary positions of this layer.
            only: run for this position alone, in a last block that is read at one token.
            recorder: cuts out the terms that the block adds.
        """
        x = self.hook_resid_pre(x)
        normed = self.ln1(x)
        kept = slice(None) if only is None else slice(only, only + 1)
        pooling = recorder.pool if recorder is not None and recorder.tokens else None
        queries = normed if only is None else normed[:, kept]
        attended = self.attn(queries, normed, rotation, first=only or 0, pooling=pooling)
        x = x[:, kept]
        attn_out = self.hook_attn_out(attended.output)
        total = x + attn_out
        of_heads = None if recorder is None else recorder.of_attention(x, attended, attn_out, total)
        # What attention needed must not lie in memory beside the MLP, which needs the most.
        del x, normed, queries, attended, attn_out
        mid = self.hook_resid_mid(total)
        mlp_out = self.hook_mlp_out(self.mlp(self.ln2(mid)))
        total = mid + mlp_out
        terms = None
        if recorder is not None and of_heads is not None:
            terms = BlockTerms(of_heads, recorder.of_mlp(mid, mlp_out, total))
        return BlockRun(self.hook_resid_post(total), terms)

    def is_token_hooked(self) -> bool:
        """Whether anything listens to this block's tokens (direct hook points see pooled terms only)."""
        direct = (self.attn.hook_direct, self.hook_mlp_direct)
        return any(point.is_hooked for point in self.modules() if isinstance(point, Point) and point not in direct)
