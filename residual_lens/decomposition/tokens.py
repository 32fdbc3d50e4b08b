"""Heads' direct contributions by the token that they come from: dense maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

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
    direct contribution: the pattern sums to one, so that the output bias is shared in proportion to attention. Where a
    hook or dropout made it sum to something else, all tokens share evenly what is left of the bias.

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
        return self._project(layer, self.readout.maps)

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
        target = self.readout.maps @ directions.mT
        maps = [self._project(layer, target) for layer in range(len(self.values))]
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

    def _project(
        self, layer: int, target: Float[Tensor, "route d_model width"]
    ) -> Float[Tensor, "batch head pos width"]:
        """Contributions of one layer's heads in the space that `target` maps the stream to."""
        written = with_bias(self.output_weights[layer], self.output_biases[layer])
        maps = einsum(written, target, "head d d_model, route d_model width -> route head d width")
        weights = self.readout.weights
        pattern, values = (x.to(weights.dtype) for x in (self.patterns[layer], self.values[layer]))
        attention = einsum(weights, pattern, "batch route kept, batch kept head pos -> route batch pos head")[..., None]
        with_one = torch.cat([values, torch.ones_like(values[..., :1])], dim=-1)
        read = "batch pos head d, head d width -> batch head pos width"
        if maps.shape[-1] < values.shape[-1]:
            # Attention multiplies where there is less to multiply.
            by_route = (einsum(with_one, m, read) * a.transpose(1, 2) for a, m in zip(attention, maps, strict=True))
        else:
            by_route = (einsum(with_one * a, m, read) for a, m in zip(attention, maps, strict=True))
        lacking = weights.sum(dim=-1).mT[..., None] - attention[..., 0].sum(dim=2)
        bias = einsum(
            lacking / values.shape[1], maps[:, :, -1], "route batch head, route head width -> batch head width"
        )
        return reduce(torch.add, by_route, bias[:, :, None])
