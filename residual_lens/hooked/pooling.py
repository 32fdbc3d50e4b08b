"""How the tokens of the last block become one vector, and the readout that this amounts to."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from residual_lens.decomposition import Center, Readout
from residual_lens.hooked.norm import HookedLayerNorm
from residual_lens.hooked.points import Point


class Pooled(NamedTuple):
    """The vector before the projection, and what froze on the way there."""

    vector: Float[Tensor, "batch d_model"]
    weights: Float[Tensor, "batch route pos"]
    """Pooling weight over the final norm's scale, at the kept positions."""
    factor: Float[Tensor, "batch 1"]
    """Per-sample factor of the readout's first constant row: the stream's weighted mean, where that is not centred."""


class Pooling(ABC):
    """Tokens to one vector, with the final norm before or after."""

    token: int | None = None
    """The only position that the embedding reads in the last block, if there is one."""

    def check_center(self, center: Center) -> None:  # noqa: B027 - most poolings define both
        """Refuse a centring that this pooling does not define."""

    @abstractmethod
    def keep(self, term: Float[Tensor, "batch pos *rest"]) -> Float[Tensor, "batch kept *rest"]:
        """What the readout needs of a term, known before the end of the forward pass."""

    @abstractmethod
    def vector(
        self, resid: Float[Tensor, "batch pos d_model"], norm: HookedLayerNorm, hook_pooled: Point
    ) -> Float[Tensor, "batch d_model"]:
        """Pooled and normalised stream."""

    @abstractmethod
    def frozen(self, resid: Float[Tensor, "batch pos d_model"], norm: HookedLayerNorm, hook_pooled: Point) -> Pooled:
        """The same with the statistics that a readout needs."""

    def readout(
        self, pooled: Pooled, norm: HookedLayerNorm, projection: Float[Tensor, "d_model d_out"], center: Center
    ) -> Readout:
        """The linear map that pooling, final norm and projection amounted to for these samples."""
        maps, rows = self.constant_part(norm, projection, center)
        ones = torch.ones_like(pooled.factor)
        constants = ones if center == "own" else torch.cat([pooled.factor, ones], dim=-1)
        dtype = projection.dtype
        return Readout(center, pooled.weights.to(dtype), maps, constants.to(dtype), rows)

    def constant_part(
        self, norm: HookedLayerNorm, projection: Float[Tensor, "d_model d_out"], center: Center
    ) -> tuple[Float[Tensor, "route d_model d_out"], Float[Tensor, "constant d_out"]]:
        """The readout's maps and constant rows, which depend on weights alone."""
        gain, offset = (
            None if x is None else x.to(projection.dtype) for x in (norm.parts.module.weight, norm.parts.module.bias)
        )
        scaled = projection if gain is None else gain[:, None] * projection
        constant = torch.zeros_like(projection[0]) if offset is None else offset @ projection
        if center == "own":
            return (scaled - scaled.mean(dim=0, keepdim=True))[None], constant[None]
        return scaled[None], torch.stack([-scaled.sum(dim=0), constant])


class _NormAfter(Pooling):
    """Pool the stream, then normalise the one vector."""

    @abstractmethod
    def pool(self, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch d_model"]:
        """The pooled stream."""

    def keep(self, term: Float[Tensor, "batch pos *rest"]) -> Float[Tensor, "batch 1 *rest"]:
        # A copy: a view of one token would keep all of them in memory.
        return self.pool(term)[:, None].clone()

    def vector(
        self, resid: Float[Tensor, "batch pos d_model"], norm: HookedLayerNorm, hook_pooled: Point
    ) -> Float[Tensor, "batch d_model"]:
        return norm(hook_pooled(self.pool(resid)))

    def frozen(self, resid: Float[Tensor, "batch pos d_model"], norm: HookedLayerNorm, hook_pooled: Point) -> Pooled:
        normed = norm.with_statistics(hook_pooled(self.pool(resid)))
        return Pooled(normed.output, normed.scale.reciprocal()[:, None], normed.mean / normed.scale)


class TokenPooling(_NormAfter):
    """One token (the class token) is the pooled stream."""

    def __init__(self, token: int = 0) -> None:
        self.token = token

    def pool(self, resid: Float[Tensor, "batch pos *rest"]) -> Float[Tensor, "batch *rest"]:
        """That token; a last block run for it alone has one position only."""
        return resid[:, self.token if resid.shape[1] > 1 else 0]


class MeanPooling(_NormAfter):
    """The mean over positions from `first` on, normalised afterwards."""

    def __init__(self, first: int) -> None:
        self.first = first

    def pool(self, resid: Float[Tensor, "batch pos *rest"]) -> Float[Tensor, "batch *rest"]:
        """Mean over the pooled positions."""
        return resid[:, self.first :].mean(dim=1)


class NormedMeanPooling(Pooling):
    """Every token is normalised, then the mean is taken over positions from `first` on."""

    def __init__(self, first: int) -> None:
        self.first = first

    def keep(self, term: Float[Tensor, "batch pos *rest"]) -> Float[Tensor, "batch kept *rest"]:
        return term[:, self.first :]

    def vector(
        self, resid: Float[Tensor, "batch pos d_model"], norm: HookedLayerNorm, hook_pooled: Point
    ) -> Float[Tensor, "batch d_model"]:
        return hook_pooled(norm(resid)[:, self.first :].mean(dim=1))

    def frozen(self, resid: Float[Tensor, "batch pos d_model"], norm: HookedLayerNorm, hook_pooled: Point) -> Pooled:
        normed = norm.with_statistics(resid)
        vector = hook_pooled(normed.output[:, self.first :].mean(dim=1))
        scale, mean = normed.scale[:, self.first :, 0], normed.mean[:, self.first :, 0]
        weights = scale.reciprocal() / scale.shape[1]
        return Pooled(vector, weights[:, None], (weights * mean).sum(dim=1, keepdim=True))
