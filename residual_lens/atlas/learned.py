"""What a run's λ do to principal components, be they the run's own or those of other samples."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

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
    energy: Mapping[str, float]
    """Each unit's share of `Σ_k (λ_k − 1)² variance_k` over these units, the change of energy of `explain`."""


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

        Args:
            bases: their variances are also those of the energy.
        """
        after: dict[str, Tensor] = {}
        before: dict[str, Tensor] = {}
        energy: dict[str, float] = {}
        for unit in (name for name in self.residual.config.units if name in bases):
            first, directions = self.form.units[unit].first, self.form.units[unit].directions
            if directions is None:
                continue
            here = slice(first, first + len(directions))
            overlaps = (bases[unit].components.double() @ directions.double().mT).square()
            beyond = (1 - overlaps.sum(dim=1)) * self.form.rest_passes
            scales = self.residual.scales.detach().double()[here]
            after[unit] = overlaps @ scales + beyond
            if self.start is not None:
                before[unit] = overlaps @ self.start.double()[here] + beyond
            energy[unit] = float((scales - 1).square() @ (bases[unit].variances.double() @ overlaps))
        total = sum(energy.values())
        return LearnedScales(after, before, {unit: value / total for unit, value in energy.items()} if total else {})
