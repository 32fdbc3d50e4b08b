"""Stream terms → direct contributions, and the low-rank coordinates of heads.

With pooling weights, the final norm's scale and (for attention pooling) the pooling pattern frozen at their actual
values, the embedding is linear in the stream. A `Readout` is that linear map; everything here is it, applied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from beartype import beartype
from einops import einsum, rearrange
from jaxtyping import Float, jaxtyped
from torch import Tensor

from residual_lens.errors import InputError, MismatchError
from residual_lens.units import Units

Center = Literal["own", "uniform"]


def check_center(center: str) -> Center:
    """`center` if it is one of the two centrings, else an `InputError`."""
    if center == "own" or center == "uniform":
        return center
    raise InputError(f"center must be 'own' or 'uniform', got {center!r}.")


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
            by_route, _with_bias(w_o, b_o), "batch head route d, head d d_model -> batch head route d_model"
        )
        return einsum(written, self.maps, "batch head route d_model, route d_model d_out -> batch head d_out")


def _with_bias(
    w_o: Float[Tensor, "head d_head d_model"], b_o: Float[Tensor, "d_model"]
) -> Float[Tensor, "head d d_model"]:
    """`W_O` with every head's even share of `b_O` as one more row."""
    n_heads = w_o.shape[0]
    return torch.cat([w_o, (b_o / n_heads).expand(n_heads, 1, -1)], dim=1)


@dataclass(frozen=True, eq=False)
class UnitTerms:
    """What every unit wrote into the stream at the kept positions, before the readout.

    For token pooling this is all an analysis needs of a sample: `z` is `d_head` numbers a head instead of `d_out`.
    """

    embed: Float[Tensor, "batch pos d_model"]
    """Stream before the first block."""
    heads: Sequence[Float[Tensor, "batch pos head _"]]
    """By layer: `z` (`d_head` wide), or what the heads wrote (`d_model` wide) where `hook_result` was hooked."""
    mlps: Sequence[Float[Tensor, "batch pos d_model"]]
    """By layer: what the MLP wrote."""
    output_weights: Sequence[Float[Tensor, "head d_head d_model"]]
    """By layer: `W_O`, LayerScale folded in."""
    output_biases: Sequence[Float[Tensor, "d_model"]]
    """By layer: `b_O`, LayerScale folded in."""
    written: Sequence[bool]
    """By layer: whether `heads` holds what the heads wrote instead of `z`."""
    readout: Readout
    """The frozen map to the embedding."""

    def embed_contribution(self) -> Float[Tensor, "batch d_out"]:
        """Direct contribution of the token embedding."""
        return self._with_share(self.readout.of_terms(self.embed), 1)

    def mlp_contribution(self, layer: int) -> Float[Tensor, "batch d_out"]:
        """Direct contribution of one MLP."""
        return self._with_share(self.readout.of_terms(self.mlps[layer]), 1)

    def head_contributions(self, layer: int) -> Float[Tensor, "batch head d_out"]:
        """Direct contributions of one layer's heads."""
        heads, n_heads = self.heads[layer], self.heads[layer].shape[2]
        if self.written[layer]:
            values = self.readout.of_results(heads)
        else:
            features = self.readout.head_features(heads)
            values = self.readout.of_features(features, self.output_weights[layer], self.output_biases[layer])
        return self._with_share(values, n_heads)

    def head_features(self) -> Float[Tensor, "batch unit feature"]:
        """Low-rank features of all heads, layer by layer (see `HeadFrames`).

        Raises:
            MismatchError: a hook rewrote what heads add to the stream, so `z` does not tell it.
        """
        if any(self.written):
            raise MismatchError(
                "Low-rank features need the heads' z, but hook_result is hooked and may rewrite what heads add. "
                "Leave that context first, or use decompose()."
            )
        return torch.cat([self.readout.head_features(z) for z in self.heads], dim=1)

    def bias_contribution(self) -> Float[Tensor, "batch d_out"]:
        """What adds to the embedding besides the stream (a unit of its own for "own" only)."""
        return self.readout.bias()

    def contributions(self) -> Float[Tensor, "batch unit d_out"]:
        """All direct contributions in the order of `Units`."""
        values = [self.embed_contribution()[:, None]]
        for layer in range(len(self.heads)):
            values += [self.head_contributions(layer), self.mlp_contribution(layer)[:, None]]
        if self.readout.center == "own":
            values.append(self.bias_contribution()[:, None])
        return torch.cat(values, dim=1)

    def _with_share(self, values: Float[Tensor, "batch *head d_out"], parts: int) -> Float[Tensor, "batch *head d_out"]:
        if self.readout.center == "own":
            return values
        share = self.readout.bias() / ((2 * len(self.heads) + 1) * parts)
        return values + (share if values.ndim == 2 else share[:, None])


