"""The activation store: everything an analysis needs of a model's run over a data set, by unit and by row."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from residual_lens.activations.contributions import HeadReader, StoredTerms
from residual_lens.activations.layout import SKIPPED, WRITTEN
from residual_lens.activations.provenance import Provenance
from residual_lens.activations.shards import Shards
from residual_lens.decomposition import Decomposition, HeadFrames
from residual_lens.errors import InputError, MismatchError
from residual_lens.hooked import HookedViT
from residual_lens.units import Unit, Units

Rows = slice | Sequence[int] | np.ndarray | Tensor | None
"""Samples of a store: a slice, places, a mask, or `None` for all."""


def check(path: str | Path, *, progress: bool = False) -> None:
    """Read a store whole and compare it with its checksums, as far as it can be opened at all.

    Args:
        path: as for `Store`.
        progress: show a progress bar.

    Raises:
        StoreError: with a line for each damaged piece.
    """
    shards = Shards(Path(path))
    try:
        shards.check(progress=progress)
    finally:
        shards.close()


class Store:
    """What `encode` wrote: the heads' `z`, what embedding and MLPs wrote, and the readout, for every sample.

    From it every direct contribution is rebuilt, by unit and by rows, reading no other unit and no other block of rows.
    What is read is checked against its checksum.

    Example:
        >>> with Store("digits.h5") as store:  # doctest: +SKIP
        ...     parts = store.decompose(rows=slice(0, 100), units=["L3H5", "embed"])
        ...     parts["L3H5"].shape
        torch.Size([100, 512])
    """

    def __init__(self, path: str | Path) -> None:
        """Open a store.

        Args:
            path: a file that `encode` finished; of several processes' shards the one that presents them.

        Raises:
            StoreError: missing, unfinished, damaged, or of another format.
        """
        self.path = Path(path)
        self._shards = Shards(self.path)
        self.layout = self._shards.layout
        self.provenance: Provenance = self._shards.provenance
        self._terms = StoredTerms(self._shards)
        status = self._terms.status
        self._present = np.flatnonzero(status == WRITTEN)
        self._skipped = np.flatnonzero(status == SKIPPED)

    def __len__(self) -> int:
        return len(self._present)

    def __repr__(self) -> str:
        made = self.provenance
        return (
            f"Store({str(self.path)!r}: {len(self):,} samples of {made.data}/{made.split}, {made.model}, "
            f"{len(self.units)} units, {made.value_format})"
        )

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[type["Store"], tuple[Path]]:
        """A copy in another process opens the file anew."""
        return Store, (self.path,)

    def close(self) -> None:
        """Let go of the files."""
        self._shards.close()

    @property
    def units(self) -> Units:
        """The model's units, in the order of every `unit` axis."""
        return self.layout.units

    @cached_property
    def labels(self) -> Int[Tensor, "sample"]:
        """Class indices; −1 where there is no label."""
        return torch.from_numpy(self._terms.per_sample("samples/label")[self._present])

    @cached_property
    def sample_ids(self) -> tuple[str, ...]:
        """Names of the samples in their data set."""
        ids = self._shards.sample_ids()
        return tuple(ids[row] for row in self._present)

    @cached_property
    def skipped_ids(self) -> tuple[str, ...]:
        """Names of the samples that could not be read."""
        ids = self._shards.sample_ids()
        return tuple(ids[row] for row in self._skipped)

    def embeddings(self, rows: Rows = None) -> Float[Tensor, "sample d_out"]:
        """The model's own image embeddings, not normalised."""
        return torch.from_numpy(self._terms.read(("samples/embedding", None), self._chosen(rows))[0])

    def inverse_scales(self, rows: Rows = None) -> Float[Tensor, "sample route"]:
        """`1/σ` of the final norm; of attention pooling, each route's sum of pattern over `σ`."""
        return torch.from_numpy(self._terms.inverse_scale[self._chosen(rows)])

    def decompose(
        self, rows: Rows = None, units: str | Iterable[str] = "all", *, dtype: torch.dtype = torch.float32
    ) -> Decomposition:
        """Direct contributions of some units for some samples.

        Args:
            rows: which samples; all by default.
            units: which units (`Units.select`).
            dtype: what to compute in, and what to give.

        Returns:
            `values` `[sample unit d_out]`, the units in the order of the model. With all units they sum to the
            embedding, to the precision of the store's format.

        Raises:
            InputError: no such rows or units.
            StoreError: what is read is damaged.
        """
        chosen, at = self.units.select(units), self._chosen(rows)
        if not chosen:
            raise InputError("No units were named: give 'all', 'heads', 'mlps', a layer like 'L3' or units' names.")
        values = torch.empty(len(at), len(chosen), self.layout.d_out, dtype=dtype)
        by_layer: dict[int, list[int]] = {}
        for place, unit in enumerate(chosen):
            if unit.kind == "head":
                by_layer.setdefault(cast(int, unit.layer), []).append(place)
            else:
                values[:, place] = self._terms.of_other(unit, at, dtype)
        for layer, places in by_layer.items():
            values[:, places] = self._terms.of_heads(layer, [chosen[place] for place in places], at, dtype)
        return Decomposition(values, Units(chosen))

    def head_features(
        self, rows: Rows = None, units: str | Iterable[str] = "heads", *, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "sample unit feature"]:
        """`[z/σ, 1/σ]` of heads (see `HeadFrames`, whose `coordinates` takes those of all heads).

        Raises:
            InputError: no such rows, or units that are not heads.
        """
        at, chosen = self._chosen(rows), self.heads(units)
        places = [self.layout.head_names.index(unit.name) for unit in chosen]
        features = [self._terms.features(place, at, dtype) for place in places]
        return torch.stack(features, dim=1) if len(features) > 1 else features[0][:, None]

    def head_reader(
        self, n_blocks: int
    ) -> Callable[[Unit, Int[np.ndarray, "sample"]], Float[Tensor, "sample feature"]]:
        """What reads a head's float64 features at places in `n_blocks` blocks at most: `head_features` for long passes.

        Each thread reads into its own array, which its next call overwrites.
        """
        reader = HeadReader(self._terms, n_blocks * self.layout.block_rows)
        return lambda unit, places: reader.read(self.layout.head_names.index(unit.name), self._present[places])

    def heads(self, units: str | Iterable[str] = "heads") -> tuple[Unit, ...]:
        """Heads by a selector.

        Raises:
            InputError: none, or units that are not heads.
        """
        chosen = self.units.select(units)
        others = [unit.name for unit in chosen if unit.kind != "head"]
        if others or not chosen:
            raise InputError(f"Expected heads, got {', '.join(others) or 'no units'}.")
        return chosen

    @cached_property
    def head_frames(self) -> HeadFrames:
        """Low-rank coordinates of every head's contribution."""
        weights = self._shards.weights
        return HeadFrames.of_weights(
            list(weights.output_weights),
            list(weights.output_biases),
            weights.maps,
            weights.constant_rows,
            self.layout.center,
        )

    def coordinates(
        self, unit: str, rows: Rows = None, *, dtype: torch.dtype = torch.float64
    ) -> tuple[Float[Tensor, "sample rank"], Float[Tensor, "rank d_out"] | None]:
        """A unit's contributions in as few coordinates as they are exact in, and the frame of these.

        Distances, products and variances of coordinates are those of the contributions `coordinates @ frame`, since the
        rows of the frame are orthonormal.

        Args:
            unit: its name.
            rows: which samples; all by default.
            dtype: what to compute in, and what to give.

        Returns:
            Of a head, its low-rank coordinates (see `HeadFrames`), without its share of rounding in models of half
            precision; of another unit, its contributions, and no frame.
        """
        if self.units[unit].kind != "head":
            return self.decompose(rows, unit, dtype=dtype).values[:, 0], None
        frames = self.head_frames
        place = frames.units.index(unit)
        features = self.head_features(rows, unit, dtype=dtype)[:, 0]
        return features @ frames.mixing[place].to(dtype), frames.frames[place].to(dtype)

    def values(self, unit: str, rows: Rows = None) -> Float[Tensor, "sample d"]:
        """What a unit gave in the stream where the embedding reads it: a head's `z`, what an MLP wrote.

        Of models that pool several tokens it is their weighted mean (see `Layout`).

        Raises:
            InputError: a unit that is not in the stream, or attention pooling, for which it was not stored.
        """
        if self.layout.n_routes > 1 or self.units[unit].kind in ("pool", "bias"):
            raise InputError(f"This store has no stream values of {unit}, only its contributions: use decompose.")
        return self._terms.unpacked(self._terms.key(self.units[unit]), self._chosen(rows), torch.float32)

    def places(self, rows: Rows = None) -> Int[np.ndarray, "sample"]:
        """Places of samples, as numbers from 0 and in the order asked for.

        Args:
            rows: which samples; all by default.

        Raises:
            InputError: no such rows.
        """
        return np.searchsorted(self._present, self._chosen(rows))

    def blocks(self, rows: Rows = None) -> Iterator[Int[np.ndarray, "chosen"]]:
        """Places of samples that lie in one block, in order: what a streaming pass goes through.

        Args:
            rows: which samples; all by default.
        """
        at = self.places(rows)
        blocks = self._present[at] // self.layout.block_rows
        for places in np.split(at, np.flatnonzero(np.diff(blocks)) + 1):
            if len(places):
                yield places

    def check(self, *, progress: bool = False) -> None:
        """Read everything once.

        Raises:
            StoreError: with a line for each damaged piece.
        """
        self._shards.check(progress=progress)

    def require_model(self, hvit: HookedViT) -> None:
        """Refuse another model than the one that was encoded.

        Raises:
            MismatchError: with every field that differs.
        """
        made = self.provenance
        pairs = {
            "model_fingerprint": (made.model_fingerprint, hvit.fingerprint()),
            "center": (made.center, hvit.center),
            "pooling": (made.pooling, hvit.cfg.pooling),
            "model_dtype": (made.model_dtype, str(hvit.dtype)),
        }
        differing = [f"{name} is {a[:16]}, not {b[:16]}" for name, (a, b) in pairs.items() if a != b]
        if differing:
            raise MismatchError(
                f"{self.path} was made with {made.model}, this is {hvit.cfg.model_name}: {'; '.join(differing)}. Use "
                "the model that it was made with, or encode the data with this one."
            )

    def _chosen(self, rows: Rows) -> Int[np.ndarray, "sample"]:
        """Rows of the file for samples."""
        if rows is None or isinstance(rows, slice):
            return self._present[rows or slice(None)]
        places = np.asarray(rows) if len(rows) else np.empty(0, np.intp)
        if places.dtype == bool and places.shape != self._present.shape:
            raise InputError(f"A mask of rows needs one value a sample, {len(self)}; got shape {list(places.shape)}.")
        if places.ndim != 1 or (places.dtype != bool and not np.issubdtype(places.dtype, np.integer)):
            raise InputError(f"Rows are a slice, a list of places or a mask, got {places.dtype} {list(places.shape)}.")
        if places.dtype != bool and len(places) and not (-len(self) <= places.min() <= places.max() < len(self)):
            raise InputError(
                f"Rows are places 0 to {len(self) - 1} here, got {int(places.min())} to {int(places.max())}."
            )
        return self._present[places]
