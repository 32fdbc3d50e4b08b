"""Cross-entropy of scaled cosines and its gradient in few operations, which are much of a cached training step."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import nll_loss

# As `torch.nn.functional.normalize` has it.
SHORTEST = 1e-12


class CosineCrossEntropy(torch.autograd.Function):
    """`L = −Σ log softmax(s · ê Wᵀ)[label]` of embeddings `e` with `ê = e / ‖e‖`, summed over the batch.

    With `P = softmax(s · ê Wᵀ) − onehot(label)`, `∂L/∂e = (s · P W − (Σ_class P · s ê Wᵀ) ê) / ‖e‖`: the second term
    takes out what would only change the length.
    """

    @staticmethod
    def forward(
        ctx: Any,
        embedding: Float[Tensor, "batch d_out"],
        weights: Float[Tensor, "class d_out"],
        logit_scale: float,
        labels: Int[Tensor, "batch"],
    ) -> Float[Tensor, ""]:
        """`L`; classes are constants."""
        with torch.autocast(embedding.device.type, enabled=False):
            length = torch.linalg.vector_norm(embedding, dim=-1, keepdim=True).clamp_min_(SHORTEST)
            unit = embedding / length
            logits = torch.mm(unit, weights.mT).mul_(logit_scale)
            log_shares = logits.log_softmax(dim=-1)
            ctx.save_for_backward(length, unit, weights, logits, log_shares, labels)
            ctx.logit_scale = logit_scale
            return nll_loss(log_shares, labels, reduction="sum")

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Float[Tensor, ""]
    ) -> tuple[Float[Tensor, "batch d_out"], None, None, None]:
        """`∂L/∂e`."""
        length, unit, weights, logits, log_shares, labels = ctx.saved_tensors
        with torch.autocast(unit.device.type, enabled=False):
            away = log_shares.exp()
            away.scatter_add_(-1, labels[:, None], away.new_full((len(labels), 1), -1.0))
            along = (away * logits).sum(dim=-1, keepdim=True)
            direction = torch.addmm(along * unit, away, weights, beta=-1, alpha=ctx.logit_scale)
            return direction.mul_(grad_outputs[0] / length), None, None, None
