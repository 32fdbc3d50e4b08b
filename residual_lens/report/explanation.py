"""What a trained ResiDual learned, as numbers and words: what tables and figures of `residual-lens explain` show."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from residual_lens.files import write_atomically

KIND = "residual_lens.Explanation"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Energy:
    """A term's part of the embedding's second moment `E‖e‖²`, as shares of it.

    `E‖e‖² = Σ_t E⟨t, e⟩`, so that `own + cross` of all terms add up to 1; `cross` may be negative.
    """

    own: float
    """`E‖t‖² / E‖e‖²`."""
    cross: float
    """`E⟨t, e − t⟩ / E‖e‖²`: with what stands beside it in the embedding."""

    @property
    def total(self) -> float:
        """`E⟨t, e⟩ / E‖e‖²`."""
        return self.own + self.cross


@dataclass(frozen=True)
class Label:
    """Texts that stand for what a unit writes."""

    texts: tuple[str, ...]
    """In the order of matching pursuit."""
    explained: float
    """Share of the unit's variance that they explain together."""


@dataclass(frozen=True)
class ExplainedUnit:
    """What λ does to one unit."""

    unit: str
    """Its name."""
    scales: tuple[float, ...]
    """Its λ, the component of most variance first."""
    factor: float
    """`√(Σ_k λ_k² E y_k² / Σ_k E y_k²)`: above 1 the unit is amplified, below 1 silenced."""
    change: float
    """Share of `Σ_k (λ_k − 1)² variance_k` over all units."""
    before: Energy
    """Of its rescaled components, with λ = 1."""
    after: Energy
    """Of the same with λ as learned."""
    says_before: Label
    """Of the unit's whole contribution, as the model makes it."""
    says_after: Label
    """Of what the edit leaves in its place."""


@dataclass(frozen=True)
class ExplainedComponent:
    """What λ does to one component."""

    unit: str
    """Its unit."""
    component: int
    """Its place in the unit's basis, from 0."""
    scale: float
    """λ."""
    change: float
    """Share of `Σ_k (λ_k − 1)² variance_k` over all components."""
    before: Energy
    """With λ = 1."""
    after: Energy
    """With λ as learned."""
    positive: tuple[str, ...]
    """Texts furthest along the component."""
    negative: tuple[str, ...]
    """Texts furthest against it."""


@dataclass(frozen=True)
class PruningCurve:
    """Accuracy when only the first components of an order keep their λ and all others have λ = 1."""

    order: str
    """What they are ordered by."""
    accuracy: tuple[float, ...]
    """At each of `Explanation.kept`; the mean over seeds where the order is random."""
    low: tuple[float, ...]
    """The least over seeds."""
    high: tuple[float, ...]
    """The most over seeds."""


@dataclass(frozen=True)
class Explanation:
    """What a trained ResiDual learned."""

    about: Mapping[str, Any]
    """`model`, `data`, `variant`, `dictionary`, and what else is known of the run; as JSON can hold it."""
    n_samples: int
    """Samples that everything is measured on."""
    zero_shot: float
    """Accuracy of the model as it is, in [0, 1]."""
    unscaled: float
    """With the adapter at λ = 1: the model but for means and, of "residual*", all other units, which are dropped."""
    learned: float
    """With λ as learned."""
    rest_before: Energy
    """Of all that is not rescaled, with λ = 1."""
    rest_after: Energy
    """The same with λ as learned."""
    units: tuple[ExplainedUnit, ...]
    """In the order of the model."""
    components: tuple[ExplainedComponent, ...]
    """Those of largest change, the largest first."""
    kept: tuple[int, ...]
    """How many components keep their λ along the pruning curves: 0, 1, 2, 4, 8, …, all."""
    curves: tuple[PruningCurve, ...]
    """One an order."""
    share_of_gain: float
    """Of the gain over λ = 1, that `reached` and `held` are about."""
    reached: int | None
    """Fewest components, by change of energy, that reach this share; `None` where there is no gain."""
    held: int | None
    """From so many on, each number of components has at least this share."""

    @property
    def epochs_without_gain(self) -> int:
        """Passes over the training samples, none of which was better than the start; 0 where λ were learned."""
        run = self.about.get("run", {})
        return 0 if run.get("best_epoch", 1) else run["epochs"]

    @property
    def began_at_random(self) -> bool:
        """Whether λ began at 1 + N(0, 1), as far as is known."""
        return self.about.get("run", {}).get("scales") == "randn"

    def save(self, path: str | Path) -> None:
        """Write one JSON file, whole or not at all."""
        path = Path(path)
        values = {"kind": KIND, "format": FORMAT_VERSION, **asdict(self)}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, f"{json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)}\n".encode())