@dataclass(frozen=True, eq=False)
class Decomposition:
    """An image embedding as the sum of its units' direct contributions.

    Example:
        >>> import torch
        >>> units = Units.of_vit(n_layers=1, n_heads=2)
        >>> parts = Decomposition(torch.ones(4, len(units), 3), units)
        >>> parts.total()[0], parts["L0H1"].shape
        (tensor([5., 5., 5.]), torch.Size([4, 3]))
    """

    values: Float[Tensor, "batch unit d_out"]
    """Direct contributions, in the scale of the embedding; not centred over samples."""
    units: Units
    """Names along the `unit` axis."""

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.shape[1] != len(self.units):
            raise InputError(
                f"values must be [batch unit d_out] with {len(self.units)} units, got {tuple(self.values.shape)}."
            )

    def total(self) -> Float[Tensor, "batch d_out"]:
        """Sum over units: the model's image embedding."""
        return self.values.sum(dim=1)

    def __getitem__(self, name: str) -> Float[Tensor, "batch d_out"]:
        """One unit's contribution, as a view."""
        return self.values[:, self.units.position(name)]

    def select(self, which: str | Sequence[str]) -> Float[Tensor, "batch chosen d_out"]:
        """Contributions of the units that a selector names (`"heads"`, `"L3"`, `["L3H5", "embed"]`)."""
        return self.values[:, [self.units.position(unit.name) for unit in self.units.select(which)]]


@dataclass(frozen=True, eq=False)
class HeadFrames:
    """Isometric low-rank coordinates of heads' direct contributions.

    A head's contribution is `u = f A` with features `f = [z/σ, 1/σ]`. With `Aᵀ = Q R` the coordinates `f Rᵀ` have the
    norms, distances and inner products of `u`, and `u = coordinates Qᵀ`. So PCA, neighbours and pursuit on coordinates
    are those on contributions, exactly, for a fraction of the cost.

    The rank is at most `d_head + 1` for centring "own" and two more for "uniform" (whose features have `m/σ` and 1 as
    well); attention pooling has `d_head + 1` features for each of its heads. It is never more than `d_out`.
    """

    units: tuple[str, ...]
    """Heads along the `unit` axis."""
    frames: Float[Tensor, "unit rank d_out"]
    """`Qᵀ`: orthonormal rows, float64."""
    mixing: Float[Tensor, "unit feature rank"]
    """`Rᵀ`: features to coordinates, float64."""

    @classmethod
    def of_weights(
        cls,
        output_weights: Sequence[Float[Tensor, "head d_head d_model"]],
        output_biases: Sequence[Float[Tensor, "d_model"]],
        maps: Float[Tensor, "route d_model d_out"],
        constant_rows: Float[Tensor, "constant d_out"],
        center: Center,
    ) -> "HeadFrames":
        """Frames from weights alone; the QR is done in float64, once for all heads."""
        n_layers, n_heads = len(output_weights), output_weights[0].shape[0]
        rows = []
        for w_o, b_o in zip(output_weights, output_biases, strict=True):
            written = _with_bias(w_o.detach().double(), b_o.detach().double())
            by_route = einsum(
                written, maps.detach().double(), "head d d_model, route d_model d_out -> head route d d_out"
            )
            rows.append(rearrange(by_route, "head route d d_out -> head (route d) d_out"))
        features = torch.cat(rows)
        if center == "uniform":
            share = constant_rows.detach().double() / ((2 * n_layers + 1) * n_heads)
            features = torch.cat([features, share.expand(len(features), -1, -1)], dim=1)
        q, r = torch.linalg.qr(features.mT)
        names = tuple(f"L{layer}H{head}" for layer in range(n_layers) for head in range(n_heads))
        return cls(names, q.mT.contiguous(), r.mT.contiguous())

    @jaxtyped(typechecker=beartype)
    def coordinates(self, features: Float[Tensor, "batch unit feature"]) -> Float[Tensor, "batch unit rank"]:
        """Features (`UnitTerms.head_features`) to coordinates, in the features' dtype.

        Raises:
            MismatchError: features of another centring or model.
        """
        if features.shape[1:] != self.mixing.shape[:2]:
            raise MismatchError(
                f"These frames take [unit feature] {list(self.mixing.shape[:2])}, got {list(features.shape[1:])}: "
                "features and frames must come from the same model with the same centring."
            )
        mixing = self.mixing.to(features)
        return einsum(features, mixing, "batch unit feature, unit feature rank -> batch unit rank")

    @jaxtyped(typechecker=beartype)
    def lift(self, coordinates: Float[Tensor, "*batch unit rank"]) -> Float[Tensor, "*batch unit d_out"]:
        """Coordinates back to contributions."""
        return torch.einsum("...ur,urd->...ud", coordinates, self.frames.to(coordinates))
