"""`nn.MultiheadAttention` by reference, rounding where torch rounds.

In half precision torch's module gives other bits than the same formula laid out otherwise: it multiplies with the
sequence first, and in evaluation without gradients takes a fast path that spells attention out in its own dtype. What
is rebuilt here follows it; in float32 nothing of this is used.
"""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from residual_lens.hooked.parts.attention import HALF, QKV, AttentionParts, FusedProjections
from residual_lens.hooked.parts.reference import Ref, plain_linear


@dataclass(frozen=True)
class TorchProjections(FusedProjections):
    """The input projections of an `nn.MultiheadAttention`."""

    module: nn.MultiheadAttention
    """Owner of the weights."""

    def __call__(
        self, queries: Float[Tensor, "batch query d_model"], context: Float[Tensor, "batch pos d_model"]
    ) -> QKV:
        weight, bias = self.weight(), self.bias()
        if weight.dtype not in HALF or queries is not context:
            return super().__call__(queries, context)
        if not takes_fast_path(self.module):
            q, k, v = self._heads(F.linear(context.transpose(0, 1), weight, bias).transpose(0, 1), 3)
            return q, k, v
        joint = F.linear(context, weight)
        _, k, v = self._heads(joint + cast(Tensor, bias), 3)
        # Torch adds the bias to queries and scales them before it rounds.
        return self._heads(joint.float() + cast(Tensor, bias).float(), 3)[0], k, v


@dataclass(frozen=True)
class TorchAttentionParts(AttentionParts):
    """Self-attention by an `nn.MultiheadAttention`."""

    @classmethod
    def of(cls, module: nn.MultiheadAttention, gain: Ref | None, model_name: str) -> "TorchAttentionParts":
        """The parts of a module whose queries, keys and values share one weight."""
        weight, bias = Ref(module, "in_proj_weight"), Ref(module, "in_proj_bias")
        return cls(
            module=module,
            inputs=TorchProjections(weight, bias, module.num_heads, module),
            out=plain_linear(module.out_proj, "attention's output projection", model_name),
            n_heads=module.num_heads,
            dropout=Ref(module, "dropout"),
            gain=gain,
            scales_queries=True,
        )

    def is_eager(self) -> bool:
        return isinstance(self.module, nn.MultiheadAttention) and takes_fast_path(self.module)

    def project(self, z: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos d_model"]:
        if z.dtype not in HALF or self.is_eager():
            return super().project(z)
        by_position = self.out(rearrange(z, "batch pos head d -> (pos batch) (head d)"))
        return rearrange(by_position, "(pos batch) m -> batch pos m", batch=len(z))


def takes_fast_path(module: nn.MultiheadAttention) -> bool:
    """Whether torch's module would take its fast path for self-attention at this moment."""
    return (
        not module.training
        and module.batch_first
        and module.in_proj_bias is not None
        and module.num_heads % 2 == 0
        and torch.backends.mha.get_fastpath_enabled()
        and not torch.is_autocast_enabled(module.out_proj.weight.device.type)
        and not (torch.is_grad_enabled() and any(parameter.requires_grad for parameter in module.parameters()))
    )
