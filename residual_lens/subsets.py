"""What a zero-shot classifier predicts when only some units of the embedding are kept, for many choices at once."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from residual_lens.activations import Rows, Store
from residual_lens.errors import InputError, MismatchError
from residual_lens.text import ZeroShotClassifier
from residual_lens.units import Unit

DROPPED = ("zero", "mean")
"""What stands for a dropped unit: nothing, or its mean contribution."""
MOST_NUMBERS = 2**25
"""Class products and logits in memory at once: 256 MiB of float64."""


@torch.no_grad()
def subset_predictions(
    store: Store,
    classifier: ZeroShotClassifier,
    subsets: Sequence[str | Iterable[str]],
    how: str = "zero",
    *,
    reference: Store | None = None,
    rows: Rows = None,
    progress: bool = False,
) -> Int[Tensor, "subset sample"]:
    """Zero-shot predictions from each of several subsets of the units, the others dropped on the direct path.

    A subset `S` leaves the embedding `Σ_{u ∈ S} u + Σ_{u ∉ S} m_u`, with `m_u` zero or the unit's mean: the coarse
    selection of Basile et al. (arXiv 2411.00246). Which class has the largest cosine does not depend on the length of
    the embedding, so that sums of the units' products with the class embeddings decide, in float64. Each product is
    computed once, for all subsets; a head's from its `d_head + 1` features, without its contribution.

    Args:
        store: an activation store.
        classifier: its class embeddings are what units are multiplied with.
        subsets: the units that each of them keeps (`Units.select`). `bias` is a unit like others: dropped where it is
            not named.
        how: what stands for a dropped unit: "zero", or "mean" for its mean over `reference`.
        reference: a store of the same model; for "mean" only.
        rows: which samples; all by default.
        progress: show a progress bar.

    Returns:
        Places in `classifier.classes`; the first of several that are equal.

    Raises:
        InputError: no such units or rows, a subset without units, "mean" without a reference or the other way round,
            or class embeddings that are not finite.
        MismatchError: class embeddings of another width, or a reference of another model or centring.
        StoreError: what is read is damaged.

    Example:
        >>> with Store("digits.h5") as store:  # doctest: +SKIP
        ...     predicted = subset_predictions(store, classifier, ["all", "heads", ["L5H4"]])
        ...     (predicted == store.labels).double().mean(dim=1)
        tensor([0.7056, 0.6833, 0.4667], dtype=torch.float64)
    """
    _check(store, classifier, how, reference)
    kept = [store.units.select(subset) for subset in subsets]
    if not kept or not all(kept):
        raise InputError("Expected at least one subset, each of at least one unit: name units, or leave it out.")
    places = store.places(rows)
    if not len(places):
        raise InputError(f"No rows of {store.path} were chosen, so that there is nothing to predict.")
    used = store.units.select({unit.name for units in kept for unit in units})
    keep = torch.tensor([[unit in units for unit in used] for units in map(set, kept)], dtype=torch.float64)
    offsets = torch.zeros(len(kept), len(classifier.weights), dtype=torch.float64)
    if reference is not None:
        drop = torch.tensor([[unit not in units for unit in store.units] for units in map(set, kept)]).double()
        offsets = drop @ mean_products(reference, classifier)
    # In the order of the file, whatever order rows are given in, so that no block of it is gone back to.
    order = np.argsort(places, kind="stable")
    predicted = torch.empty(len(kept), len(places), dtype=torch.int64)
    done = 0
    with tqdm(total=len(places), desc="predicting", unit="sample", disable=not progress) as bar:
        for products in class_products(store, classifier, used, rows=places[order], beside=len(kept)):
            logits = (keep @ products.flatten(1)).unflatten(1, products.shape[1:])
            logits += offsets[:, None]
            here = order[done : done + products.shape[1]]
            predicted[:, here] = logits.argmax(dim=-1)
            done += len(here)
            bar.update(len(here))
    return predicted


def class_products(
    store: Store, classifier: ZeroShotClassifier, units: Sequence[Unit], *, rows: Rows = None, beside: int = 0
) -> Iterator[Float[Tensor, "unit sample class"]]:
    """Inner products of units' contributions with class embeddings, in float64: what logits are sums of.

    Args:
        store: the contributions.
        classifier: its class embeddings.
        units: which units.
        rows: samples; all by default.
        beside: rows of the same size as a unit's that the caller keeps beside them: together they stay within
            `MOST_NUMBERS`.

    Returns:
        Some samples at a time.
    """
    weights = classifier.weights.detach().to("cpu", torch.float64)
    # In models of half precision a contribution has a share of rounding, which features do not have.
    of_features = {} if store.layout.half_precision else _feature_products(store, units, weights)
    step = max(1, MOST_NUMBERS // ((len(units) + beside) * len(weights)))
    for block in store.blocks(rows):
        for start in range(0, len(block), step):
            at = block[start : start + step]
            products = torch.empty(len(units), len(at), len(weights), dtype=torch.float64)
            for unit, out in zip(units, products, strict=True):
                if unit.name in of_features:
                    features = store.head_features(at, unit.name, dtype=torch.float64)[:, 0]
                    torch.mm(features, of_features[unit.name], out=out)
                else:
                    torch.mm(store.decompose(at, unit.name, dtype=torch.float64).values[:, 0], weights.mT, out=out)
            yield products


def _feature_products(
    store: Store, units: Sequence[Unit], weights: Float[Tensor, "class d_out"]
) -> dict[str, Float[Tensor, "feature class"]]:
    """Of each head, what takes its features to its products."""
    frames, heads = store.head_frames, [unit.name for unit in units if unit.kind == "head"]
    places = {name: frames.units.index(name) for name in heads}
    return {name: frames.mixing[place] @ (frames.frames[place] @ weights.mT) for name, place in places.items()}


def mean_products(reference: Store, classifier: ZeroShotClassifier) -> Float[Tensor, "unit class"]:
    """Products of every unit's mean contribution over a store, as `class_products` gives them."""
    total = torch.zeros(len(reference.units), len(classifier.weights), dtype=torch.float64)
    for products in class_products(reference, classifier, reference.units):
        total += products.sum(dim=1)
    return total / len(reference)


def _check(store: Store, classifier: ZeroShotClassifier, how: str, reference: Store | None) -> None:
    if how not in DROPPED:
        raise InputError(f"how is one of {', '.join(DROPPED)}, got {how!r}.")
    if (how == "mean") != (reference is not None):
        raise InputError(
            f"how={how!r} with {'no reference' if reference is None else 'a reference'}: means, and only means, are "
            "taken over a reference: give a store, such as that of the training split, with how='mean'."
        )
    if classifier.weights.shape[1] != store.layout.d_out:
        raise MismatchError(
            f"{store.path} has contributions of {store.layout.d_out} dimensions, the classifier takes "
            f"{classifier.weights.shape[1]}: make it with the text tower of {store.provenance.model}."
        )
    if not classifier.weights.isfinite().all():
        raise InputError("Class embeddings must be finite numbers; this classifier has some that are not.")
    if reference is not None:
        pairs = {
            name: (getattr(store.provenance, name), getattr(reference.provenance, name))
            for name in ("model_fingerprint", "center", "pooling", "model_dtype")
        }
        differing = [f"{name} is {a[:16]} and {b[:16]}" for name, (a, b) in pairs.items() if a != b]
        if differing:
            raise MismatchError(
                f"{store.path} and its reference {reference.path} are of different models: {'; '.join(differing)}. "
                "Encode both with the same model."
            )
        if not len(reference):
            raise InputError(f"The reference {reference.path} has no samples to take a mean of.")
