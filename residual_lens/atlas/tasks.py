"""A store's labels as a task: a classifier, and the samples that it is measured on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from residual_lens.activations import Store
from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT
from residual_lens.text import ZeroShotClassifier
from residual_lens.training.runs import RunConfig
from residual_lens.training.runs.classifiers import classifier_kind, classifier_of

Classifier = Literal["auto", "text", "means", "none"]
LEAST = 2
"""Images that a task is measured on, at least: scores are correlations."""


@dataclass(frozen=True, eq=False)
class LabelledStore:
    """What a store's labels ask of its model."""

    name: str
    """For people."""
    store: Store
    """Where the samples are."""
    classifier: ZeroShotClassifier
    """Of the classes of its labels."""
    kind: str
    """What the classifier is made of: "text" or "means"."""
    rows: Int[np.ndarray, "sample"]
    """The samples that are measured, as places in the store, ascending; each has a label."""

    @property
    def labels(self) -> Int[Tensor, "sample"]:
        """Of the samples that are measured."""
        return self.store.labels[torch.from_numpy(self.rows)].long()


def labelled_stores(
    stores: Sequence[Store], hvit: HookedViT, *, classifier: Classifier = "auto", templates: str = "auto"
) -> tuple[LabelledStore, ...]:
    """Those stores whose labels are of at least two classes, each with a classifier.

    Where class means stand for prompts, every other sample of a class makes its mean, the first one included, and the
    rest is measured: no sample is told by a mean that it is part of.

    Args:
        stores: of the model.
        hvit: the model, whose text tower encodes prompts.
        classifier: "text", "means", or "auto": text where there is a text tower (see `RunConfig.classifier`). "none":
            no tasks.
        templates: of prompts (see `RunConfig.templates`).

    Raises:
        InputError: templates that do not exist, words that the text tower does not know, repeated classes, too few
            samples, or, for class means, a class without samples.
        UnsupportedModelError: text is asked for, and the model has no text tower.
    """
    if classifier == "none":
        return ()
    chosen = [store for store in stores if len(store.provenance.classes) > 1 and bool((store.labels >= 0).any())]
    return tuple(
        _labelled(store, name, hvit, classifier, templates)
        for store, name in zip(chosen, store_names(chosen), strict=True)
    )


def store_names(stores: Sequence[Store]) -> list[str]:
    """What people call the stores' data; with the split, or the file, where that is not enough to tell them apart."""
    for called in (
        lambda store: store.provenance.data.removeprefix("attributes:"),
        lambda store: f"{store.provenance.data}/{store.provenance.split}",
        lambda store: store.path.stem,
    ):
        names = [called(store) for store in stores]
        if len(set(names)) == len(names):
            return names
    return [str(store.path) for store in stores]


def _labelled(
    store: Store, name: str, hvit: HookedViT, classifier: Literal["auto", "text", "means"], templates: str
) -> LabelledStore:
    made = store.provenance
    config = RunConfig(made.model, made.data, "zero-shot", classifier=classifier, templates=templates)
    kind = classifier_kind(config, hvit)
    rows = np.flatnonzero(store.labels.numpy() >= 0)
    seen = rows[:0]
    if kind == "means":
        _check_classes(store)
        seen = np.flatnonzero(_turns(store.labels.numpy()) % 2 == 0)
        rows = np.setdiff1d(rows, seen)
    if len(rows) < LEAST:
        raise InputError(
            f"{store.path} has {len(rows)} images with a label to measure, and a task at least {LEAST} (class means "
            "take every other image): encode more, or give classifier none for no tasks."
        )

    def train() -> tuple[Float[Tensor, "sample d_out"], Int[Tensor, "sample"]]:
        return store.embeddings(seen), store.labels[torch.from_numpy(seen)]

    return LabelledStore(name, store, classifier_of(config, hvit, made.classes, train), kind, rows)


def _check_classes(store: Store) -> None:
    """Refuse class means where a class has no image."""
    classes = store.provenance.classes
    missing = sorted(set(range(len(classes))) - set(store.labels.tolist()))
    if missing:
        raise InputError(
            f"{store.path} has no image of {len(missing)} of its {len(classes)} classes, such as "
            f"{classes[missing[0]]!r}, for a class mean: encode more images, or give classifier none for no tasks."
        )


def _turns(labels: Int[np.ndarray, "sample"]) -> Int[np.ndarray, "sample"]:
    """How many samples of its class stand before each; −1 for those without a label."""
    turns = np.full(len(labels), -1)
    for label in range(labels.max() + 1):
        here = np.flatnonzero(labels == label)
        turns[here] = np.arange(len(here))
    return turns
