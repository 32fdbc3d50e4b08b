"""Training of an adapter on a frozen model: cross-entropy to a zero-shot classifier, schedule-free AdamW."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from logging import getLogger

import torch
from jaxtyping import Int
from schedulefree import AdamWScheduleFree
from torch import Tensor
from torch.nn.functional import cross_entropy

from residual_lens.errors import InputError, ResidualLensError
from residual_lens.hooked import HookedViT
from residual_lens.interventions import Adapter
from residual_lens.text import ZeroShotClassifier
from residual_lens.training.data import Samples

logger = getLogger(__name__)


@dataclass(frozen=True)
class TrainingLog:
    """What happened in a training run."""

    validation_accuracy: tuple[float, ...]
    """Before training, then after every epoch; in [0, 1]."""
    train_loss: tuple[float, ...]
    """Mean cross-entropy of every epoch, in nats."""
    best_epoch: int
    """Epoch whose weights were kept; 0 is the start."""
    seconds: float
    """Wall-clock time."""


def train_adapter(
    adapter: Adapter,
    hvit: HookedViT,
    classifier: ZeroShotClassifier,
    *,
    train: Samples,
    validation: Samples,
    path: str = "direct",
    learning_rate: float | None = None,
    max_epochs: int = 30,
    patience: int = 5,
    batch_size: int = 64,
    seed: int = 0,
) -> TrainingLog:
    """Train an adapter's parameters; the model stays as it is.

    Schedule-free AdamW (Defazio et al. 2024) with the mean cross-entropy of `classifier.logits`. After every epoch the
    validation accuracy is taken; training stops when it has not risen for `patience` epochs, and the adapter is left
    with the weights that were best on validation (the start included).

    Args:
        adapter: what is trained, in place.
        hvit: the frozen model.
        classifier: of the task; its class embeddings stay fixed.
        train: samples to fit.
        validation: samples that decide when to stop and what to keep.
        path: as for `Adapter.attached`; cached samples know the direct path only.
        learning_rate: of AdamW; the adapter's own by default.
        max_epochs: at most so many passes over `train`.
        patience: epochs without a rise before it stops.
        batch_size: samples per step.
        seed: of the order of samples.

    Raises:
        InputError: no samples, labels that are not classes, nothing to train, or settings out of range.
        ResidualLensError: the loss is not finite; the adapter has the best weights found until then.
    """
    _check(classifier, train, validation)
    if torch.is_inference_mode_enabled():
        raise InputError("Training needs gradients, which torch.inference_mode() rules out: leave it first.")
    if classifier.weights.shape[1] != hvit.cfg.d_out:
        raise InputError(
            f"The classifier is for embeddings of {classifier.weights.shape[1]} dimensions, {hvit.cfg.model_name} has "
            f"{hvit.cfg.d_out}: build it with this model's encode_text."
        )
    counts = {"max_epochs": max_epochs, "patience": patience, "batch_size": batch_size}
    rate = adapter.learning_rate if learning_rate is None else learning_rate
    if min(counts.values()) < 1 or not 0 < rate < float("inf"):
        raise InputError(f"Epochs, patience and batch size start at 1, the rate above 0; got {counts}, {rate=}.")
    started = time.perf_counter()
    parameters = [parameter for parameter in adapter.parameters() if parameter.requires_grad]
    if not parameters:
        raise InputError(f"{type(adapter).__name__} has no parameter that requires a gradient: nothing to train.")
    optimizer = AdamWScheduleFree(parameters, lr=rate)
    generator = torch.Generator().manual_seed(seed)
    accuracies, losses = [evaluate(hvit, classifier, validation, adapter=adapter, path=path)], []
    best, best_epoch = _snapshot(adapter), 0
    try:
        with adapter.attached(hvit, path):
            for epoch in range(1, max_epochs + 1):
                order = torch.randperm(len(train.labels), generator=generator).to(train.labels.device)
                losses.append(_train_epoch(hvit, classifier, train, order.split(batch_size), optimizer))
                accuracies.append(_accuracy(hvit, classifier, validation))
                logger.info("epoch %d: loss %.4f, validation accuracy %.4f", epoch, losses[-1], accuracies[-1])
                if accuracies[-1] > accuracies[best_epoch]:
                    best, best_epoch = _snapshot(adapter), epoch
                elif epoch - best_epoch >= patience:
                    break
    finally:
        # Also after an error or an interruption: a schedule-free optimizer in train mode holds other weights.
        adapter.load_state_dict(best)
        for parameter in parameters:
            parameter.grad = None
    return TrainingLog(tuple(accuracies), tuple(losses), best_epoch, time.perf_counter() - started)


@torch.enable_grad()
def _train_epoch(
    hvit: HookedViT,
    classifier: ZeroShotClassifier,
    train: Samples,
    batches: Sequence[Int[Tensor, "_"]],
    optimizer: AdamWScheduleFree,
) -> float:
    """One pass over the training samples; their mean loss. The optimizer is left in eval mode."""
    optimizer.train()
    parameters = optimizer.param_groups[0]["params"]
    total = 0.0
    for step, rows in enumerate(batches):
        loss = cross_entropy(classifier.logits(train.embed(hvit, rows)), train.labels[rows].long())
        if not loss.isfinite():
            raise ResidualLensError(
                f"The loss is {loss.item()} at step {step} of an epoch: lower learning_rate (it is "
                f"{optimizer.param_groups[0]['lr']}). The adapter has the weights that were best on validation."
            )
        # Not backward(): the model's own parameters must not gather gradients.
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()
        total += loss.item() * len(rows)
    # A schedule-free optimizer holds the weights to evaluate and keep only in eval mode.
    optimizer.eval()
    return total / len(train.labels)


def evaluate(
    hvit: HookedViT,
    classifier: ZeroShotClassifier,
    samples: Samples,
    *,
    adapter: Adapter | None = None,
    path: str = "direct",
) -> float:
    """Accuracy on all samples, with an adapter in force or as the model is."""
    if adapter is None:
        return _accuracy(hvit, classifier, samples)
    with adapter.attached(hvit, path):
        return _accuracy(hvit, classifier, samples)


@torch.no_grad()
def _accuracy(hvit: HookedViT, classifier: ZeroShotClassifier, samples: Samples) -> float:
    rows = torch.arange(len(samples.labels), device=samples.labels.device).split(256)
    embedding = torch.cat([samples.embed(hvit, part) for part in rows])
    return classifier.accuracy(embedding, samples.labels)


def _snapshot(adapter: Adapter) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in adapter.state_dict().items()}


def _check(classifier: ZeroShotClassifier, train: Samples, validation: Samples) -> None:
    for name, samples in (("train", train), ("validation", validation)):
        if len(samples.labels) == 0:
            raise InputError(f"The {name} split is empty.")
        low, high = int(samples.labels.min()), int(samples.labels.max())
        if low < 0 or high >= len(classifier.classes):
            raise InputError(
                f"Labels of the {name} split run from {low} to {high}, but the classifier has "
                f"{len(classifier.classes)} classes: they must be indices into classifier.classes."
            )
