"""The numbers that a page's grid of units is coloured by, with what they mean in words."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from residual_lens.activations import Store
from residual_lens.atlas.contents import Measure
from residual_lens.atlas.effects import Effects
from residual_lens.atlas.learned import LearnedRun
from residual_lens.atlas.tasks import LabelledStore, store_names
from residual_lens.bases import Bases, fit_bases
from residual_lens.descriptions import LABEL, SIGNIFICANT, Descriptions
from residual_lens.dimensions import unit_dimensions
from residual_lens.selection import unit_scores
from residual_lens.spectral import spectral_cosine


@dataclass(frozen=True)
class Measured:
    """A measure, and what it comes to."""

    measure: Measure
    values: Mapping[str, float]
    """By unit; units that it is not defined for are left out, or not finite."""


def all_measures(
    stores: Sequence[Store],
    bases: Bases,
    tasks: Sequence[LabelledStore],
    effects: Sequence[Effects],
    descriptions: Descriptions | None,
    run: LearnedRun | None,
    *,
    progress: bool = False,
) -> list[Measured]:
    """All that there is for these stores, what units do to tasks first.

    Args:
        stores: the first one gives dimensions and the correlation with the output, each other a spectral cosine.
        bases: of the first store, for all units that are measured.
        tasks: of those stores that have labels.
        effects: of the tasks.
        descriptions: of the units, if there is a dictionary.
        run: what λ are of, if there is one.
        progress: show progress bars.
    """
    first, units = stores[0], list(bases)
    measured: list[Measured] = []
    for place, (task, found) in enumerate(zip(tasks, effects, strict=True)):
        measured += task_measures(task, place, found, units, progress=progress)
    measured.append(output_measure(first, units, progress=progress))
    if descriptions is not None:
        measured += text_measures(descriptions)
    for place, (name, other) in enumerate(zip(store_names(stores)[1:], stores[1:], strict=True), start=1):
        measured.append(similarity_measure(name, place, bases, other, progress=progress))
    measured += dimension_measures(first, units, progress=progress)
    if run is not None:
        measured.append(learned_measure(run, stores, bases, progress=progress))
    return measured


def dimension_measures(store: Store, units: Sequence[str], *, progress: bool = False) -> list[Measured]:
    """How many dimensions units take up (see `unit_dimensions`)."""
    found = unit_dimensions(store, units, progress=progress)

    def one(key: str, name: str, explanation: str, values: Iterable[float | int], digits: int = 1) -> Measured:
        return Measured(
            Measure(key, name, explanation, "dimension", digits=digits),
            {unit.unit: float(value) for unit, value in zip(found, values, strict=True)},
        )

    return [
        one(
            "two_nn",
            "Intrinsic dimension (TwoNN)",
            "Dimensions of the curved surface that the unit's contributions lie on, by the distances to each sample's "
            "two nearest neighbours.",
            [unit.two_nn for unit in found],
        ),
        one(
            "linear",
            "Linear dimension",
            "Principal components that hold 99 % of the variance of the unit's contributions.",
            [unit.linear for unit in found],
            digits=0,
        ),
        one(
            "ratio",
            "Linear over intrinsic dimension",
            "How many straight dimensions one dimension of the surface takes: 1 for a flat one, more where it bends.",
            [unit.linear / unit.two_nn if unit.two_nn else torch.nan for unit in found],
        ),
        one(
            "participation",
            "Participation ratio",
            "Components that share the variance, (Σλ)²/Σλ²: 1 where one component has it all, the number of components "
            "where they are even.",
            [unit.participation_ratio for unit in found],
        ),
        one(
            "first_share",
            "Share of the first component",
            "Share of the unit's variance along its first principal component.",
            [unit.first_share for unit in found],
            digits=2,
        ),
    ]


def output_measure(store: Store, units: Sequence[str], *, progress: bool = False) -> Measured:
    """Correlation with the embedding (see `unit_scores`)."""
    scores = unit_scores(store, "output", units, progress=progress)
    explanation = (
        "Mean Pearson correlation of the unit's contribution with the whole embedding, over the principal axes of the "
        "embedding: −1 to 1."
    )
    return Measured(
        Measure("output", "Correlation with the output", explanation, "relation", diverging=True),
        dict(zip(scores.units, scores.values.tolist(), strict=True)),
    )


def text_measures(descriptions: Descriptions) -> list[Measured]:
    """How well texts describe units, and whether chance would do as well."""
    return [
        Measured(
            Measure(
                "texts",
                f"Explained by {LABEL} texts",
                f"Share of the unit's variance that {LABEL} texts of the dictionary explain.",
                "relation",
            ),
            {one.unit: one.explained_by(LABEL) for one in descriptions},
        ),
        Measured(
            Measure(
                "chance",
                "Words by chance (p)",
                f"How often {LABEL} random texts explain as much of the unit's variance: above {SIGNIFICANT:g} its "
                "words may be luck.",
                "relation",
                digits=3,
            ),
            {one.unit: one.fit.p for one in descriptions},
        ),
    ]


def task_measures(
    task: LabelledStore, place: int, effects: Effects, units: Sequence[str], *, progress: bool = False
) -> list[Measured]:
    """What units have to do with a task, whose place is in the keys."""
    common = {"classifier": task.classifier, "rows": task.rows, "progress": progress}
    scores = {how: unit_scores(task.store, how, units, **common) for how in ("task", "supervised")}
    by_score = {how: dict(zip(found.units, found.values.tolist(), strict=True)) for how, found in scores.items()}
    lost = dict(zip(effects.units, effects.shares_lost.tolist(), strict=True))
    points = dict(zip(effects.units, (effects.accuracy - effects.accuracies_without).tolist(), strict=True))
    return [
        Measured(
            Measure(
                f"contrast:{place}",
                f"Contrast lost: {task.name}",
                f"Share of the contrast of {task.name} that is lost when the unit's mean takes its place: how far the "
                "right class is ahead of the others, on average. All units together have 1; negative ones work against "
                "the right class.",
                "effect",
                diverging=True,
                digits=3,
            ),
            lost,
        ),
        Measured(
            Measure(
                f"accuracy:{place}",
                f"Accuracy lost: {task.name}",
                f"Share of the images of {task.name} that are no longer classified right when the unit's mean takes "
                "its place, less those that are then.",
                "effect",
                diverging=True,
                digits=3,
            ),
            points,
        ),
        Measured(
            Measure(
                f"alone:{place}",
                f"Accuracy alone: {task.name}",
                f"Accuracy on {task.name} of the unit's contribution in the place of the whole embedding.",
                "relation",
            ),
            by_score["supervised"],
        ),
        Measured(
            Measure(
                f"task:{place}",
                f"Correlation with the task: {task.name}",
                "Mean Pearson correlation of the unit's contribution with the whole embedding, over the principal axes "
                f"of the embedding in the span of the classes of {task.name}: −1 to 1.",
                "relation",
                diverging=True,
            ),
            by_score["task"],
        ),
    ]


def similarity_measure(name: str, place: int, bases: Bases, other: Store, *, progress: bool = False) -> Measured:
    """Spectral cosine of units between the first store and another one, whose place is in the key."""
    others = fit_bases(other, units=list(bases), progress=progress)
    by_width: dict[int, list[str]] = {}
    for unit, basis in bases.items():
        by_width.setdefault(len(basis.components), []).append(unit)
    values: dict[str, float] = {}
    for units in by_width.values():
        (x, x_weights), (y, y_weights) = (_stacked(these, units) for these in (bases, others))
        values |= zip(units, spectral_cosine(x, y, x_weights=x_weights, y_weights=y_weights).tolist(), strict=True)
    explanation = (
        f"Spectral cosine, weighted by variance, between the unit's principal components here and on {name}: 1 where "
        "it uses the same directions in the same proportions."
    )
    return Measured(Measure(f"cosine:{place}", f"Spectral cosine with {name}", explanation, "relation"), values)


def learned_measure(run: LearnedRun, stores: Sequence[Store], bases: Bases, *, progress: bool = False) -> Measured:
    """What λ change (see `LearnedRun.changes`), on the run's own data where one of the stores is of these."""
    store = run.store_of_data(stores)
    fitted = bases if store is stores[0] else fit_bases(store, units=list(bases), progress=progress)
    explanation = (
        f"Σ (λ − 1)² · variance over the run's components of the unit on {store.provenance.data}/"
        f"{store.provenance.split}, as a share of that of all units here. λ = 1 changes nothing, so that a random "
        "start counts as change."
    )
    return Measured(Measure("energy", "Change by λ", explanation, "training", digits=3), run.changes(fitted))


def _stacked(
    bases: Bases, units: Sequence[str]
) -> tuple[Float[Tensor, "unit component d_out"], Float[Tensor, "unit component"]]:
    """Components and variances, float64."""
    components = torch.stack([bases[unit].components for unit in units]).double()
    return components, torch.stack([bases[unit].variances for unit in units]).double()
