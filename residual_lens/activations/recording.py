"""A batch's terms as the arrays of a store."""

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
from einops import einsum
from jaxtyping import Float, Shaped
from torch import Tensor

from residual_lens.activations.blocks import Arrays, PieceKey
from residual_lens.activations.formats import ValueFormat
from residual_lens.activations.layout import SKIPPED, WRITTEN, Layout
from residual_lens.activations.shards import StoredWeights
from residual_lens.decomposition import UnitTerms
from residual_lens.errors import InputError

LEAST_OCTAVE = -12
"""Channels that count for less keep this much weight, for those who read what units wrote in the stream."""


def layout_of(
    terms: UnitTerms,
    embedding: Float[Tensor, "batch d_out"],
    *,
    n_rows: int,
    block_rows: int,
    value_format: ValueFormat,
) -> Layout:
    """The layout of a store for terms like these."""
    readout, output_weights = terms.readout, terms.output_weights[0]
    n_heads, d_head, d_model = output_weights.shape
    return Layout(
        n_rows=n_rows,
        block_rows=block_rows,
        value_format=value_format,
        center=readout.center,
        n_layers=len(terms.heads),
        n_heads=n_heads,
        d_head=d_head,
        d_model=d_model,
        d_out=embedding.shape[1],
        n_routes=readout.weights.shape[1],
        n_constants=readout.constants.shape[1],
        pool_mlp=terms.pool_mlp is not None,
        half_precision=terms.rounding is not None,
    )


def weights_of(terms: UnitTerms, layout: Layout) -> StoredWeights:
    """The parts of the model that the terms go through."""
    gains = torch.ones(layout.term_packing.width)
    if layout.value_format == "int16" and layout.n_routes == 1:
        gains = _gains(terms.readout.maps[0])
    return StoredWeights(
        term_gains=gains,
        output_weights=torch.stack(list(terms.output_weights)),
        output_biases=torch.stack(list(terms.output_biases)),
        maps=terms.readout.maps,
        constant_rows=terms.readout.constant_rows,
    )


def _gains(readout_map: Float[Tensor, "d_model d_out"]) -> Float[Tensor, "d_model"]:
    """How much each channel of the stream counts in the embedding, as powers of two: multiplying is then exact.

    Some channels are hundreds of times as large as the others, and the final norm's gain takes them back. Values that
    share a scale must be brought to one measure first, or such a channel would cost its group all precision.
    """
    norms = readout_map.detach().double().norm(dim=1)
    octaves = (norms / norms.max()).log2().round().clamp_min(LEAST_OCTAVE)
    return octaves.exp2().float()


class BlockRecord:
    """The arrays of one block, filled batch by batch.

    Rows that are not filled are those of samples that could not be read.
    """

    def __init__(self, layout: Layout, weights: StoredWeights, block: int) -> None:
        self._layout = layout
        self._gains = weights.term_gains
        self._start = layout.rows_of(block).start
        n_rows = len(layout.rows_of(block))
        self._arrays = {array.name: np.zeros(array.shape(n_rows), array.dtype) for array in layout.arrays()}
        self._arrays["samples/status"][:] = SKIPPED

    @torch.inference_mode()
    def fill(
        self,
        rows: Sequence[int],
        terms: UnitTerms,
        embedding: Float[Tensor, "batch d_out"],
        labels: Sequence[int],
    ) -> None:
        """Put in a batch.

        Args:
            rows: rows of the file.
            terms: of the batch.
            embedding: the model's own.
            labels: −1 where there is none.

        Raises:
            InputError: values that are not finite, or that the format cannot hold.
        """
        at = np.asarray(rows) - self._start
        for name, values in _values_of(terms, self._layout).items():
            packing = self._layout.head_packing
            if name == "terms":
                packing, values = self._layout.term_packing, values * self._gains.to(values)
            try:
                raw, scales = packing.pack(values)
            except InputError as error:
                raise InputError(f"{name} of rows {rows[0]} to {rows[-1]}: {error}") from error
            self._arrays[f"{name}/values"][:, at] = raw
            if packing.groups:
                self._arrays[f"{name}/scales"][:, at] = scales
        per_sample: dict[str, Tensor] = {
            "samples/inverse_scale": _inverse_scale(terms),
            "samples/constants": terms.readout.constants,
            "samples/embedding": embedding,
        }
        for name, values in per_sample.items():
            self._arrays[name][at] = _numbers(values)
        self._arrays["samples/label"][at] = labels
        self._arrays["samples/status"][at] = WRITTEN
        if self._layout.half_precision:
            for layer in range(self._layout.n_layers):
                self._arrays["rounding/heads"][layer, at] = _numbers(terms.head_rounding(layer))
            self._arrays["rounding/bias"][at] = _numbers(cast(Tensor, terms.rounding))

    def contents(self) -> Mapping[PieceKey, Arrays]:
        """By piece, as `BlockFile.write` takes it."""
        return {
            key: tuple(
                self._arrays[array.name] if piece.unit is None else self._arrays[array.name][piece.unit]
                for array in piece.arrays
            )
            for key, piece in self._layout.pieces().items()
        }


def _values_of(terms: UnitTerms, layout: Layout) -> dict[str, Float[Tensor, "unit batch d"]]:
    """What is packed, by group (see `Layout`)."""
    readout, scale = terms.readout, _inverse_scale(terms)
    # A route that gathers nothing has no mean; its weight of zero says so.
    share = readout.weights / torch.where(scale == 0, 1.0, scale)[..., None]
    heads = [
        einsum(share, z, "batch route pos, batch pos head d -> head batch route d").flatten(2) for z in terms.heads
    ]
    if layout.n_routes > 1:
        others = [terms.embed_contribution(), *(terms.mlp_contribution(i) for i in range(layout.n_layers))]
    else:
        others = [einsum(share[:, 0], c, "batch pos, batch pos d -> batch d") for c in (terms.embed, *terms.mlps)]
    if layout.pool_mlp:
        others.append(terms.pool_contribution())
    return {"heads": torch.cat(heads), "terms": torch.stack(others)}


def _inverse_scale(terms: UnitTerms) -> Float[Tensor, "batch route"]:
    return terms.readout.weights.sum(dim=-1)


def _numbers(values: Float[Tensor, "*shape"]) -> Shaped[np.ndarray, "*shape"]:
    if not values.isfinite().all():
        raise InputError("Some values are NaN or infinite and cannot be stored.")
    return values.float().cpu().numpy()
