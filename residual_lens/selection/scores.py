"""Scores of a store's units, by which heads are chosen or left out."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from residual_lens.activations import Rows, Store
from residual_lens.bases.assembling import analysed_units
from residual_lens.errors import InputError, MismatchError
from residual_lens.selection.axes import Axes, span_of
from residual_lens.selection.correlation import EPS, mean_correlations
from residual_lens.selection.features import UnitFeatures, features_of
from residual_lens.spectral.moments import for_each_unit, moments_of_pieces
from residual_lens.text import ZeroShotClassifier
from residual_lens.units import Units

SCORES = ("output", "task", "supervised", "concepts", "random")
"""What units can be scored by; see `unit_scores`."""


@dataclass(frozen=True, eq=False)
class UnitScores:
    """One number a unit; more is better.

    Example:
        >>> scores = UnitScores(("L0H0", "L0H1", "0_mlp_out"), torch.tensor([0.2, 0.9, 0.2]).double(), "output")
        >>> scores.ranking()
        ('L0H1', 'L0H0', '0_mlp_out')
        >>> scores.top(1)
        ('L0H1',)
    """

    units: tuple[str, ...]
    """Names, in the order of the model."""
    values: Float[Tensor, "unit"]
    """Scores, float64."""
    how: str
    """What by; see `unit_scores`."""

    def ranking(self) -> tuple[str, ...]:
        """Names, best first; of equal ones in the order of the model."""
        return tuple(self.units[place] for place in self.values.argsort(descending=True, stable=True).tolist())

    def top(self, k: int) -> tuple[str, ...]:
        """The `k` best, best first.

        Raises:
            InputError: fewer than one, or more than there are.
        """
        if not 1 <= k <= len(self.units):
            raise InputError(f"There are {len(self.units)} scored units: k is at least 1 and at most that, got {k}.")
        return self.ranking()[:k]


@torch.no_grad()
def unit_scores(
    store: Store,
    how: str,
    units: str | Iterable[str] = "heads",
    *,
    classifier: ZeroShotClassifier | None = None,
    labels: Int[Tensor, "sample"] | None = None,
    concepts: Float[Tensor, "atom d_out"] | None = None,
    rows: Rows = None,
    seed: int = 0,
    progress: bool = False,
) -> UnitScores:
    """How much each unit matters, for a coarse selection (Basile et al. 2024, arXiv 2411.00246).

    With a unit's direct contribution `u` and the model's embedding `o`:

    * `"output"`: mean over `b` of the Pearson correlation of `⟨u, b⟩` and `⟨o, b⟩`, with `b` the principal axes of the
      embeddings, all along which they vary. The mean depends on the basis of their span; this one is the data's own.
    * `"task"`: the same over the span of the class embeddings, `b` the principal axes of the embeddings within it.
    * `"supervised"`: accuracy of `argmax_c ⟨u, w_c⟩` over the samples that have a label. Classes of one and the same
      embedding cannot be told apart, and count as one.
    * `"concepts"`: share of the unit's variance in the span of the concepts, which is what a pursuit explains once it
      has picked them all. Of as many concepts as dimensions it is 1 for every unit: give few.
    * `"random"`: uniform in [0, 1), to compare with.

    A unit that does not vary scores 0, and a coordinate that does not vary counts 0. Neither the order nor the
    repetition of classes and concepts, nor the order of samples matters. Data are read in one pass (and the embeddings
    in one before it); memory does not grow with the number of samples.

    Args:
        store: an activation store.
        how: one of `SCORES`.
        units: which units (`Units.select`); `bias`, which no unit writes, is left out of "all" and refused by name.
        classifier: for "task" and "supervised": its class embeddings `weights`.
        labels: for "supervised": class indices of all samples of the store, −1 for those to leave out; by default the
            store's own.
        concepts: for "concepts": embeddings of any length.
        rows: which samples, in any order; all by default.
        seed: for "random". A unit's number is the same whichever units are asked for.
        progress: show a progress bar.

    Returns:
        Scores in the order of the model: correlations in [−1, 1], shares and accuracies in [0, 1].

    Raises:
        InputError: an unknown `how`, no or unknown units, no such rows, fewer than two samples, something missing that
            the score is made of, embeddings that are not finite or all zero, or labels that are no classes.
        MismatchError: class embeddings or concepts of another `d_out`, labels of another number of samples, or classes
            that are not those of the store's labels.
        StoreError: what is read is damaged.

    Example:
        >>> with Store("digits.h5") as store:  # doctest: +SKIP
        ...     unit_scores(store, "task", classifier=classifier).top(3)
        ('L5H2', 'L4H0', 'L5H1')
    """
    if how not in SCORES:
        raise InputError(f"No score is called {how!r}: units are scored by {', '.join(SCORES)}.")
    chosen = analysed_units(store.units, units)
    names = tuple(unit.name for unit in chosen)
    if how == "random":
        drawn = torch.rand(len(store.units), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return UnitScores(names, drawn[[store.units.position(name) for name in names]], how)
    # In the order of the file: each block of it is read once a unit, and sums have the same bits for any order of rows.
    places = np.sort(store.places(rows))
    if len(places) < 2:
        raise InputError(f"Scores need at least two samples, got {len(places)} of {store.path}.")
    d_out = store.layout.d_out
    match how:
        case "output":
            score = partial(_correlations, store, None)
        case "task":
            score = partial(_correlations, store, _checked_classes(classifier, how, d_out).weights)
        case "concepts":
            if concepts is None:
                raise InputError("The score 'concepts' is made of concepts: give concepts=.")
            score = partial(_shares, _checked(concepts, "concepts", d_out))
        case _:
            known = _checked_classes(classifier, how, d_out)
            truth = _checked_labels(store, labels, known)
            places = places[truth[places].numpy() >= 0]
            if not len(places):
                raise InputError("None of these samples has a label: give labels=, or rows that have one.")
            score = partial(_accuracies, known.weights, truth)
    with tqdm(total=len(chosen) * len(places), desc=f"{how} scores", unit="row", disable=not progress) as bar:
        values = score(list(store.blocks(places)), features_of(store, chosen, bar))
    return UnitScores(names, values, how)


def layer_matched(units: Sequence[str], of: Units, *, seed: int) -> tuple[str, ...]:
    """A random draw with as many units of each kind from every layer as these.

    Args:
        units: what the draw is a control for. It may be drawn again, by chance.
        of: the model's units.
        seed: of the draw.

    Returns:
        Names in the order of the model.

    Raises:
        InputError: none, or such as the model does not have.

    Example:
        >>> layer_matched(["L1H0", "L1H3", "0_mlp_out"], Units.of_vit(n_layers=2, n_heads=8), seed=0)
        ('0_mlp_out', 'L1H5', 'L1H7')
    """
    chosen = of.select(units)
    if not chosen:
        raise InputError("No units were named: give those that the draw is a control for.")
    generator = np.random.default_rng(seed)
    drawn: list[str] = []
    for (layer, kind), count in Counter((unit.layer, unit.kind) for unit in chosen).items():
        alike = [unit.name for unit in of if (unit.layer, unit.kind) == (layer, kind)]
        drawn += generator.choice(alike, count, replace=False).tolist()
    return tuple(unit.name for unit in of.select(drawn))


# Blocks differ in their number of rows.
Places = Int[np.ndarray, "_"]


def _correlations(
    store: Store,
    classes: Float[Tensor, "class d_out"] | None,
    blocks: Sequence[Places],
    features: Sequence[UnitFeatures],
) -> Float[Tensor, "unit"]:
    output = moments_of_pieces(1, blocks, lambda _, at: store.embeddings(at).double())
    # Embeddings are stored in float32.
    axes = Axes.principal(output, torch.float32, span=None if classes is None else span_of(classes))
    return mean_correlations(blocks, axes, lambda at: store.embeddings(at).double(), features)


def _shares(
    concepts: Float[Tensor, "atom d_out"], blocks: Sequence[Places], features: Sequence[UnitFeatures]
) -> Float[Tensor, "unit"]:
    span = span_of(concepts)

    def share(unit: int) -> float:
        of_unit = features[unit]
        moments = moments_of_pieces(1, blocks, lambda _, at: of_unit.read(at))
        scatter, mapped = moments.scatter[0], of_unit.onto(span)
        total = of_unit.total(scatter)
        if not moments.varies() or total <= len(scatter) * EPS * of_unit.size(scatter):
            return 0.0
        return min(float(((scatter @ mapped) * mapped).sum() / total), 1.0)

    return torch.tensor(for_each_unit(len(features), share), dtype=torch.float64)


def _accuracies(
    classes: Float[Tensor, "class d_out"],
    labels: Int[Tensor, "sample"],
    blocks: Sequence[Places],
    features: Sequence[UnitFeatures],
) -> Float[Tensor, "unit"]:
    # Sorted, so that a tie goes to the same class whatever their order.
    distinct, place = classes.unique(dim=0, return_inverse=True)

    def accuracy(unit: int) -> float:
        of_unit = features[unit]
        mapped = of_unit.onto(distinct.double())
        first, moved, hits = None, torch.zeros(len(mapped), dtype=torch.bool), 0
        for at in blocks:
            x = of_unit.read(at)
            first = x[0].clone() if first is None else first
            moved |= (x != first).any(dim=0)
            hits += int(((x @ mapped).argmax(dim=1) == place[labels[at]]).sum())
        return hits / sum(map(len, blocks)) if mapped[moved].any() else 0.0

    return torch.tensor(for_each_unit(len(features), accuracy), dtype=torch.float64)


def _checked(vectors: Float[Tensor, "atom d"], what: str, d_out: int) -> Float[Tensor, "atom d"]:
    if vectors.ndim != 2 or not vectors.is_floating_point():
        raise InputError(f"The {what} must be floats [atom d_out], got {vectors.dtype} {list(vectors.shape)}.")
    if vectors.shape[1] != d_out:
        raise MismatchError(f"The {what} have {vectors.shape[1]} dimensions, the store's contributions {d_out}.")
    if not vectors.any() or not vectors.isfinite().all():
        raise InputError(f"The {what} are {list(vectors.shape)} numbers, all zero or some not finite: embed them anew.")
    return vectors.detach().cpu()


def _checked_classes(classifier: ZeroShotClassifier | None, how: str, d_out: int) -> ZeroShotClassifier:
    if classifier is None:
        raise InputError(f"The score {how!r} is made of class embeddings: give classifier=.")
    return replace(classifier, weights=_checked(classifier.weights, "class embeddings", d_out))


def _checked_labels(
    store: Store, labels: Int[Tensor, "_"] | None, classifier: ZeroShotClassifier
) -> Int[Tensor, "sample"]:
    known, classes = store.provenance.classes, classifier.classes
    if labels is None:
        labels = store.labels
        if len(known) not in (0, len(classes)) or (known != classes and sorted(known) == sorted(classes)):
            raise MismatchError(
                f"The store's labels count {len(known)} classes {', '.join(known[:3])} …, the classifier has "
                f"{len(classes)}, {', '.join(classes[:3])} …: give its classes in that order, or labels= for these."
            )
    if len(labels) != len(store):
        raise MismatchError(f"There are {len(labels)} labels for {len(store)} samples: give one for each, −1 for none.")
    if len(labels) and not (int(labels.min()) >= -1 and int(labels.max()) < len(classes)):
        raise InputError(
            f"Labels run from {int(labels.min())} to {int(labels.max())}, but there are {len(classes)} classes."
        )
    return labels.cpu().long()
