"""Contributions of one unit of a store, as features and a linear map of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from residual_lens.activations import Store
from residual_lens.units import Unit


@dataclass(frozen=True, eq=False)
class UnitFeatures:
    """A unit's contributions, `u = f M Q`: of few features where it is a head, else `u = f` itself. All float64."""

    read: Callable[[Any], Float[Tensor, "sample feature"]]
    """Features of one block of rows; called from several threads at once."""
    mixing: Float[Tensor, "feature rank"] | None = None
    """`M`: to coordinates that are isometric to contributions (see `HeadFrames`)."""
    frame: Float[Tensor, "rank d_out"] | None = None
    """`Q`: orthonormal rows."""

    def onto(self, directions: Float[Tensor, "component d_out"]) -> Float[Tensor, "feature component"]:
        """What features are multiplied with for `⟨u, direction⟩`."""
        if self.mixing is None or self.frame is None:
            return directions.mT
        return self.mixing @ (self.frame @ directions.mT)

    def size(self, scatter: Float[Tensor, "feature feature"]) -> Float[Tensor, ""]:
        """`Σ_f S_ff |A_f|²` with `A = M Q`: the yardstick for rounding in whatever is computed from the scatter `S`."""
        return scatter.trace() if self.mixing is None else scatter.diagonal() @ self.mixing.square().sum(dim=1)

    def total(self, scatter: Float[Tensor, "feature feature"]) -> Float[Tensor, ""]:
        """Sum of squares of the contributions whose features have this scatter."""
        return scatter.trace() if self.mixing is None else ((scatter @ self.mixing) * self.mixing).sum()


def features_of(store: Store, units: Sequence[Unit], bar: tqdm) -> list[UnitFeatures]:
    """Of a store's units, by places of samples; every row that is read moves the bar on."""

    def of_head(unit: Unit) -> UnitFeatures:
        def read(at: Any) -> Float[Tensor, "sample feature"]:
            bar.update(len(at))
            return store.head_features(at, unit.name, dtype=torch.float64)[:, 0]

        place = store.head_frames.units.index(unit.name)
        return UnitFeatures(read, store.head_frames.mixing[place], store.head_frames.frames[place])

    def of_other(unit: Unit) -> UnitFeatures:
        def read(at: Any) -> Float[Tensor, "sample d_out"]:
            bar.update(len(at))
            return store.decompose(at, unit.name, dtype=torch.float64).values[:, 0]

        return UnitFeatures(read)

    return [of_head(unit) if unit.kind == "head" else of_other(unit) for unit in units]
