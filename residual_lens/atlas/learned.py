"""What a run's λ do to principal components, be they the run's own or those of other samples."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from residual_lens.activations import Store
from residual_lens.bases import Bases
from residual_lens.explain.of_run import residual_of_run
from residual_lens.interventions import ResiDual
from residual_lens.interventions.adapter import CachedForm, Origin
from residual_lens.interventions.components import initial_scales
from residual_lens.training.runs import RunResult


@dataclass(frozen=True, eq=False)
class LearnedScales:
    """λ as factors on the components of some bases, by unit; units that the run left out are not there."""

    after: Mapping[str, Float[Tensor, "component"]]
    """As trained."""
    before: Mapping[str, Float[Tensor, "component"]]
    """At the start of training; empty where the start is not known."""


@dataclass(frozen=True, eq=False)
class LearnedRun:
    """A finished run of ResiDual on the direct path."""

    result: RunResult
    """What it was."""
    residual: ResiDual
    """As trained."""
    form: CachedForm
    """What its λ multiply."""
    start: Float[Tensor, "total"] | None
    """Where λ started; None where that depended on the spectrum of its samples."""

    @classmethod
    def load(cls, folder: str | Path, origin: Origin) -> "LearnedRun":
        """A run from its folder.

        Args:
            folder: of a finished run with method `residual` or `residual*`.
            origin: the model that it is to be of.

        Raises:
            InputError: no finished run, or one of another method.
            MismatchError: a run of another model or centring.
        """
        result, residual = residual_of_run(Path(folder))
        config = result.config
        is_known = config.scales in ("ones", "randn")
        start = initial_scales(config.scales, [], list(residual.config.counts), config.seed) if is_known else None
        return cls(result, residual, residual.cached_form(origin), start)

    @torch.no_grad()
    def seen_from(self, bases: Bases) -> LearnedScales:
        """What λ do to the components of bases of the same model, fitted on whatever samples.

        With the run's components φ_k, a component ψ is multiplied, onto itself, by `⟨ψ, RD ψ⟩ = Σ_k λ_k ⟨φ_k, ψ⟩²`,
        plus `1 − Σ_k ⟨φ_k, ψ⟩²` where what lies beyond the φ_k passes ("residual"). For bases of the run's own
        training split this is λ itself.
        """
        after: dict[str, Tensor] = {}
        before: dict[str, Tensor] = {}
        for unit, here, overlaps in self._overlaps(bases):
            beyond = (1 - overlaps.sum(dim=1)) * self.form.rest_passes
            after[unit] = overlaps @ self.residual.scales.double()[here] + beyond
            if self.start is not None:
                before[unit] = overlaps @ self.start.double()[here] + beyond
        return LearnedScales(after, before)

    @torch.no_grad()
    def changes(self, bases: Bases) -> dict[str, float]:
        """Each unit's share of the change of energy on some samples, as `explain` has it.

        A unit's change is `Σ_k (λ_k − 1)² φ_kᵀ Σ φ_k` with the run's components φ_k and the covariance Σ of the unit's
        contributions; shares are of that of all units in the bases.

        Args:
            bases: of the samples, which their variances are of.

        Returns:
            By unit; empty where λ change nothing.
        """
        energy: dict[str, float] = {}
        for unit, here, overlaps in self._overlaps(bases):
            scales = self.residual.scales.double()[here]
            energy[unit] = float((scales - 1).square() @ (bases[unit].variances.double() @ overlaps))
        total = sum(energy.values())
        return {unit: value / total for unit, value in energy.items()} if total else {}

    def store_of_data(self, stores: Sequence[Store]) -> Store:
        """The one whose samples are the run's own data, of the test split if several are; else the first one."""
        own = [store for store in stores if store.provenance.data == self.result.config.data]
        return min(own or stores[:1], key=lambda store: store.provenance.split != "test")

    def _overlaps(self, bases: Bases) -> Iterator[tuple[str, slice, Float[Tensor, "component own"]]]:
        """For each unit that is rescaled: its name, where its λ are, and `⟨ψ, φ_k⟩²`."""
        for unit in (name for name in self.residual.config.units if name in bases):
            first, directions = self.form.units[unit].first, self.form.units[unit].directions
            if directions is not None:
                overlaps = (bases[unit].components.double() @ directions.double().mT).square()
                yield unit, slice(first, first + len(directions)), overlaps
