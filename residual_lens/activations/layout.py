"""Which arrays an activation store consists of, and how they are cut into blocks of rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import ceil, prod
from typing import NamedTuple

import numpy as np

from residual_lens.activations.formats import Packing, ValueFormat
from residual_lens.decomposition import Center
from residual_lens.units import Units

WRITTEN, SKIPPED = 1, 2
"""Values of `samples/status`; 0 where nothing was written yet."""


class Array(NamedTuple):
    """An array of the file. Rows are its first axis, or its second one behind an axis of units or layers."""

    name: str
    """Path in the HDF5 file."""
    units: int | None
    """Length of the axis before the rows, if there is one."""
    row: tuple[int, ...]
    """Shape of one row."""
    dtype: np.dtype
    """Element type."""

    def shape(self, rows: int) -> tuple[int, ...]:
        """Shape for a number of rows."""
        return (rows, *self.row) if self.units is None else (self.units, rows, *self.row)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row (of one unit)."""
        return prod(self.row) * self.dtype.itemsize


class Piece(NamedTuple):
    """What is written, read and checked as one: a unit's values, or one array of per-sample numbers."""

    arrays: tuple[Array, ...]
    """Values and, where the format has them, scales."""
    unit: int | None
    """Place on the arrays' first axis."""


@dataclass(frozen=True)
class Layout:
    """Sizes of a store. Values are kept in the scale of the stream, behind the model's pooling weights.

    With pooling weights `w[route, pos]` over the final norm's scale (see `Readout`), `s[route] = Σ_pos w[route, pos]`:

    * `heads/values` `[unit row route·d_head]`: `Σ_pos w z / s`. Where the embedding reads one token, heads' `z` there.
    * `terms/values` `[unit row d]`: `embed`, then the MLPs: `Σ_pos w c / s`, with `d = d_model`. Attention pooling has
      a route for each of its heads; there they are direct contributions, with `d = d_out`, and `pool_mlp_out` follows.
      As int16 they are multiplied by `weights/term_gains`: channels that count less in the embedding are made smaller.
    * `samples/inverse_scale` `[row route]`: `s`. `samples/constants` `[row constant]`: factors of the constant rows.
    * `samples/embedding` `[row d_out]`, `samples/label`, `samples/status` `[row]`.
    * `rounding/heads` `[layer row d_out]`, `rounding/bias` `[row d_out]`: models of half precision only.
    """

    n_rows: int
    """Samples, those that could not be read included."""
    block_rows: int
    """Rows that are written, and checked, at once."""
    value_format: ValueFormat
    """How `heads/values` and `terms/values` lie on disk."""
    center: Center
    """Centring of the contributions."""
    n_layers: int
    n_heads: int
    d_head: int
    d_model: int
    d_out: int
    n_routes: int
    """Heads of an attention pooling; 1 for other poolings."""
    n_constants: int
    """Constant rows of the readout."""
    pool_mlp: bool
    """Whether there is a unit `pool_mlp_out`."""
    half_precision: bool
    """Whether the model rounds its stream, so that rounding is kept as well."""

    @cached_property
    def units(self) -> Units:
        """The model's units."""
        return Units.of_vit(self.n_layers, self.n_heads, bias=self.center == "own", pool_mlp=self.pool_mlp)

    @cached_property
    def head_names(self) -> tuple[str, ...]:
        """Units of `heads/values`."""
        return tuple(unit.name for unit in self.units if unit.kind == "head")

    @cached_property
    def term_names(self) -> tuple[str, ...]:
        """Units of `terms/values`."""
        return tuple(unit.name for unit in self.units if unit.kind in ("embed", "mlp", "pool"))

    @property
    def head_packing(self) -> Packing:
        """Of `heads/values`."""
        return Packing(self.value_format, self.n_routes * self.d_head)

    @property
    def term_packing(self) -> Packing:
        """Of `terms/values`."""
        return Packing(self.value_format, self.d_model if self.n_routes == 1 else self.d_out)

    @property
    def n_blocks(self) -> int:
        """Blocks; the last one may be shorter."""
        return ceil(self.n_rows / self.block_rows)

    def rows_of(self, block: int) -> range:
        """Rows of a block."""
        return range(block * self.block_rows, min((block + 1) * self.block_rows, self.n_rows))

    def pieces(self) -> dict[tuple[str, int | None], Piece]:
        """All pieces in the order of their checksums, by group or array and unit."""
        found: dict[tuple[str, int | None], Piece] = {}
        for group, names, packing in self._packed():
            arrays = [Array(f"{group}/values", len(names), (packing.width,), packing.dtype)]
            if packing.groups:
                arrays.append(Array(f"{group}/scales", len(names), (packing.groups,), np.dtype(np.float32)))
            found |= {(group, unit): Piece(tuple(arrays), unit) for unit in range(len(names))}
        for array in self._per_sample():
            units = [None] if array.units is None else range(array.units)
            found |= {(array.name, unit): Piece((array,), unit) for unit in units}
        return found

    def arrays(self) -> tuple[Array, ...]:
        """All arrays, each once."""
        return tuple(dict.fromkeys(array for piece in self.pieces().values() for array in piece.arrays))

    def _packed(self) -> Iterator[tuple[str, tuple[str, ...], Packing]]:
        yield "heads", self.head_names, self.head_packing
        yield "terms", self.term_names, self.term_packing

    def _per_sample(self) -> Iterator[Array]:
        single = np.dtype(np.float32)
        yield Array("samples/inverse_scale", None, (self.n_routes,), single)
        yield Array("samples/constants", None, (self.n_constants,), single)
        yield Array("samples/embedding", None, (self.d_out,), single)
        yield Array("samples/label", None, (), np.dtype(np.int64))
        yield Array("samples/status", None, (), np.dtype(np.uint8))
        if self.half_precision:
            yield Array("rounding/heads", self.n_layers, (self.d_out,), single)
            yield Array("rounding/bias", None, (self.d_out,), single)
