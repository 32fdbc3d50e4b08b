"""Training of an adapter on a frozen model: cross-entropy to a zero-shot classifier, schedule-free AdamW."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT
from residual_lens.interventions import Adapter
from residual_lens.text import ZeroShotClassifier
from residual_lens.training.cached import CachedSamples, Coordinates, coordinates
from residual_lens.training.fitting.checks import check_job, check_labels
from residual_lens.training.fitting.progress import TrainingLog
from residual_lens.training.fitting.settings import Job, Settings
from residual_lens.training.splits.batches import Split, evaluation_batches, hits, on_device


def train_adapter(
    adapter: Adapter,
    hvit: HookedViT,
    classifier: ZeroShotClassifier,
    *,
    train: Split,
    validation: Split,
    path: str = "direct",
    learning_rate: float | None = None,
    max_epochs: int = 30,
    patience: int = 5,
    batch_size: int = 64,
    seed: int = 0,
    l1: float = 0.0,
    folder: str | Path | None = None,
    find_learning_rate: bool = False,
    precision: str = "32-true",
    devices: int = 1,
    num_nodes: int = 1,
    logger: str = "csv",
    progress: bool = False,
    allow_missing_classes: bool = False,
) -> TrainingLog:
    """Train an adapter's parameters; what else the model has stays as it is.

    Schedule-free AdamW (Defazio et al. 2024, arXiv 2405.15682) with the mean cross-entropy of `classifier.logits`.
    After every epoch the validation accuracy is taken; training stops when it has not risen for `patience` epochs, and
    the adapter is left with the weights that were best on validation (the start included).

    Args:
        adapter: what is trained, in place.
        hvit: the frozen model.
        classifier: of the task; its class embeddings stay fixed.
        train: samples to fit. `Coordinates` and `CachedSamples` train without the backbone, on the direct path;
            `LiveSamples` and `LiveImages` run it at each step.
        validation: samples that decide when to stop and what to keep, of the same or another kind.
        path: as for `Adapter.attached`.
        learning_rate: of AdamW; the adapter's own by default.
        max_epochs: at most so many passes over `train`.
        patience: epochs without a rise before it stops.
        batch_size: samples per step, over all devices together.
        seed: of the order of samples, of crops and of dropout.
        l1: `l1 · Σ|λ|` over the adapter's scales is added to what is minimised.
        folder: for `metrics.csv` and `checkpoints/last.ckpt`, written after every epoch. The same call goes on from
            there, and on a CPU ends with the same bits as one that was never interrupted; an interrupted one leaves
            the adapter with the best weights of the checkpoint.
        find_learning_rate: take the rate of a range test (Smith 2017, arXiv 1506.01186) instead.
        precision: of the arithmetic: "32-true", "bf16-mixed" or "16-mixed"; parameters keep their dtype.
        devices: processes on this machine, each with a share of every batch.
        num_nodes: machines, each with so many processes, which torchrun or Slurm has started.
        logger: "csv" is `metrics.csv` alone; "tensorboard" and "wandb" come beside it.
        progress: show a progress bar.
        allow_missing_classes: train although some classes have no sample.

    Raises:
        InputError: no samples, labels that are not classes, classes without samples, nothing to train, settings out of
            range.
        MismatchError: an adapter or samples of another model, or a `folder` with a checkpoint of another run.
        ResidualLensError: the loss, or what validation sees, is not finite; the adapter has the best weights found
            until then.

    Example:
        >>> from residual_lens.training import Coarse, LiveSamples
        >>> hvit = HookedViT.from_pretrained("attribute-clip")
        >>> images = torch.rand(8, 3, *hvit.cfg.image_size, generator=torch.Generator().manual_seed(0))
        >>> samples = LiveSamples(hvit.normalize(images), torch.arange(8) % 2)
        >>> red_blue = ZeroShotClassifier(hvit.encode_text(["a red thing", "a blue thing"]), ("red", "blue"), 100.0)
        >>> coarse = Coarse(hvit.cfg.n_layers, hvit.cfg.n_heads)
        >>> log = train_adapter(coarse, hvit, red_blue, train=samples, validation=samples, max_epochs=2)
        >>> log.epochs, len(log.validation_accuracy), log.learning_rate
        (2, 3, 0.8)
    """
    started = time.perf_counter()
    rate = adapter.learning_rate if learning_rate is None else learning_rate
    settings = Settings(
        path, rate, find_learning_rate, max_epochs, patience, batch_size, seed, l1, precision, devices, num_nodes
    )
    given = {"train": train, "validation": validation}
    # A graph behind the class embeddings would be gone after the first step.
    fixed = replace(classifier, weights=classifier.weights.detach())
    job = Job(adapter, hvit, fixed, given, settings)
    check_job(job, allow_missing_classes=allow_missing_classes)
    job = replace(job, splits={name: _prepared(adapter, split) for name, split in given.items()})
    # Loaded with the first training: it takes longer to import than torch.
    from residual_lens.training.fitting.fit import fit

    with _only_trained(job):
        place = None if folder is None else Path(folder)
        return fit(job, started, folder=place, logger=logger, progress=progress).log()


def _prepared(adapter: Adapter, split: Split) -> Split:
    if not isinstance(split, CachedSamples):
        return split
    dtype = split.decomposition.values.dtype
    return coordinates(adapter, split, dtype=dtype if dtype == torch.float64 else torch.float32)


@contextmanager
def _only_trained(job: Job) -> Iterator[None]:
    """Gradients for what is trained and nothing else, the model in eval mode; everything as before at the end."""
    trained = {id(parameter) for parameter in job.parameters}
    others = [p for p in job.hvit.parameters() if p.requires_grad and id(p) not in trained]
    try:
        for parameter in others:
            parameter.requires_grad_(False)
        with _eval_mode(job.hvit, job.adapter):
            yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)
        for parameter in job.parameters:
            parameter.grad = None


@contextmanager
def _eval_mode(*roots: nn.Module | None) -> Iterator[None]:
    """Every module as it is used after training; all modes as before at the end."""
    modes = {module: module.training for root in roots if root is not None for module in root.modules()}
    try:
        for module in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def evaluate(
    hvit: HookedViT,
    classifier: ZeroShotClassifier,
    samples: Split,
    *,
    adapter: Adapter | None = None,
    path: str = "direct",
) -> float:
    """Accuracy on all samples in eval mode, with an adapter in force or as the model is.

    Args:
        hvit: the model.
        classifier: of the task.
        samples: of any kind; `Coordinates` are of their adapter, which must be given.
        adapter: what is put in force.
        path: as for `Adapter.attached`.

    Raises:
        InputError: no samples, labels that are not classes, or embeddings that are not finite.
        MismatchError: an adapter of another model.
    """
    check_labels("evaluated", samples, classifier)
    samples = on_device(samples, hvit.device)
    attached = nullcontext() if adapter is None or isinstance(samples, Coordinates) else adapter.attached(hvit, path)
    with attached, _eval_mode(hvit, adapter):
        found = sum(
            hits(samples, adapter, hvit, classifier, batch) for block in evaluation_batches(samples) for batch in block
        )
    if math.isnan(found):
        of = "the model" if adapter is None else type(adapter).__name__
        raise InputError(
            f"Accuracy is not defined: embeddings that {of} gives have no finite length or logits. Look for NaN, "
            "infinities and huge numbers in its parameters and in the samples."
        )
    return found / len(samples.labels)
