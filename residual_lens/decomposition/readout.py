"""The frozen linear map from the stream to the embedding.

With pooling weights, the final norm's scale and (for attention pooling) the pooling pattern frozen at their actual
values, the embedding is linear in the stream. A `Readout` is that linear map.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Literal, ParamSpec, TypeVar

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from residual_lens.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")

Center = Literal["own", "uniform"]
"""Where constants go: to a unit `bias` of their own, or in even shares to all units."""


def check_center(center: str) -> Center:
    """`center` if it is one of the two centrings, else an `InputError`."""
    if center == "own" or center == "uniform":
        return center
    raise InputError(f"center must be 'own' or 'uniform', got {center!r}.")


def outside_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """The function with autocast off: sums of many terms must not be rounded to half precision on the way."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        active = [device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]
        if not active:
            return function(*args, **kwargs)
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **kwargs)

    return run


@dataclass(frozen=True, eq=False)
class Readout:
    """The frozen linear map from the stream to the embedding.

    `embedding = Σ_route (Σ_pos weights[route, pos] · r[pos]) maps[route] + constants @ constant_rows`, where `r` is the
    stream at the positions that pooling keeps. A route is a head of an attention pooling; other poolings have one.
    """

    center: Center
    """Whether the constants are the unit `bias` ("own") or shared out over all units ("uniform")."""
    weights: Float[Tensor, "batch route pos"]
    """Pooling weight over the final norm's scale."""
    maps: Float[Tensor, "route d_model d_out"]
    """Final norm's gain and projection; centring over `d_model` folded in for "own"."""
    constants: Float[Tensor, "batch constant"]
    """Per-sample factors of `constant_rows`."""
    constant_rows: Float[Tensor, "constant d_out"]
    """What adds to the embedding besides the stream."""
    projection: Float[Tensor, "d_pool d_out"]
    """From the pooled vector to the embedding, for what pooling itself adds."""

    def bias(self) -> Float[Tensor, "batch d_out"]:
        """What adds to the embedding besides the stream."""
        return self.constants @ self.constant_rows

    def of_terms(self, terms: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch d_out"]:
        """Direct contribution of a term given in the stream's basis."""
        pooled = einsum(self.weights, terms, "batch route pos, batch pos d_model -> batch route d_model")
        return einsum(pooled, self.maps, "batch route d_model, route d_model d_out -> batch d_out")

    def of_results(self, results: Float[Tensor, "batch pos head d_model"]) -> Float[Tensor, "batch head d_out"]:
        """Direct contributions of heads given by what each writes into the stream."""
        pooled = einsum(self.weights, results, "batch route pos, batch pos head d_model -> batch route head d_model")
        return einsum(pooled, self.maps, "batch route head d_model, route d_model d_out -> batch head d_out")

    def head_features(self, z: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch head feature"]:
        """`[z/σ, 1/σ]` by route (and the constants for "uniform"): a head's contribution is linear in them.

        Args:
            z: heads' outputs before `W_O` at the kept positions.

        Returns:
            `feature = route · (d_head + 1)`, plus the number of constants for "uniform".
        """
        pooled = einsum(self.weights, z, "batch route pos, batch pos head d_head -> batch head route d_head")
        total = self.weights.sum(dim=-1)[:, None, :, None].expand(-1, z.shape[2], -1, 1)
        features = rearrange(torch.cat([pooled, total], dim=-1), "batch head route d -> batch head (route d)")
        if self.center == "uniform":
            constants = self.constants[:, None, :].expand(-1, z.shape[2], -1)
            features = torch.cat([features, constants], dim=-1)
        return features

    def of_features(
        self,
        features: Float[Tensor, "batch head feature"],
        w_o: Float[Tensor, "head d_head d_model"],
        b_o: Float[Tensor, "d_model"],
    ) -> Float[Tensor, "batch head d_out"]:
        """Direct contributions of one layer's heads without their share of the constants."""
        routes = self.weights.shape[1]
        used = features[..., : routes * (w_o.shape[1] + 1)]
        by_route = rearrange(used, "batch head (route d) -> batch head route d", route=routes)
        written = einsum(
            by_route, with_bias(w_o, b_o), "batch head route d, head d d_model -> batch head route d_model"
        )
        return einsum(written, self.maps, "batch head route d_model, route d_model d_out -> batch head d_out")


def with_bias(
    w_o: Float[Tensor, "head d_head d_model"], b_o: Float[Tensor, "d_model"]
) -> Float[Tensor, "head d d_model"]:
    """`W_O` with every head's even share of `b_O` as one more row."""
    n_heads = w_o.shape[0]
    return torch.cat([w_o, (b_o / n_heads).expand(n_heads, 1, -1)], dim=1)
