"""Terms of the stream, kept while the blocks run."""

import torch
from jaxtyping import Float
from torch import Tensor

from residual_lens.hooked.attention import Sources
from residual_lens.hooked.block import BlockRun
from residual_lens.hooked.pooling import Pooling


class TermRecord:
    """Every unit's term at the positions that pooling keeps.

    A stream of half precision rounds each sum. Its units' terms are what the sums really gained, taken apart in
    float32, so that they add up to the stream as it is.
    """

    def __init__(self, pool: Pooling, wide: torch.dtype | None) -> None:
        """Start a record.

        Args:
            pool: says which positions are kept.
            wide: what to take sums apart in, for a stream of half precision; `None` if the terms will do.
        """
        self.pool = pool
        self.wide = wide
        self.embed: Tensor
        self.heads: list[Tensor] = []
        self.written: list[bool] = []
        self.mlps: list[Tensor] = []
        self.attn_outs: list[Tensor] = []
        self.sources: list[Sources | None] = []

    def add(self, run: BlockRun) -> None:
        """Keep what a block added."""
        keep = self.pool.keep
        if not self.heads:
            self.embed = keep(run.resid_pre if self.wide is None else run.resid_pre.to(self.wide))
        self.heads.append(keep(run.attended.heads if self.wide is None else run.attended.heads.to(self.wide)))
        self.written.append(run.attended.written)
        self.sources.append(run.attended.sources)
        if self.wide is None:
            self.mlps.append(keep(run.mlp_out))
            return
        # What rounding added belongs to the sum; what a hook at hook_attn_out added does not, and no unit owns it.
        rounding = self._gained(run.mid_sum, run.resid_pre) - run.attn_out.to(self.wide)
        self.attn_outs.append(keep(run.attended.output.to(self.wide) + rounding))
        self.mlps.append(keep(self._gained(run.post_sum, run.resid_mid)))

    def _gained(self, after: Float[Tensor, "*shape"], before: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return after.to(self.wide) - before.to(self.wide)
