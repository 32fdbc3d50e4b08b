"""From a trained ResiDual and samples to what it learned."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from residual_lens.activations import Store
from residual_lens.errors import InputError
from residual_lens.explain.energies import Energies, energies, variances
from residual_lens.explain.pruning import doubling, fewest, pruned_accuracies
from residual_lens.explain.saying import NO_TEXTS, UnitEdit, labels_of_unit, texts_along
from residual_lens.interventions import ResiDual
from residual_lens.report.explanation import ExplainedComponent, ExplainedUnit, Explanation, Label, PruningCurve
from residual_lens.text import Dictionary, ZeroShotClassifier
from residual_lens.training.cached import CachedSamples, Coordinates, coordinates

SHARE_OF_GAIN = 0.95
RANDOM_ORDERS = 5
"""Seeds of the random order that pruning is compared with."""


@torch.no_grad()
def explain(
    residual: ResiDual,
    source: Store | CachedSamples,
    classifier: ZeroShotClassifier,
    dictionary: Dictionary | None,
    *,
    data: str,
    n_components: int = 20,
    n_texts: int = 5,
    about: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Explanation:
    """What λ of a trained ResiDual does on the direct path: to units, to components, to accuracy.

    With `e = base + Σ_k λ_k y_k φ_k` the edited embedding, a component's energy is `E‖λ_k y_k φ_k‖²` and its cross term
    `E⟨λ_k y_k φ_k, e − λ_k y_k φ_k⟩`, both as shares of `E‖e‖²`, for λ = 1 and for λ as learned.

    The pruning curves keep the λ of some components and set all others to 1, which leaves them as they are. Components
    are ordered by the change of energy `(λ_k − 1)² variance_k`, by `|λ_k − 1|`, and at random (5 seeds). Variances are
    those of the samples given; no order knows their labels.

    Args:
        residual: trained on the direct path.
        source: labelled samples that it was not trained on: a store, or cached samples.
        classifier: of the task.
        dictionary: texts embedded by the same model; `None` for no descriptions.
        data: what the samples are, for people.
        n_components: components to describe, those of largest change.
        n_texts: texts a description.
        about: what else is known of the run, kept with the result.
        progress: show a progress bar.

    Raises:
        InputError: numbers out of range, no samples, or labels that are not classes.
        MismatchError: a dictionary, samples or a classifier of another model.

    Example:
        >>> found = explain(residual, store, classifier, words, data="digits/test")  # doctest: +SKIP
        >>> found.learned, found.reached, found.units[3].says_after.texts[:2]  # doctest: +SKIP
        (0.98, 61, ('seven', 'nine'))
    """
    if n_components < 1 or n_texts < 1:
        raise InputError(f"Expected at least 1 component and 1 text, got {n_components=} and {n_texts=}.")
    if dictionary is not None:
        dictionary.require_space(residual.config.d_out, residual.config.model_name, residual.config.fingerprint)
    plain = source.embeddings() if isinstance(source, Store) else source.decomposition.total()
    cached = coordinates(residual, source)
    # Before all else that takes long: it refuses labels that are no classes, and class embeddings of another width.
    zero_shot = classifier.accuracy(plain.cpu(), cached.labels)
    learned = _Learned.of(residual, cached)
    factors = learned.factors

    def accuracies(order: Int[Tensor, "component"], kept: tuple[int, ...] | range) -> Float[Tensor, "step"]:
        return pruned_accuracies(cached, factors, classifier.weights, order, kept)

    orders = _orders(learned)
    of_each_number = accuracies(orders["change of energy"][0], range(len(factors) + 1))
    reached, held = fewest(of_each_number, SHARE_OF_GAIN)
    kept = doubling(len(factors))
    curves = {name: torch.stack([accuracies(order, kept) for order in drawn]) for name, drawn in orders.items()}
    units = []
    for unit in tqdm(learned.places, desc="describing", unit="unit", disable=not progress):
        edit = learned.edit(unit, rest_passes=residual.config.variant == "residual")
        labels = (NO_TEXTS, NO_TEXTS) if dictionary is None else labels_of_unit(source, edit, dictionary, n_texts)
        units.append(learned.unit(unit, *labels))
    return Explanation(
        about={
            "model": residual.config.model_name,
            "data": data,
            "variant": residual.config.variant,
            "dictionary": None if dictionary is None else dict(dictionary.provenance),
            **(about or {}),
        },
        n_samples=len(cached.labels),
        zero_shot=zero_shot,
        unscaled=float(of_each_number[0]),
        learned=float(of_each_number[-1]),
        rest_before=learned.before.of_rest(),
        rest_after=learned.after.of_rest(),
        units=tuple(units),
        components=learned.components(dictionary, n_components, n_texts),
        kept=kept,
        curves=tuple(_curve(name, found) for name, found in curves.items()),
        share_of_gain=SHARE_OF_GAIN,
        reached=reached,
        held=held,
    )


@dataclass(frozen=True, eq=False)
class _Learned:
    """λ by component, and what it changes."""

    cached: Coordinates
    factors: Float[Tensor, "component"]
    change: Float[Tensor, "component"]
    before: Energies
    after: Energies
    places: Mapping[str, Int[Tensor, "chosen"]]
    """Components of each unit, the largest variance of its basis first."""

    @classmethod
    def of(cls, residual: ResiDual, cached: Coordinates) -> "_Learned":
        """In two passes over the samples."""
        factors = residual.scales.detach().double().cpu()[cached.index]
        change = (factors - 1).square() * variances(cached)
        # Where λ is 1 throughout there is no change to share.
        change = change / change.sum().clamp_min(torch.finfo(torch.float64).tiny)
        order = cached.index.argsort()
        counts = residual.config.counts
        places = dict(zip(residual.config.units, order.split(list(counts)), strict=True))
        return cls(
            cached, factors, change, energies(cached, torch.ones_like(factors)), energies(cached, factors), places
        )

    def edit(self, unit: str, *, rest_passes: bool) -> UnitEdit:
        """What λ does to one unit's contributions."""
        at = self.places[unit]
        return UnitEdit(unit, self.cached.values[:, at], self.cached.directions[at], self.factors[at], rest_passes)

    def unit(self, name: str, says_before: Label, says_after: Label) -> ExplainedUnit:
        """What is said of one unit."""
        at = self.places[name]
        before, after = (float(one.own[at].sum()) for one in (self.before, self.after))
        return ExplainedUnit(
            unit=name,
            scales=tuple(self.factors[at].tolist()),
            factor=(after / before) ** 0.5 if before > 0 else 1.0,
            change=float(self.change[at].sum()),
            before=self.before.of(at),
            after=self.after.of(at),
            says_before=says_before,
            says_after=says_after,
        )

    def components(self, dictionary: Dictionary | None, n: int, n_texts: int) -> tuple[ExplainedComponent, ...]:
        """Those of largest change."""
        owners = {int(at): (unit, place) for unit, all_at in self.places.items() for place, at in enumerate(all_at)}
        chosen = self.change.argsort(descending=True, stable=True)[:n]
        ends = texts_along(self.cached.directions[chosen], dictionary, n_texts)
        return tuple(
            ExplainedComponent(
                *owners[int(at)],
                scale=float(self.factors[at]),
                change=float(self.change[at]),
                before=self.before.of(at[None]),
                after=self.after.of(at[None]),
                positive=positive,
                negative=negative,
            )
            for at, (positive, negative) in zip(chosen, ends, strict=True)
        )


def _orders(learned: _Learned) -> dict[str, list[Int[Tensor, "component"]]]:
    """By name; the random one once a seed."""

    def falling(by: Float[Tensor, "component"]) -> list[Int[Tensor, "component"]]:
        return [by.argsort(descending=True, stable=True)]

    n = len(learned.factors)
    drawn = [torch.randperm(n, generator=torch.Generator().manual_seed(seed)) for seed in range(RANDOM_ORDERS)]
    return {
        "change of energy": falling(learned.change),
        "|λ − 1|": falling((learned.factors - 1).abs()),
        "random": drawn,
    }


def _curve(order: str, accuracies: Float[Tensor, "seed step"]) -> PruningCurve:
    low, high = accuracies.amin(dim=0), accuracies.amax(dim=0)
    return PruningCurve(order, *(tuple(line.tolist()) for line in (accuracies.mean(dim=0), low, high)))
