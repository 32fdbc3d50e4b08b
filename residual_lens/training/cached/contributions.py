"""Where cached coordinates are computed from: a store on disk, or a decomposition in memory."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from residual_lens.activations import Rows, Store
from residual_lens.errors import InputError
from residual_lens.interventions.adapter import Origin
from residual_lens.training.cached.samples import CachedSamples
from residual_lens.units import Unit

Places = Int[np.ndarray, "_"]
BLOCK_ROWS = 1024
"""Samples of a decomposition that are worked on at once."""
FRAME_TOLERANCE = 1e-6
"""How much of a contribution may lie outside its frame, relative to its largest entry: what float32 rounds."""


class Contributions(ABC):
    """Labelled samples' direct contributions, read in float64 and by block."""

    origin: Origin
    """The model that they are of."""
    labels: Int[Tensor, "sample"]
    """Class indices; −1 where there is no label."""

    @abstractmethod
    def places(self, rows: Rows) -> Places:
        """Places of samples in the order asked for."""

    @abstractmethod
    def blocks(self, places: Places) -> Iterator[Places]:
        """Ascending places, by what is read at once."""

    @abstractmethod
    def frame(self, unit: Unit) -> Float[Tensor, "rank d_out"] | None:
        """Orthonormal rows that span all of a unit's contributions, if fewer than `d_out` are known to."""

    @abstractmethod
    def embeddings(self, at: Places) -> Float[Tensor, "sample d_out"]:
        """The model's own image embeddings."""

    @abstractmethod
    def coordinates(
        self, unit: Unit, at: Places, directions: Float[Tensor, "component d_out"]
    ) -> Float[Tensor, "sample component"]:
        """A unit's contributions, times `directionsᵀ`."""

    @abstractmethod
    def digest(self) -> str:
        """Of everything that the samples are."""


class OfStore(Contributions):
    """Contributions of a store. Heads' are never made: their features meet one small matrix each."""

    def __init__(self, store: Store) -> None:
        made = store.provenance
        self.origin = Origin(made.model, store.units, store.layout.d_out, made.model_fingerprint)
        self.labels = store.labels
        self._store = store
        self._maps: dict[str, Float[Tensor, "feature component"]] = {}
        self._layer: tuple[int | None, Places | None, Float[Tensor, "sample head d_out"] | None] = (None, None, None)

    def places(self, rows: Rows) -> Places:
        return self._store.places(rows)

    def blocks(self, places: Places) -> Iterator[Places]:
        return self._store.blocks(places)

    def frame(self, unit: Unit) -> Float[Tensor, "rank d_out"] | None:
        # In models of half precision a head has a share of its layer's rounding, which lies in no frame.
        if unit.kind != "head" or self._store.layout.half_precision:
            return None
        return self._store.head_frames.frames[self._store.head_frames.units.index(unit.name)]

    def embeddings(self, at: Places) -> Float[Tensor, "sample d_out"]:
        return self._store.embeddings(at).double()

    def coordinates(
        self, unit: Unit, at: Places, directions: Float[Tensor, "component d_out"]
    ) -> Float[Tensor, "sample component"]:
        if unit.kind != "head":
            return self._store.decompose(at, unit.name, dtype=torch.float64).values[:, 0] @ directions.mT
        if self._store.layout.half_precision:
            return self._head_of_layer(unit, at) @ directions.mT
        if unit.name not in self._maps:
            frames = self._store.head_frames
            place = frames.units.index(unit.name)
            self._maps[unit.name] = frames.mixing[place] @ (frames.frames[place] @ directions.mT)
        features = self._store.head_features(at, unit.name, dtype=torch.float64)[:, 0]
        return features @ self._maps[unit.name]

    def digest(self) -> str:
        made = self._store.provenance.as_json()
        del made["versions"]
        return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()

    def _head_of_layer(self, unit: Unit, at: Places) -> Float[Tensor, "sample d_out"]:
        """All heads of a layer at once, since they share what is read of its rounding."""
        layer, places, values = self._layer
        if layer != unit.layer or places is not at or values is None:
            heads = [other.name for other in self._store.units.select(f"L{unit.layer}") if other.kind == "head"]
            values = self._store.decompose(at, heads, dtype=torch.float64).values
            self._layer = unit.layer, at, values
        return values[:, unit.index]


class OfMemory(Contributions):
    """Contributions of samples that lie in memory."""

    def __init__(self, samples: CachedSamples) -> None:
        parts = samples.decomposition
        self.origin = Origin("the cached model", parts.units, parts.values.shape[2])
        self.labels = samples.labels.cpu()
        self._samples = samples

    def places(self, rows: Rows) -> Places:
        every = np.arange(len(self._samples.decomposition.values))
        try:
            return every[slice(None) if rows is None else rows if isinstance(rows, slice) else np.asarray(rows)]
        except IndexError as error:
            raise InputError(f"Rows are a slice, places 0 to {len(every) - 1} or a mask: {error}.") from error

    def blocks(self, places: Places) -> Iterator[Places]:
        return (places[first : first + BLOCK_ROWS] for first in range(0, len(places), BLOCK_ROWS))

    def frame(self, unit: Unit) -> Float[Tensor, "rank d_out"] | None:
        frames = self._samples.frames
        if frames is None or unit.name not in frames.units:
            return None
        frame = frames.frames[frames.units.index(unit.name)].cpu()
        for at in self.blocks(self.places(None)):
            # Rounding of half precision lies outside, and so may what a hook made of a head.
            x = self._of(unit, at)
            outside = x - x @ frame.mT @ frame
            if not bool(outside.abs().max() <= FRAME_TOLERANCE * x.abs().max()):
                return None
        return frame

    def embeddings(self, at: Places) -> Float[Tensor, "sample d_out"]:
        return self._values[torch.from_numpy(at)].double().sum(dim=1).cpu()

    def coordinates(
        self, unit: Unit, at: Places, directions: Float[Tensor, "component d_out"]
    ) -> Float[Tensor, "sample component"]:
        return self._of(unit, at) @ directions.mT

    def digest(self) -> str:
        return hashlib.sha256(self._values.cpu().contiguous().view(torch.uint8).numpy().data).hexdigest()

    @cached_property
    def _values(self) -> Float[Tensor, "sample unit d_out"]:
        return self._samples.decomposition.values.detach()

    def _of(self, unit: Unit, at: Places) -> Float[Tensor, "sample d_out"]:
        position = self._samples.decomposition.units.position(unit.name)
        return self._values[torch.from_numpy(at), position].double().cpu()
