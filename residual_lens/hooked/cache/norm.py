"""A norm held at the scale that a run used: the linear map which it amounted to."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.utilities.slice import Slice

from residual_lens.errors import InputError, UnsupportedModelError
from residual_lens.hooked.pooling import Pooling


class FrozenNorm(NamedTuple):
    """`c → C (Σ_p w_p c_p) / scale`, with the centring `C` and pooling weights `w` where pooling comes first."""

    scale: Float[Tensor, "*batch_and_pos 1"]
    centred: bool
    """Whether the norm subtracts the mean over features: a LayerNorm does, an RMSNorm does not."""
    weights: Float[Tensor, "pos"] | None
    """Pooling weight of each position; `None` where the norm acts on tokens."""

    def pool(self, terms: Float[Tensor, "*batch_and_pos d"]) -> Float[Tensor, "*batch_and_pos_out d"]:
        """Terms as the norm meets them: their weighted sum over positions, or as they are.

        Raises:
            InputError: terms at other positions than the weights.
        """
        if self.weights is None:
            return terms
        if terms.shape[-2] != len(self.weights):
            raise InputError(
                f"The final norm acts on the pooled stream: expected components at {len(self.weights)} positions, got "
                f"{terms.shape[-2]}. Pass the pos_slice that was applied to them, to run_with_cache or later."
            )
        read = self.weights.nonzero()[:, 0]
        return (terms[..., read, :] * self.weights[read, None].to(terms.dtype)).sum(dim=-2)

    def centre(self, terms: Float[Tensor, "*component d_model"]) -> Float[Tensor, "*component d_model"]:
        """Terms minus their mean over features, where the norm subtracts it."""
        return terms - terms.mean(dim=-1, keepdim=True) if self.centred else terms

    def of_pooled(
        self, terms: Float[Tensor, "component *batch_and_pos d_model"]
    ) -> Float[Tensor, "component *batch_and_pos d_model"]:
        """What terms behind `pool` add to the normalised stream, before gain and offset; in the scale's dtype or wider.

        Raises:
            InputError: terms of other images or positions than the scale.
        """
        if terms.shape[1:-1] != self.scale.shape[:-1]:
            raise InputError(
                f"Components {list(terms.shape)} do not fit the norm's scale {list(self.scale.shape)}. Pass the "
                "pos_slice that was applied to them, and batch_slice to cut images (with has_batch_dim=False: the one "
                "that was applied)."
            )
        return self.centre(terms.to(torch.promote_types(terms.dtype, self.scale.dtype))) / self.scale

    def __call__(
        self, stack: Float[Tensor, "component *batch_and_pos d_model"]
    ) -> Float[Tensor, "component *batch_and_pos_out d_model"]:
        """What components add to the normalised stream, before gain and offset."""
        return self.of_pooled(self.pool(stack))


def position_weights(
    pooling: Pooling, n_ctx: int, positions: Slice, like: Float[Tensor, "*shape"]
) -> Float[Tensor, "pos"]:
    """Weight of each kept position in the pooled stream.

    Args:
        pooling: the model's.
        n_ctx: how many positions the model has.
        positions: which of them are kept.
        like: gives dtype and device.

    Raises:
        UnsupportedModelError: attention pools the tokens, with weights that depend on the image.
        InputError: a position that the model pools is not among the kept ones.
    """
    pooled = pooling.keep(torch.eye(n_ctx, dtype=like.dtype, device=like.device)[None])[0]
    if len(pooled) > 1:
        raise UnsupportedModelError(
            "The final norm lies behind an attention pooling, in another space than the stream: it cannot be applied "
            "to components of the stream. Use hvit.decompose(images), which goes through that pooling; the norms of "
            "blocks (layer < n_layers) can be applied."
        )
    kept = np.atleast_1d(np.arange(n_ctx)[positions.slice])
    read = pooled[0].nonzero()[:, 0].tolist()
    if sorted(set(read) & set(kept.tolist())) != read or len(set(kept.tolist())) < len(kept):
        which = f"position {read[0]}" if len(read) == 1 else f"positions {read[0]} to {read[-1]}"
        raise InputError(
            f"The final norm acts on the stream pooled over {which}; pos_slice={positions.slice} does not keep each of "
            "them once. Leave it out, or apply the norm of a block (layer < n_layers)."
        )
    return pooled[0][torch.as_tensor(kept, device=like.device)]
