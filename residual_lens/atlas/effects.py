"""What goes with each unit, alone of all, when its mean takes its place on the direct path."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from residual_lens.atlas.tasks import LabelledStore
from residual_lens.errors import InputError
from residual_lens.subsets import class_products, mean_products


@dataclass(frozen=True, eq=False)
class Effects:
    """Accuracy and contrast of a task by class, for the whole model and without each unit. All float64.

    With class embeddings `w` an image `e` of class `y` has the contrast `⟨e, w_y − mean_{c≠y} w_c⟩`. It is linear, so
    that what units take away adds up; and it moves long before another class comes first.
    """

    units: tuple[str, ...]
    """In the order of the model."""
    counts: Int[Tensor, "class"]
    """Samples of each class."""
    hits: Float[Tensor, "class"]
    """Share of a class' samples that the whole model gets right; NaN where there are none."""
    hits_without: Float[Tensor, "unit class"]
    """The same without each unit."""
    contrast: Float[Tensor, "class"]
    """Mean contrast of a class' samples; NaN where there are none."""
    lost: Float[Tensor, "unit class"]
    """What of it goes with each unit."""
    spread: Float[Tensor, "unit"]
    """Standard deviation, over all samples, of what goes with each unit."""

    @property
    def accuracy(self) -> float:
        """Of the whole model over all samples."""
        return float(self._mean(self.hits))

    @property
    def accuracies_without(self) -> Float[Tensor, "unit"]:
        """Without each unit."""
        return self._mean(self.hits_without)

    @property
    def shares_lost(self) -> Float[Tensor, "unit"]:
        """Share of the contrast over all samples that goes with each unit; NaN where there is no contrast to lose."""
        return _shares(self._mean(self.lost), self._mean(self.contrast))

    @property
    def errors_of_shares_lost(self) -> Float[Tensor, "unit"]:
        """Standard error of `shares_lost`: `std_i(lost_i) / (√n · mean_i contrast_i)` over n samples i.

        The mean contrast is taken as exact. NaN where shares are.
        """
        return _shares(self.spread / self.counts.sum().sqrt(), self._mean(self.contrast))

    @property
    def shares_lost_by_class(self) -> Float[Tensor, "unit class"]:
        """Share of each class' own contrast."""
        return _shares(self.lost, self.contrast)

    def _mean(self, by_class: Float[Tensor, "*unit class"]) -> Float[Tensor, "*unit"]:
        return (by_class.nan_to_num(0) * self.counts).sum(dim=-1) / self.counts.sum()


@torch.no_grad()
def ablation_effects(task: LabelledStore, *, progress: bool = False) -> Effects:
    """Accuracy and contrast without each unit of the model, exact, in one pass over the store after one for the means.

    Which class has the largest cosine does not depend on the length of the embedding, so that products with the class
    embeddings decide (see `subset_predictions`): without a unit they are those of the embedding, less the unit's, plus
    those of its mean over all samples of the store. It is what `ablate(hvit, unit, "mean", reference=store)` does.

    Args:
        task: a store with labels.
        progress: show a progress bar.

    Raises:
        InputError: class embeddings that are not finite.
        StoreError: what is read is damaged.
    """
    store, classifier = task.store, task.classifier
    if not classifier.weights.isfinite().all():
        raise InputError(
            f"Class embeddings of {task.name} must be finite numbers; this classifier has some that are not."
        )
    units, n_classes = store.units, len(classifier.classes)
    counts = task.labels.bincount(minlength=n_classes)
    hits, contrast = torch.zeros(2, n_classes, dtype=torch.float64)
    hits_without, lost = torch.zeros(2, len(units), n_classes, dtype=torch.float64)
    squares = torch.zeros(len(units), dtype=torch.float64)
    means = mean_products(store, classifier)
    done = 0
    with tqdm(total=len(task.rows), desc=f"effects on {task.name}", unit="sample", disable=not progress) as bar:
        # Two arrays of the size of the products are made of them.
        for gone in class_products(store, classifier, units, rows=task.rows, beside=2 * len(units)):
            logits = gone.sum(dim=0)
            gone -= means[:, None]
            labels = task.labels[done : done + len(logits)]
            done += len(labels)
            bar.update(len(labels))
            hits.index_add_(0, labels, (logits.argmax(dim=-1) == labels).double())
            contrast.index_add_(0, labels, contrasts(logits, labels))
            lost_here = contrasts(gone, labels)
            lost.index_add_(1, labels, lost_here)
            squares += lost_here.square().sum(dim=1)
            hits_without.index_add_(1, labels, ((logits - gone).argmax(dim=-1) == labels).double())
    n = len(task.rows)
    # Rounding may leave less than nothing of a unit that always adds the same.
    spread = ((squares - lost.sum(dim=1).square() / n).clamp_min(0) / (n - 1)).sqrt()
    return Effects(units.names, counts, hits / counts, hits_without / counts, contrast / counts, lost / counts, spread)


def contrasts(
    products: Float[Tensor, "*unit sample class"], labels: Int[Tensor, "sample"]
) -> Float[Tensor, "*unit sample"]:
    """`p_y − mean_{c≠y} p_c` of each sample.

    >>> contrasts(torch.tensor([[5.0, 1.0, 2.0]]), torch.tensor([0]))
    tensor([3.5000])
    """
    own = products[..., torch.arange(len(labels)), labels]
    return own - (products.sum(dim=-1) - own) / (products.shape[-1] - 1)


def _shares(lost: Float[Tensor, "*unit"], whole: Float[Tensor, "*whole"]) -> Float[Tensor, "*unit"]:
    return lost / torch.where(whole > 0, whole, torch.nan)
