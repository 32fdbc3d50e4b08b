"""Terms of the stream, cut down to what the readout needs while the blocks run."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from residual_lens.hooked.attention import Attended, Sources
from residual_lens.hooked.pooling import Pooling


class AttentionTerms(NamedTuple):
    """What attention added, at the positions that pooling keeps."""

    embed: Float[Tensor, "batch kept d_model"] | None
    """The stream before the block, where the recorder was asked for it."""
    heads: Float[Tensor, "batch kept head d"]
    """`z`, or what each head writes."""
    written: bool
    """Whether `heads` is the latter."""
    attn_out: Float[Tensor, "batch kept d_model"] | None
    """In half precision: what the stream really gained, its rounding included."""
    sources: Sources | None
    """Which tokens the heads' outputs come from, where the recorder was asked for it."""


class BlockTerms(NamedTuple):
    """What a block added, at the positions that pooling keeps."""

    attention: AttentionTerms
    """Of its heads."""
    mlp: Float[Tensor, "batch kept d_model"]
    """Of its MLP."""


@dataclass(frozen=True)
class Recorder:
    """Cuts terms at once, so that a block's tensors need not live on beside those of the next.

    A stream of half precision rounds each sum. Its units' terms are what the sums really gained, taken apart in
    float32, so that they add up to the stream as it is.
    """

    pool: Pooling
    """Says which positions are kept."""
    wide: torch.dtype | None
    """What to take sums apart in, for a stream of half precision; `None` if the terms will do."""
    embed: bool
    """Whether to keep the stream before the block."""
    tokens: bool
    """Whether to keep the sources of the heads' outputs."""

    def of_attention(
        self,
        before: Float[Tensor, "batch pos d_model"],
        attended: Attended,
        added: Float[Tensor, "batch pos d_model"],
        after: Float[Tensor, "batch pos d_model"],
    ) -> AttentionTerms:
        """Terms of the heads.

        Args:
            before: the stream.
            attended: what attention gave.
            added: the same behind the hooks at `hook_attn_out`.
            after: the sum.
        """
        attn_out = None
        if self.wide is not None:
            # What rounding added belongs to the sum; what a hook at hook_attn_out added does not, and no unit owns it.
            rounding = self._gained(after, before) - added.to(self.wide)
            attn_out = self.pool.keep(attended.output.to(self.wide) + rounding)
        embed = self._kept(before) if self.embed else None
        return AttentionTerms(embed, self._kept(attended.heads), attended.written, attn_out, attended.sources)

    def of_mlp(
        self,
        before: Float[Tensor, "batch pos d_model"],
        added: Float[Tensor, "batch pos d_model"],
        after: Float[Tensor, "batch pos d_model"],
    ) -> Float[Tensor, "batch kept d_model"]:
        """The MLP's term: the stream before, what was added (hooks included) and the sum."""
        return self.pool.keep(added if self.wide is None else self._gained(after, before))

    def _kept(self, term: Float[Tensor, "batch pos *rest"]) -> Float[Tensor, "batch kept *rest"]:
        return self.pool.keep(term if self.wide is None else term.to(self.wide))

    def _gained(self, after: Float[Tensor, "*shape"], before: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return after.to(self.wide) - before.to(self.wide)
