"""What was found, unit by unit, as the plain values of an atlas."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite

from jaxtyping import Float
from torch import Tensor

from residual_lens.activations import Store
from residual_lens.atlas.contents import Atlas, ClassEffect, ComponentEntry, Said, TaskEntry, UnitEntry
from residual_lens.atlas.effects import Effects
from residual_lens.atlas.ends import Ends
from residual_lens.atlas.learned import LearnedScales
from residual_lens.atlas.measures import Measured
from residual_lens.atlas.shown import Shown
from residual_lens.atlas.tasks import LabelledStore
from residual_lens.bases import Bases
from residual_lens.descriptions import LABEL, Description, Descriptions
from residual_lens.explain.saying import texts_along
from residual_lens.text import Dictionary
from residual_lens.units import Unit

N_TEXTS = 5
"""Texts at each end of a component."""
DIGITS = 4
"""Significant ones of each number: a page is read by people, and loaded by their browsers."""


@dataclass(frozen=True, eq=False)
class Found:
    """All that an atlas is made of."""

    store: Store
    bases: Bases
    ends: Mapping[str, tuple[Ends, ...]]
    shown: Shown
    dictionary: Dictionary | None
    descriptions: Descriptions | None
    tasks: Sequence[LabelledStore]
    effects: Sequence[Effects]
    learned: LearnedScales | None
    measured: Sequence[Measured]


def assembled(found: Found, *, grid: tuple[int, int], facts: Mapping[str, str]) -> Atlas:
    """The atlas."""
    store, layout = found.store, found.store.layout
    places = {place: at for at, place in enumerate(sorted(found.shown.thumbnails))}
    return Atlas(
        title="Head atlas",
        model=store.provenance.model,
        facts=dict(facts),
        n_layers=layout.n_layers,
        n_heads=layout.n_heads,
        measures=tuple(one.measure for one in found.measured),
        tasks=tuple(_task(task, effects) for task, effects in zip(found.tasks, found.effects, strict=True)),
        units=tuple(_unit(found, unit, places) for unit in found.bases),
        images=tuple(found.shown.thumbnails[place] for place in places),
        captions=tuple(_caption(store, place) for place in places),
        grid=grid,
        scale_start=None if found.learned is None else 1.0,
    )


def _unit(found: Found, name: str, places: Mapping[int, int]) -> UnitEntry:
    unit, basis = Unit.named(name), found.bases[name]
    description = None if found.descriptions is None else found.descriptions[name]
    varies = basis.total_variance > 0
    shares = _numbers(basis.variances.double() / basis.total_variance) if varies else ()
    learned = found.learned
    return UnitEntry(
        name=name,
        kind=unit.kind,
        layer=-1 if unit.layer is None else unit.layer,
        column=found.store.layout.n_heads if unit.index is None else unit.index,
        measures={one.measure.key: _number(one.values.get(name)) for one in found.measured},
        description=() if description is None else _said(description),
        explained=None if description is None else _number(description.explained_by(LABEL)),
        explained_by_chance=None if description is None else _number(description.fit.mean),
        p_value=None if description is None else _number(description.fit.p),
        coherence=None if description is None else _number(description.coherence.score),
        spectrum=shares,
        components=_components(found, name, shares, places),
        scales=None if learned is None or name not in learned.after else _numbers(learned.after[name]),
        scales_before=None if learned is None or name not in learned.before else _numbers(learned.before[name]),
        effects=tuple(_effect(task, effects, name) for task, effects in enumerate(found.effects)),
        attention={places[place]: map_ for place, map_ in found.shown.attention.get(name, {}).items()},
    )


def _components(
    found: Found, unit: str, shares: Sequence[float], places: Mapping[int, int]
) -> tuple[ComponentEntry, ...]:
    ends = found.ends[unit]
    texts = texts_along(found.bases[unit].components[: len(ends)], found.dictionary, N_TEXTS)
    return tuple(
        ComponentEntry(
            share=share,
            low=tuple(places[place] for place in end.low),
            high=tuple(places[place] for place in end.high),
            low_texts=low_texts,
            high_texts=high_texts,
        )
        for share, end, (high_texts, low_texts) in zip(shares, ends, texts, strict=False)
    )


def _said(description: Description) -> tuple[Said, ...]:
    added = [after - before for before, after in pairwise((0.0, *description.explained))]
    largest = max(added, default=0.0)
    return tuple(
        Said(text, _number(weight / largest) or 0.0, _number(explained) or 0.0)
        for text, weight, explained in zip(description.texts, added, description.explained, strict=True)
    )


def _effect(task: int, effects: Effects, unit: str) -> ClassEffect:
    at = effects.units.index(unit)
    return ClassEffect(
        task=task,
        accuracy=_number(float(effects.accuracies_without[at])) or 0.0,
        classes=tuple(map(_number, effects.hits_without[at].tolist())),
        contrast=_number(float(effects.shares_lost[at])),
        contrast_error=_number(float(effects.errors_of_shares_lost[at])),
        contrasts=tuple(map(_number, effects.shares_lost_by_class[at].tolist())),
    )


def _task(task: LabelledStore, effects: Effects) -> TaskEntry:
    return TaskEntry(
        name=task.name,
        classes=task.classifier.classes,
        n_images=len(task.rows),
        accuracy=effects.accuracy,
        class_accuracies=tuple(map(_number, effects.hits.tolist())),
    )


def _caption(store: Store, place: int) -> str:
    label = int(store.labels[place])
    return store.provenance.classes[label] if label >= 0 else store.sample_ids[place]


def _numbers(values: Float[Tensor, "component"]) -> tuple[float, ...]:
    return tuple(_number(value) or 0.0 for value in values.tolist())


def _number(value: float | None) -> float | None:
    """As JSON can hold it, with as many digits as anyone reads."""
    return float(f"{value:.{DIGITS}g}") if value is not None and isfinite(value) else None
