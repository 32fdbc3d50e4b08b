"""Stored values back to direct contributions, for rows of the file."""

from collections.abc import Sequence
from threading import local
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from residual_lens.activations.blocks import Arrays, PieceKey
from residual_lens.activations.shards import Shards
from residual_lens.decomposition import feature_rows
from residual_lens.units import Unit

Run = slice | Int[np.ndarray, "sample"]
"""Rows of the file; as a slice, which copies nothing, where they follow one another."""


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

    def read(self, key: PieceKey, at: Run, into: Arrays | None = None) -> Arrays:
        """A piece's arrays at rows of the file, block by block.

        Args:
            key: which piece.
            at: rows.
            into: `room` for all blocks of rows that follow one another; made, if there is none.
        """
        run = run_of(at)
        if isinstance(run, slice):
            return self._run(key, run, into)
        blocks = run // self.layout.block_rows
        found = self.room(key, len(run))
        for block in np.unique(blocks):
            here = np.flatnonzero(blocks == block)
            within = run[here] - block * self.layout.block_rows
            for out, values in zip(found, self._shards.read(key, int(block)), strict=True):
                out[here] = values[within]
        return found

    def _run(self, key: PieceKey, run: slice, into: Arrays | None) -> Arrays:
        """Of rows that follow one another: their blocks are read into place, and nothing is copied."""
        n_rows = self.layout.block_rows
        blocks = range(run.start // n_rows, (run.stop - 1) // n_rows + 1)
        first = blocks.start * n_rows
        rows = min(blocks.stop * n_rows, self.layout.n_rows) - first
        found = tuple(each[:rows] for each in into or self.room(key, rows))
        self._shards.read_run(key, blocks, found)
        return tuple(each[run.start - first : run.stop - first] for each in found)

    def room(self, key: PieceKey, rows: int) -> Arrays:
        """Arrays for so many rows of a piece."""
        return tuple(np.empty((rows, *array.row), array.dtype) for array in self._pieces[key].arrays)

    def per_sample(self, name: str) -> np.ndarray:
        """An array of per-sample numbers whole, rows that were skipped included."""
        return self.read((name, None), np.arange(self.layout.n_rows))[0]

    def unpacked(self, key: PieceKey, at: Int[np.ndarray, "sample"], dtype: torch.dtype) -> Float[Tensor, "sample d"]:
        packing = self.layout.head_packing if key[0] == "heads" else self.layout.term_packing
        values = packing.unpack(*_with_scales(self.read(key, at)), dtype)
        return values if key[0] == "heads" else values / self._shards.weights.term_gains.to(dtype)

    def features(
        self, place: int, at: Int[np.ndarray, "sample"], dtype: torch.dtype
    ) -> Float[Tensor, "sample feature"]:
        room = torch.empty(len(at), self.n_features, dtype=dtype)
        return self.features_into(room, self.read(("heads", place), at), run_of(at))

    @property
    def n_features(self) -> int:
        """Of a head."""
        constants = 0 if self.layout.center == "own" else self.layout.n_constants
        return self.layout.n_routes * (self.layout.d_head + 1) + constants

    def features_into(
        self, room: Float[Tensor, "sample feature"], arrays: Arrays, at: Run
    ) -> Float[Tensor, "sample feature"]:
        """A head's features from what is stored of it, in `room` and its dtype."""
        scale = torch.from_numpy(self.inverse_scale[at]).to(room.dtype)
        raw, scales = _with_scales(arrays)
        if self.layout.n_routes == 1:
            d_head = self.layout.d_head
            self.layout.head_packing.unpack(raw, scales, factors=scale, room=room[:, :d_head])
            room[:, d_head : d_head + 1] = scale
        else:
            z = self.layout.head_packing.unpack(raw, scales, room.dtype).unflatten(-1, (self.layout.n_routes, -1))
            of_routes = room[:, : scale.shape[1] * (self.layout.d_head + 1)].unflatten(-1, (self.layout.n_routes, -1))
            torch.mul(z, scale[..., None], out=of_routes[..., :-1])
            of_routes[..., -1] = scale
        if self.layout.center == "uniform":
            room[:, -self.layout.n_constants :] = torch.from_numpy(self._constants[at])
        return room

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


class HeadReader(local):
    """Features of heads, read again and again into the same arrays; each thread has its own.

    To have fresh memory mapped costs more than to read and convert what is written there.
    """

    def __init__(self, terms: StoredTerms, n_rows: int) -> None:
        self._terms = terms
        self._arrays = terms.room(("heads", 0), n_rows)
        self._features = torch.empty(n_rows, terms.n_features, dtype=torch.float64)

    def read(self, place: int, at: Int[np.ndarray, "sample"]) -> Float[Tensor, "sample feature"]:
        """A head's features, float64; overwritten when the thread reads again."""
        run = run_of(at)
        if not isinstance(run, slice):
            return self._terms.features(place, at, torch.float64)
        arrays = self._terms.read(("heads", place), run, self._arrays)
        return self._terms.features_into(self._features[: len(at)], arrays, run)


def run_of(at: Run) -> Run:
    """Rows that follow one another as a slice, which copies nothing."""
    if not isinstance(at, slice) and len(at) and at[-1] - at[0] == len(at) - 1 and (at[1:] - at[:-1] == 1).all():
        return slice(int(at[0]), int(at[-1]) + 1)
    return at


def _with_scales(arrays: Arrays) -> tuple[Shaped[np.ndarray, "sample d"], Float[np.ndarray, "sample group"]]:
    """Values and scales, of which some formats have none."""
    raw, *scales = arrays
    return raw, scales[0] if scales else np.empty((len(raw), 0), np.float32)
