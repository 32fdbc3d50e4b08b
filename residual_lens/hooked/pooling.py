"""How the tokens of the last block become one vector, and the readout that this amounts to."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from residual_lens.decomposition import Center, Readout
from residual_lens.hooked.norm import HookedNorm
from residual_lens.hooked.parts.norm import NormParts
from residual_lens.hooked.points import Point


@dataclass(frozen=True, eq=False)
class Pooled:
    """The vector before the projection, and what froze on the way there."""

    vector: Float[Tensor, "batch d_pool"]
    """Pooled and normalised stream."""
    weights: Float[Tensor, "batch route pos"]
    """Pooling weight over the scale of the norms, at the kept positions."""
    factors: Float[Tensor, "batch factor"]
    """Per-sample factors of the readout's constant rows but the last: the stream's weighted mean, where that is not
    centred; how much of each route's constant attention pooling gathers."""
    mlp_out: Float[Tensor, "batch d_pool"] | None = None
    """What the pooling's own MLP added."""


class Pooling(nn.Module, ABC):
    """Tokens to one vector, with the final norm before or after."""

    token: int | None = None
    """The only position that the embedding reads in the last block, if there is one."""
    has_mlp: bool = False
    """Whether an MLP of its own adds to the pooled vector."""

    def check_center(self, center: Center) -> None:
        """Refuse a centring that this pooling does not define."""

    @abstractmethod
    def describe(self) -> str:
        """What it does, in a few words."""

    def width(self, norm: NormParts) -> int:
        """Coordinates of the pooled vector."""
        return norm.width

    @abstractmethod
    def keep(self, term: Float[Tensor, "batch pos *rest"]) -> Float[Tensor, "batch kept *rest"]:
        """What the readout needs of a term, known before the end of the forward pass."""

    @abstractmethod
    def vector(
        self, resid: Float[Tensor, "batch pos d_model"], norm: HookedNorm, hook_pooled: Point
    ) -> Float[Tensor, "batch d_pool"]:
        """Pooled and normalised stream."""

    @abstractmethod
    def frozen(self, resid: Float[Tensor, "batch pos d_model"], norm: HookedNorm, hook_pooled: Point) -> Pooled:
        """The same with the statistics that a readout needs."""

    def readout(
        self,
        pooled: Pooled,
        norm: NormParts,
        projection: Float[Tensor, "d_pool d_out"],
        bias: Float[Tensor, "d_out"] | None,
        center: Center,
    ) -> Readout:
        """The linear map that pooling, final norm and projection amounted to for these samples."""
        maps, rows = self.constant_part(norm, projection, bias, center)
        factors = torch.cat([pooled.factors, torch.ones_like(pooled.factors[:, :1])], dim=-1)
        constants = factors[:, -len(rows) :]
        dtype = projection.dtype
        return Readout(center, pooled.weights.to(dtype), maps, constants.to(dtype), rows, projection)

    def constant_part(
        self,
        norm: NormParts,
        projection: Float[Tensor, "d_pool d_out"],
        bias: Float[Tensor, "d_out"] | None,
        center: Center,
    ) -> tuple[Float[Tensor, "route d_model d_out"], Float[Tensor, "constant d_out"]]:
        """The readout's maps and constant rows, which depend on weights alone."""
        scaled, constant = through_norm(norm, projection, bias)
        if center == "own":
            return (centred_rows(scaled) if norm.centred else scaled)[None], constant[None]
        return scaled[None], torch.stack([-scaled.sum(dim=0), constant])


def through_norm(
    norm: NormParts, projection: Float[Tensor, "d_pool d_out"], bias: Float[Tensor, "d_out"] | None
) -> tuple[Float[Tensor, "d_pool d_out"], Float[Tensor, "d_out"]]:
    """`diag(γ) P` and `βP + b`: what follows the scaling by a norm."""
    gain, offset = (None if x is None else x.to(projection.dtype) for x in (norm.gain, norm.offset))
    constant = torch.zeros_like(projection[0]) if bias is None else bias
    constant = constant if offset is None else constant + offset @ projection
    return projection if gain is None else gain[:, None] * projection, constant


def centred_rows(matrix: Float[Tensor, "*route d_model d_out"]) -> Float[Tensor, "*route d_model d_out"]:
    """The matrix that centres over `d_model` first."""
    return matrix - matrix.mean(dim=-2, keepdim=True)


class _NormAfter(Pooling):
    """Pool the stream, then normalise the one vector."""

    @abstractmethod
    def pool(self, resid: Float[Tensor, "batch pos *rest"]) -> Float[Tensor, "batch *rest"]:
        """The pooled stream."""

    def vector(
        self, resid: Float[Tensor, "batch pos d_model"], norm: HookedNorm, hook_pooled: Point
    ) -> Float[Tensor, "batch d_model"]:
        return norm(hook_pooled(self.pool(resid)))

    def frozen(self, resid: Float[Tensor, "batch pos d_model"], norm: HookedNorm, hook_pooled: Point) -> Pooled:
        normed = norm.with_statistics(hook_pooled(self.pool(resid)))
        return Pooled(normed.output, normed.scale.reciprocal()[:, None], normed.mean / normed.scale)


class TokenPooling(_NormAfter):
    """One token (the class token) is the pooled stream."""

    def __init__(self, token: int = 0) -> None:
        super().__init__()
        self.token = token

    def describe(self) -> str:
        return "class token"

    def keep(self, term: Float[Tensor, "batch pos *rest"]) -> Float[Tensor, "batch 1 *rest"]:
        # A copy: a view of one token would keep all of them in memory.
        return self.pool(term)[:, None].clone()

    def pool(self, resid: Float[Tensor, "batch pos *rest"]) -> Float[Tensor, "batch *rest"]:
        """That token; a last block run for it alone has one position only."""
        return resid[:, self.token if resid.shape[1] > 1 else 0]


class MeanPooling(_NormAfter):
    """The mean over positions from `first` on, normalised afterwards."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first = first

    def describe(self) -> str:
        return "mean, then norm"

    def keep(self, term: Float[Tensor, "batch pos *rest"]) -> Float[Tensor, "batch 1 *rest"]:
        return self.pool(term)[:, None]

    def pool(self, resid: Float[Tensor, "batch pos *rest"]) -> Float[Tensor, "batch *rest"]:
        """Mean over the pooled positions."""
        return resid[:, self.first :].mean(dim=1)


class NormedMeanPooling(Pooling):
    """Every token is normalised, then the mean is taken over positions from `first` on."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first = first

    def describe(self) -> str:
        return "norm, then mean"

    def keep(self, term: Float[Tensor, "batch pos *rest"]) -> Float[Tensor, "batch kept *rest"]:
        return term[:, self.first :]

    def vector(
        self, resid: Float[Tensor, "batch pos d_model"], norm: HookedNorm, hook_pooled: Point
    ) -> Float[Tensor, "batch d_model"]:
        return hook_pooled(norm(resid)[:, self.first :].mean(dim=1))

    def frozen(self, resid: Float[Tensor, "batch pos d_model"], norm: HookedNorm, hook_pooled: Point) -> Pooled:
        normed = norm.with_statistics(resid)
        vector = hook_pooled(normed.output[:, self.first :].mean(dim=1))
        scale, mean = normed.scale[:, self.first :, 0], normed.mean[:, self.first :, 0]
        weights = scale.reciprocal() / scale.shape[1]
        return Pooled(vector, weights[:, None], (weights * mean).sum(dim=1, keepdim=True))
