"""From stores, and a run, to an atlas."""

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int

from residual_lens.activations import Store
from residual_lens.atlas.assembling import Found, assembled
from residual_lens.atlas.contents import Atlas
from residual_lens.atlas.effects import ablation_effects
from residual_lens.atlas.ends import component_ends
from residual_lens.atlas.images import images_of
from residual_lens.atlas.learned import LearnedRun
from residual_lens.atlas.measures import all_measures
from residual_lens.atlas.shown import show
from residual_lens.atlas.tasks import Classifier, LabelledStore, labelled_stores
from residual_lens.bases import fit_bases
from residual_lens.data.images import ImageSet
from residual_lens.descriptions import describe, require_numbers
from residual_lens.errors import InputError
from residual_lens.explain.of_run import dictionary_named
from residual_lens.hooked import HookedViT
from residual_lens.interventions.adapter import Origin
from residual_lens.text import Dictionary

N_ATOMS = 10
"""Texts of a unit's description."""
KINDS = ("head", "mlp")
"""Units that have a place in the grid."""
CLASSIFIERS = {"text": "prompts through the text tower", "means": "means of every other image of a class"}
"""By kind, in words."""


@torch.no_grad()
def atlas(
    stores: Sequence[Store],
    *,
    hvit: HookedViT | None = None,
    images: ImageSet | None = None,
    dictionary: Dictionary | str | None = "auto",
    run: str | Path | None = None,
    units: str | Iterable[str] = ("heads", "mlps"),
    n_components: int = 4,
    n_ends: int = 5,
    n_images: int = 1000,
    classifier: Classifier = "auto",
    templates: str = "auto",
    n_null: int = 39,
    seed: int = 0,
    cache: str | Path | None = None,
    progress: bool = False,
) -> Atlas:
    """All that is known of a model's heads and MLPs on some data, for a page.

    The first store gives dimensions, spectra, components with the images at their ends, and descriptions. Each store
    with labels is a task: what units have to do with it, and what goes with them. Each other store is compared with the
    first.

    Args:
        stores: of one model; the first one of images that can be opened.
        hvit: the model; by default loaded by the name that the first store has for it.
        images: of the first store; by default opened by what the store knows of them (see `images_of`).
        dictionary: texts that describe, or their name (see `explain_run`); None for none.
        run: folder of a finished run of `residual` or `residual*` with the same model.
        units: heads and MLPs (`Units.select`); what else is selected is left out.
        n_components: components to show of each unit.
        n_ends: images to show at each end of these.
        n_images: images to choose from; drawn if the first store has more. It bounds the size of the page.
        classifier: of tasks (see `labelled_stores`).
        templates: of its prompts.
        n_null: random dictionaries that descriptions are compared with (see `describe`).
        seed: of these, and of what is drawn.
        cache: folder of text embeddings made before; `CACHE` by default.
        progress: show progress bars.

    Raises:
        InputError: no stores or too few samples, no such units, numbers out of range, images that are not found, no
            run of ResiDual, or what `labelled_stores` and `open_dictionary` refuse.
        MismatchError: stores, dictionary or run of another model, or images of other samples.
        StoreError: what is read is damaged.

    Example:
        >>> with Store("colours.h5") as store:  # doctest: +SKIP
        ...     heads = atlas([store], units="heads").units
        >>> max(heads, key=lambda head: head.effects[0].contrast).name  # doctest: +SKIP
        'L1H3'
    """
    require_numbers(N_ATOMS, n_null)
    first = _first_of(stores, n_components=n_components, n_ends=n_ends, n_images=n_images)
    names = [unit.name for unit in first.units.select(units) if unit.kind in KINDS]
    if not names:
        raise InputError(f"An atlas shows heads and MLPs, of which {units!r} names none: give heads or mlps.")
    hvit = hvit or model_of(first)
    for store in stores:
        store.require_model(hvit)
    trained = None if run is None else LearnedRun.load(run, Origin.of_model(hvit))
    images = images or images_of(first, hvit.cfg.image_size[0])
    tasks = labelled_stores(stores, hvit, classifier=classifier, templates=templates)
    if isinstance(dictionary, str):
        dictionary = dictionary_named(dictionary, hvit, cache, progress=progress)

    descriptions = None
    if dictionary is not None:
        descriptions = describe(first, dictionary, names, N_ATOMS, n_null=n_null, seed=seed, progress=progress)
    bases = fit_bases(first, units=names, progress=progress)
    effects = [ablation_effects(task, progress=progress) for task in tasks]
    learned = None if trained is None else trained.seen_from(bases)
    measured = all_measures(stores, bases, tasks, effects, descriptions, trained, progress=progress)
    rows = _drawn(len(first), n_images, seed)
    ends = component_ends(first, bases, n_components, n_ends, rows=rows, progress=progress)
    by_unit = {unit: {place for end in found for place in (*end.low, *end.high)} for unit, found in ends.items()}
    shown = show(hvit, first, images, by_unit, progress=progress)
    found = Found(first, bases, ends, shown, dictionary, descriptions, tasks, effects, learned, measured)
    facts = {
        "Components and texts of": f"{first.provenance.data}/{first.provenance.split}, {len(first):,} images",
        "Images": f"those at the ends among {len(rows):,}",
        "Tasks": _tasks_in_words(tasks),
        "Texts": "none" if dictionary is None else f"{len(dictionary):,} of {dictionary.provenance.get('source', '?')}",
        "Run": "none" if trained is None else trained.result.line,
        "Made with": f"residual_lens {version('residual_lens')}",
    }
    size, patch = hvit.cfg.image_size, hvit.cfg.patch_size
    return assembled(found, grid=(size[0] // patch[0], size[1] // patch[1]), facts=facts)


def model_of(store: Store, *, name: str | None = None, device: str | torch.device = "cpu") -> HookedViT:
    """The model of a store, loaded by name.

    Args:
        store: of a model that has a name.
        name: the model's, where the store's own name for it does not find it.
        device: where to put it.

    Raises:
        InputError: no such model.
        MismatchError: it is another one than the store's.
    """
    made = store.provenance
    dtype = getattr(torch, made.model_dtype.removeprefix("torch."))
    hvit = HookedViT.from_pretrained(name or made.model, center=made.center, device=device, dtype=dtype)
    store.require_model(hvit)
    return hvit


def _first_of(stores: Sequence[Store], **numbers: int) -> Store:
    for name, number in numbers.items():
        if number < 1:
            raise InputError(f"{name} is at least 1, got {number}.")
    if not stores:
        raise InputError("An atlas needs at least one store: give one that residual-lens encode wrote.")
    for store in stores:
        if len(store) < 3:
            raise InputError(f"An atlas needs at least three samples of each store; {store.path} has {len(store)}.")
    return stores[0]


def _drawn(n: int, n_images: int, seed: int) -> Int[np.ndarray, "chosen"]:
    if n <= n_images:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, n_images, replace=False))


def _tasks_in_words(tasks: Sequence[LabelledStore]) -> str:
    if not tasks:
        return "none"
    made = [(task.store.provenance, task) for task in tasks]
    listed = "; ".join(f"{one.data}/{one.split}, {len(task.rows):,} images" for one, task in made)
    return f"{listed}. Classified by {CLASSIFIERS[tasks[0].kind]}"
