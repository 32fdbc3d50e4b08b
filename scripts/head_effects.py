"""What becomes of every attribute when heads are ablated: on the direct path from a store, in the stream by a model."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from residual_lens import HookedViT, Store, ZeroShotClassifier
from residual_lens.files import write_atomically
from residual_lens.interventions.reference import means_of, samples_of
from residual_lens.interventions.replacement import MeanEdit, ResampleEdit

MEASURES = ("accuracy", "contrast")
"""What is measured of an attribute: whether the right word wins, and by how much it is ahead of the mean of the others.

Accuracy does not move while the right word stays ahead. The contrast `⟨e, w_y − mean_{j≠y} w_j⟩` is linear in the
embedding, so that units' direct shares of it add up to 1.
"""


@dataclass(frozen=True, eq=False)
class Questions:
    """What is asked of every image: each attribute's words, and the right answers."""

    weights: Float[Tensor, "class d_out"]
    """Class embeddings of all attributes, one after the other."""
    labels: Mapping[str, Int[Tensor, "image"]]
    """By attribute; −1 where the image does not have it."""
    counts: tuple[int, ...]
    """Classes of each attribute."""

    @classmethod
    def of(cls, classifiers: Mapping[str, ZeroShotClassifier], labels: Mapping[str, Tensor]) -> "Questions":
        """Questions in the order of the classifiers."""
        weights = torch.cat([classifier.weights for classifier in classifiers.values()])
        counts = tuple(len(classifier.classes) for classifier in classifiers.values())
        return cls(weights, {name: labels[name] for name in classifiers}, counts)

    def outcome(self, products: Float[Tensor, "image class"]) -> Float[np.ndarray, "measure attribute image"]:
        """Whether each image's attribute is named rightly (0 or 1), and its contrast; NaN where it has none.

        Args:
            products: of embeddings with `weights`; lengths of embeddings do not change which word wins.
        """
        outcome = np.full((len(MEASURES), len(self.counts), len(products)), np.nan, np.float32)
        parts = products.split(self.counts, dim=1)
        for place, (part, labels) in enumerate(zip(parts, self.labels.values(), strict=True)):
            rows = labels >= 0
            chosen, right = part[rows], labels[rows, None]
            own = chosen.gather(1, right)[:, 0]
            others = (chosen.sum(dim=1) - own) / (part.shape[1] - 1)
            outcome[0, place, rows.numpy()] = (chosen.argmax(dim=1) == right[:, 0]).numpy()
            outcome[1, place, rows.numpy()] = (own - others).numpy()
        return outcome


class Ablations(Protocol):
    """One path, one way to ablate: products of edited embeddings with the questions' words."""

    def products(self, units: Sequence[str]) -> Float[Tensor, "image class"]:
        """With these heads ablated; none leaves the model as it is."""
        ...


class DirectAblations:
    """On the direct path all follows from stores: heads' products with the words are replaced in their sum."""

    def __init__(
        self, store: Store, weights: Float[Tensor, "class d_out"], how: str, *, reference: Store, seed: int
    ) -> None:
        """Products of every head with every word, of the images and of the reference.

        Args:
            store: of the images.
            weights: class embeddings.
            how: "mean" puts the reference's mean in a head's place, "resample" what it gave for an image of the
                reference, the same for all heads.
            reference: store of other images.
            seed: of the images drawn.
        """
        self.heads = [unit.name for unit in store.heads()]
        self._whole = store.embeddings() @ weights.mT
        own, others = (head_products(each, self.heads, weights) for each in (store, reference))
        if how == "mean":
            self._change = others.mean(dim=1, keepdim=True) - own
        else:
            generator = torch.Generator().manual_seed(seed)
            self._change = others[:, torch.randint(len(reference), (len(store),), generator=generator)] - own

    def products(self, units: Sequence[str]) -> Float[Tensor, "image class"]:
        return self._whole + self._change[[self.heads.index(unit) for unit in units]].sum(dim=0)


def head_products(
    store: Store, heads: Sequence[str], weights: Float[Tensor, "class d_out"]
) -> Float[Tensor, "head image class"]:
    """Heads' direct contributions times class embeddings, one head in memory at a time."""
    return torch.stack([store.decompose(units=head).values[:, 0] @ weights.mT for head in heads])


class StreamAblations:
    """In the stream later layers respond, so that the model runs for every set of heads."""

    def __init__(
        self,
        hvit: HookedViT,
        pixels: Float[Tensor, "image 3 height width"],
        weights: Float[Tensor, "class d_out"],
        how: str,
        *,
        reference: Float[Tensor, "sample 3 height width"],
        seed: int,
        batch_size: int,
    ) -> None:
        """As `DirectAblations`, with preprocessed images instead of stores; the reference runs once, for all sets."""
        self._hvit, self._pixels, self._weights, self._batch_size = hvit, pixels, weights, batch_size
        heads = hvit.units.select("heads")
        if how == "mean":
            means = means_of(hvit, heads, reference, "stream", by_position=True)
            self._edit = lambda units: MeanEdit(hvit, units, "stream", means)
        else:
            samples = samples_of(hvit, heads, reference, "stream")
            self._edit = lambda units: ResampleEdit(hvit, units, "stream", samples, seed)

    @torch.no_grad()
    def products(self, units: Sequence[str]) -> Float[Tensor, "image class"]:
        with self._edit(self._hvit.units.select(units)) if units else nullcontext():
            batches = self._pixels.split(self._batch_size)
            return torch.cat([(self._hvit(batch) @ self._weights.mT).cpu() for batch in batches])


class Outcomes:
    """Outcomes of sets of heads, each computed once: in memory, and as files where a folder is given."""

    def __init__(
        self, ablations: Callable[[], Ablations], questions: Callable[[], Questions], folder: Path | None = None
    ) -> None:
        """Nothing is loaded before an outcome is asked for that is not there."""
        self._ablations, self._questions, self._folder = cache(ablations), cache(questions), folder
        self._known: dict[tuple[str, ...], Float[np.ndarray, "measure attribute image"]] = {}

    def of(self, units: Sequence[str]) -> Float[np.ndarray, "measure attribute image"]:
        """With these heads ablated, in whatever order they are named."""
        key = tuple(sorted(units))
        if key not in self._known:
            path = None if self._folder is None else self._folder / f"{'+'.join(key) or 'none'}.npy"
            if path is not None and path.exists():
                self._known[key] = np.load(path)
            else:
                self._known[key] = self._questions().outcome(self._ablations().products(key))
                if path is not None:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    file = BytesIO()
                    np.save(file, self._known[key])
                    write_atomically(path, file.getvalue())
        return self._known[key]
