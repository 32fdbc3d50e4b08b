"""What every unit wrote into the stream, and its direct contribution to the embedding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from residual_lens.decomposition.readout import Readout, outside_autocast
from residual_lens.decomposition.tokens import TokenTerms
from residual_lens.errors import InputError, MismatchError
from residual_lens.units import Unit, Units


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
    attn_outs: Sequence[Float[Tensor, "batch pos d_model"]] | None = None
    """By layer, in models of half precision: what the stream really gained from attention, its rounding included."""
    pool_mlp: Float[Tensor, "batch d_pool"] | None = None
    """What the MLP of an attention pooling added to the pooled vector."""
    rounding: Float[Tensor, "batch d_out"] | None = None
    """In models of half precision: what rounding between the stream and the embedding added."""

    @outside_autocast
    def embed_contribution(self) -> Float[Tensor, "batch d_out"]:
        """Direct contribution of the token embedding."""
        return self._with_share(self.readout.of_terms(self.embed), 1)

    @outside_autocast
    def mlp_contribution(self, layer: int) -> Float[Tensor, "batch d_out"]:
        """Direct contribution of one MLP."""
        return self._with_share(self.readout.of_terms(self.mlps[layer]), 1)

    @outside_autocast
    def head_contributions(self, layer: int) -> Float[Tensor, "batch head d_out"]:
        """Direct contributions of one layer's heads."""
        values = self._of_heads(layer)
        if self.attn_outs is not None:
            values = values + self._shared_rounding(layer, values)[:, None]
        return self._with_share(values, values.shape[1])

    @outside_autocast
    def head_rounding(self, layer: int) -> Float[Tensor, "batch d_out"]:
        """What each head of a layer is given of the rounding of their sum, in models of half precision."""
        return self._shared_rounding(layer, self._of_heads(layer))

    def _of_heads(self, layer: int) -> Float[Tensor, "batch head d_out"]:
        heads = self.heads[layer]
        if self.written[layer]:
            return self.readout.of_results(heads)
        features = self.readout.head_features(heads)
        return self.readout.of_features(features, self.output_weights[layer], self.output_biases[layer])

    def _shared_rounding(self, layer: int, values: Float[Tensor, "batch head d_out"]) -> Float[Tensor, "batch d_out"]:
        """The stream keeps a rounded sum; the heads of the layer share what rounding added."""
        gained = self.readout.of_terms(cast(Sequence[Tensor], self.attn_outs)[layer])
        return (gained - values.sum(dim=1)) / values.shape[1]

    @outside_autocast
    def pool_contribution(self) -> Float[Tensor, "batch d_out"]:
        """Direct contribution of the MLP of an attention pooling.

        Raises:
            InputError: the pooling has none.
        """
        if self.pool_mlp is None:
            raise InputError("This model's pooling has no MLP, and so no unit pool_mlp_out.")
        return self.pool_mlp @ self.readout.projection

    def contribution(self, unit: Unit) -> Float[Tensor, "batch d_out"]:
        """Direct contribution of one unit (a whole layer of heads costs as much as one of them)."""
        if unit.kind == "head":
            return self.head_contributions(cast(int, unit.layer))[:, unit.index]
        if unit.kind == "mlp":
            return self.mlp_contribution(cast(int, unit.layer))
        others = {"embed": self.embed_contribution, "pool": self.pool_contribution, "bias": self.bias_contribution}
        return others[unit.kind]()

    @outside_autocast
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

    @outside_autocast
    def bias_contribution(self) -> Float[Tensor, "batch d_out"]:
        """What adds to the embedding besides the stream (a unit of its own for "own" only), rounding included."""
        bias = self.readout.bias()
        return bias if self.rounding is None else bias + self.rounding

    def contributions(self) -> Float[Tensor, "batch unit d_out"]:
        """All direct contributions in the order of `Units`."""
        values = [self.embed_contribution()[:, None]]
        for layer in range(len(self.heads)):
            values += [self.head_contributions(layer), self.mlp_contribution(layer)[:, None]]
        if self.pool_mlp is not None:
            values.append(self.pool_contribution()[:, None])
        if self.readout.center == "own":
            values.append(self.bias_contribution()[:, None])
        return torch.cat(values, dim=1)

    def _with_share(self, values: Float[Tensor, "batch *head d_out"], parts: int) -> Float[Tensor, "batch *head d_out"]:
        if self.readout.center == "own":
            return values
        share = self.bias_contribution() / ((2 * len(self.heads) + 1) * parts)
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
    tokens: TokenTerms | None = None
    """Heads' contributions by the token they come from, if they were asked for."""

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
