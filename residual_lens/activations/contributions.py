"""Stored values back to direct contributions, for rows of the file."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from residual_lens.activations.blocks import Arrays, PieceKey
from residual_lens.activations.shards import Shards
from residual_lens.decomposition import feature_rows
from residual_lens.units import Unit


class StoredTerms:
    """Reads pieces and applies the readout to them. `at` are rows of the file."""

    def __init__(self, shards: Shards) -> None:
        self.layout = shards.layout
        self._shards = shards
        self._pieces = shards.layout.pieces()
        self.status = self.per_sample("samples/status")
        self.inverse_scale = self.per_sample("samples/inverse_scale")
        self._constants = self.per_sample("samples/constants")
        self._rows_of_A: dict[tuple[int, torch.dtype], Float[Tensor, "head feature d_out"]] = {}

    def key(self, unit: Unit) -> PieceKey:
        if unit.kind == "head":
            return "heads", self.layout.head_names.index(unit.name)
        return "terms", self.layout.term_names.index(unit.name)

    def read(self, key: PieceKey, at: Int[np.ndarray, "sample"]) -> Arrays:
        """A piece's arrays at rows of the file, block by block."""
        run = _run_of(at)
        if isinstance(run, slice):
            return self._run(key, run)
        blocks = at // self.layout.block_rows
        found = self._room(key, len(at))
        for block in np.unique(blocks):
            here = np.flatnonzero(blocks == block)
            within = at[here] - block * self.layout.block_rows
            for out, values in zip(found, self._shards.read(key, int(block)), strict=True):
                out[here] = values[within]
        return found

    def _run(self, key: PieceKey, run: slice) -> Arrays:
        """Of rows that follow one another: their blocks are read into place, and nothing is copied."""
        n_rows = self.layout.block_rows
        blocks = range(run.start // n_rows, (run.stop - 1) // n_rows + 1)
        first = blocks.start * n_rows
        found = self._room(key, min(blocks.stop * n_rows, self.layout.n_rows) - first)
        for block in blocks:
            rows = slice(block * n_rows - first, (block + 1) * n_rows - first)
            self._shards.read(key, block, tuple(each[rows] for each in found))
        return tuple(each[run.start - first : run.stop - first] for each in found)

    def _room(self, key: PieceKey, rows: int) -> Arrays:
        return tuple(np.empty((rows, *array.row), array.dtype) for array in self._pieces[key].arrays)

    def per_sample(self, name: str) -> np.ndarray:
        """An array of per-sample numbers whole, rows that were skipped included."""
        return self.read((name, None), np.arange(self.layout.n_rows))[0]

    def unpacked(
        self,
        key: PieceKey,
        at: Int[np.ndarray, "sample"],
        dtype: torch.dtype,
        *,
        factors: Float[Tensor, "sample 1"] | None = None,
        spare: int = 0,
    ) -> Float[Tensor, "sample d"]:
        packing = self.layout.head_packing if key[0] == "heads" else self.layout.term_packing
        raw, *scales = self.read(key, at)
        scale = scales[0] if scales else np.empty((len(at), 0), np.float32)
        values = packing.unpack(raw, scale, dtype, factors=factors, spare=spare)
        return values if key[0] == "heads" else values / self._shards.weights.term_gains.to(dtype)

    def features(
        self, place: int, at: Int[np.ndarray, "sample"], dtype: torch.dtype
    ) -> Float[Tensor, "sample feature"]:
        scale = torch.from_numpy(self.inverse_scale[_run_of(at)]).to(dtype)
        if self.layout.n_routes == 1:
            features = self.unpacked(("heads", place), at, dtype, factors=scale, spare=1)
            features[:, -1:] = scale
        else:
            z = self.unpacked(("heads", place), at, dtype).unflatten(-1, (self.layout.n_routes, -1))
            features = torch.cat([z * scale[..., None], scale[..., None]], dim=-1).flatten(1)
        if self.layout.center == "own":
            return features
        return torch.cat([features, torch.from_numpy(self._constants[at]).to(dtype)], dim=-1)

    def of_heads(
        self, layer: int, units: Sequence[Unit], at: Int[np.ndarray, "sample"], dtype: torch.dtype
    ) -> Float[Tensor, "sample chosen d_out"]:
        first = layer * self.layout.n_heads
        rows_of_A = self._feature_rows(layer, dtype)
        indices = [cast(int, unit.index) for unit in units]
        values = torch.stack([self.features(first + i, at, dtype) @ rows_of_A[i] for i in indices], dim=1)
        if self.layout.half_precision:
            values += torch.from_numpy(self.read(("rounding/heads", layer), at)[0]).to(dtype)[:, None]
            if self.layout.center == "uniform":
                values += self._rounding(at, dtype)[:, None] / (self._n_shares * self.layout.n_heads)
        return values

    def of_other(self, unit: Unit, at: Int[np.ndarray, "sample"], dtype: torch.dtype) -> Float[Tensor, "sample d_out"]:
        """Of a unit that is no head."""
        weights = self._shards.weights
        if unit.kind == "bias":
            return self._bias(at, dtype)
        values = self.unpacked(self.key(unit), at, dtype)
        if self.layout.n_routes > 1:
            return values
        scaled = values * torch.from_numpy(self.inverse_scale[at]).to(dtype)
        values = scaled @ weights.maps[0].to(dtype)
        return values if self.layout.center == "own" else values + self._bias(at, dtype) / self._n_shares

    def _bias(self, at: Int[np.ndarray, "sample"], dtype: torch.dtype) -> Float[Tensor, "sample d_out"]:
        constants = torch.from_numpy(self._constants[at]).to(dtype)
        values = constants @ self._shards.weights.constant_rows.to(dtype)
        return values + self._rounding(at, dtype) if self.layout.half_precision else values

    def _rounding(self, at: Int[np.ndarray, "sample"], dtype: torch.dtype) -> Float[Tensor, "sample d_out"]:
        return torch.from_numpy(self.read(("rounding/bias", None), at)[0]).to(dtype)

    @property
    def _n_shares(self) -> int:
        """Parts that "uniform" centring shares the constant among: the embedding, and two a layer."""
        return 2 * self.layout.n_layers + 1

    def _feature_rows(self, layer: int, dtype: torch.dtype) -> Float[Tensor, "head feature d_out"]:
        if (layer, dtype) in self._rows_of_A:
            return self._rows_of_A[layer, dtype]
        weights = self._shards.weights
        rows = feature_rows(
            weights.output_weights[layer],
            weights.output_biases[layer],
            weights.maps,
            weights.constant_rows,
            self.layout.center,
            self.layout.n_layers,
        ).to(dtype)
        # Those of attention pooling are large, and are made anew.
        if self.layout.n_routes == 1:
            self._rows_of_A[layer, dtype] = rows
        return rows


def _run_of(at: Int[np.ndarray, "sample"]) -> slice | Int[np.ndarray, "sample"]:
    """Rows that follow one another as a slice, which copies nothing."""
    if len(at) and at[-1] - at[0] == len(at) - 1 and (at[1:] - at[:-1] == 1).all():
        return slice(int(at[0]), int(at[-1]) + 1)
    return at
