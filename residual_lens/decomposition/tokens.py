"""Heads' direct contributions by the token that they come from: dense maps."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from residual_lens.decomposition.readout import Readout, outside_autocast, with_bias
from residual_lens.errors import InputError
from residual_lens.units import Unit


@dataclass(frozen=True, eq=False)
class TokenTerms:
    """A head's direct contribution as a sum over the tokens it attends to.

    With `a[q] = Σ_p w[p] pattern[p, q]` (pooling weight `w`, over the final norm's scale) a head contributes
    `a[q] (v[q] W_O + b_O / heads) G` through token `q`, `G` being the readout's map. Summed over `q` this is the head's
    direct contribution: the pattern sums to one, so that the output bias is shared in proportion to attention.

    What is kept is `a` and `v`, `d_head + 1` numbers a head and token; contributions are made when asked for.
    """

    patterns: Sequence[Float[Tensor, "batch kept head pos"]]
    """By layer: attention of the positions that pooling keeps."""
    values: Sequence[Float[Tensor, "batch pos head d_head"]]
    """By layer: value vectors."""
    output_weights: Sequence[Float[Tensor, "head d_head d_model"]]
    """By layer: `W_O`, LayerScale folded in."""
    output_biases: Sequence[Float[Tensor, "d_model"]]
    """By layer: `b_O`, LayerScale folded in."""
    readout: Readout
    """The frozen map to the embedding."""

    @outside_autocast
    def layer(self, layer: int) -> Float[Tensor, "batch head pos d_out"]:
        """Contributions of one layer's heads by token.

        Raises:
            InputError: no such layer.
        """
        self._check_layer(layer)
        return self._project(layer, self._maps(layer))

    @outside_autocast
    def towards(self, directions: Float[Tensor, "direction d_out"]) -> Float[Tensor, "batch direction head pos"]:
        """Inner products of every head's contributions with directions, heads in the order of `Units`.

        The projection comes first, so that nothing of size `pos × d_out` is made: a map of one text over all heads and
        tokens costs next to nothing.

        Args:
            directions: such as text embeddings, in the scale that is wanted.

        Raises:
            InputError: directions of another width.
        """
        width = self.readout.maps.shape[-1]
        if directions.ndim != 2 or directions.shape[1] != width:
            raise InputError(f"directions must be [direction, {width}], got {list(directions.shape)}.")
        directions = directions.to(self.readout.maps)
        maps = [self._project(layer, self._maps(layer) @ directions.mT) for layer in range(len(self.values))]
        return torch.cat([layer.movedim(-1, 1) for layer in maps], dim=2)

    def __getitem__(self, name: str) -> Float[Tensor, "batch pos d_out"]:
        """One head's contributions by token.

        Raises:
            InputError: not a head of this model.
        """
        unit = Unit.named(name)
        if unit.layer is None or unit.index is None:
            raise InputError(f"Only heads read from tokens; {name!r} is none. Take its contribution as a whole.")
        self._check_layer(unit.layer)
        if unit.index >= self.values[unit.layer].shape[2]:
            raise InputError(f"There is no head {name!r}: layers have {self.values[unit.layer].shape[2]} heads.")
        return self.layer(unit.layer)[:, unit.index]

    def _check_layer(self, layer: int) -> None:
        if not 0 <= layer < len(self.values):
            raise InputError(f"There is no layer {layer}: layers are 0 to {len(self.values) - 1}.")

    def _maps(self, layer: int) -> Float[Tensor, "route head d d_out"]:
        """From `[v, 1]` to the embedding, by route of the readout."""
        written = with_bias(self.output_weights[layer], self.output_biases[layer])
        return einsum(written, self.readout.maps, "head d d_model, route d_model d_out -> route head d d_out")

    def _project(self, layer: int, maps: Float[Tensor, "route head d width"]) -> Float[Tensor, "batch head pos width"]:
        weights = self.readout.weights
        attention = einsum(
            weights,
            self.patterns[layer].to(weights.dtype),
            "batch route kept, batch kept head pos -> batch route head pos",
        )
        values = self.values[layer].to(weights.dtype).transpose(1, 2)
        with_one = torch.cat([values, torch.ones_like(values[..., :1])], dim=-1)
        out = einsum(
            attention[:, 0, ..., None] * with_one, maps[0], "batch head pos d, head d width -> batch head pos width"
        )
        for route in range(1, len(maps)):
            by_token = attention[:, route, ..., None] * with_one
            out = out + einsum(by_token, maps[route], "batch head pos d, head d width -> batch head pos width")
        return out
