"""A training step on cached coordinates beside unit tensors and the live model, and what Lightning costs.

A model with random weights, made-up contributions of its units, 10 classes. A step is what a training loop does for one
batch: embeddings, cross-entropy, gradients, schedule-free AdamW.
"""

import time
from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from schedulefree import AdamWScheduleFree
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from residual_lens import Decomposition, HookedViT
from residual_lens.bases import Basis
from residual_lens.hooked.root import Hook
from residual_lens.interventions import Adapter, ResiDual
from residual_lens.interventions.config import ResiDualConfig
from residual_lens.text import ZeroShotClassifier
from residual_lens.training import CachedSamples, Coordinates, coordinates, train_adapter
from scripts.benchmark.models import apart, noise, tower
from scripts.benchmark.rows import Cases, Sides, Timed
from scripts.benchmark.sizes import Sizes

N_CLASSES, EPOCHS = 10, 3

Embed = Callable[[Int[Tensor, "batch"]], Float[Tensor, "batch d_out"]]
Loss = Callable[[Float[Tensor, "batch d_out"], Int[Tensor, "batch"]], Float[Tensor, ""]]


def adapter_of(hvit: HookedViT, n_scales: int) -> ResiDual:
    """λ of some principal components of every head, the means kept: the bases are made up."""
    names = [unit.name for unit in hvit.units.select("heads")]
    bounds = [n_scales * place // len(names) for place in range(len(names) + 1)]
    counts = tuple(end - start for start, end in pairwise(bounds))
    d_out, about = hvit.cfg.d_out, (hvit.center, 1.0, hvit.cfg.model_name, hvit.fingerprint())
    adapter = ResiDual(ResiDualConfig("residual*", True, tuple(names), counts, d_out, *about))
    generator = torch.Generator().manual_seed(1)
    for rescaling in adapter.rescalings:
        rows = [torch.linalg.qr(torch.randn(d_out, n, generator=generator)).Q.mT for n in rescaling.counts]
        means = 0.1 * torch.randn(len(rows), d_out, generator=generator)
        rescaling.fill([Basis(mean, phi, torch.ones(len(phi)), 1.0) for mean, phi in zip(means, rows, strict=True)])
    return adapter


def unit_tensors(hvit: HookedViT, n_samples: int, dtype: torch.dtype = torch.float32) -> CachedSamples:
    """Made-up contributions of every unit."""
    values = torch.randn(n_samples, len(hvit.units), hvit.cfg.d_out, generator=torch.Generator().manual_seed(2))
    return CachedSamples(Decomposition(values.to(dtype), hvit.units), labels_of(n_samples))


def made_up(n_samples: int, n_scales: int, d_out: int) -> Coordinates:
    """Coordinates as such, without the unit tensors that they would come from."""
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(n_samples, n_scales, generator=generator)
    directions = torch.randn(n_scales, d_out, generator=generator).div_(d_out**0.5)
    base = torch.zeros(n_samples, d_out)
    return Coordinates(base, values, directions, torch.arange(n_scales), labels_of(n_samples))


def labels_of(n_samples: int) -> Int[Tensor, "sample"]:
    """They take turns."""
    return torch.arange(n_samples) % N_CLASSES


def classifier(d_out: int) -> ZeroShotClassifier:
    """Classes at random."""
    weights = torch.randn(N_CLASSES, d_out, generator=torch.Generator().manual_seed(4))
    return ZeroShotClassifier(normalize(weights, dim=-1), tuple(f"class {i}" for i in range(N_CLASSES)), 100.0)


class Scales(Adapter):
    """λ alone, for coordinates that no bases belong to."""

    learning_rate = 0.8

    def __init__(self, n_scales: int) -> None:
        super().__init__()
        self.scales = nn.Parameter(torch.ones(n_scales))

    def hooks(self, hvit: HookedViT, path: str) -> list[Hook]:
        """None: coordinates need none."""
        return []


class Loop:
    """A bare training loop."""

    def __init__(self, scales: nn.Parameter, embed: Embed, loss: Loss, labels: Int[Tensor, "sample"]) -> None:
        self._scales, self._embed, self._loss, self._labels = scales, embed, loss, labels
        self._optimizer = AdamWScheduleFree([scales], lr=0.8)
        self._optimizer.train()

    def step(self, rows: Int[Tensor, "batch"]) -> None:
        """On some samples."""
        loss = self._loss(self._embed(rows), self._labels[rows])
        (self._scales.grad,) = torch.autograd.grad(loss, [self._scales])
        self._optimizer.step()

    def epoch(self, batch: int, seed: int = 0) -> float:
        """Seconds a step, each on rows of its own; the order of samples goes by the seed."""
        batches = torch.randperm(len(self._labels), generator=torch.Generator().manual_seed(seed)).split(batch)
        started = time.perf_counter()
        for rows in batches:
            self.step(rows)
        return (time.perf_counter() - started) / len(batches)

    def result(self) -> Float[Tensor, "component"]:
        """λ as the optimizer gives them out."""
        self._optimizer.eval()
        return self._scales.detach().clone()


def as_training_does(d_out: int) -> Loss:
    """The loss that `train_adapter` minimises."""
    classes = classifier(d_out)
    return lambda embedding, labels: classes.cross_entropy(embedding, labels) / len(labels)


def from_logits(d_out: int) -> Loss:
    """The same as one writes it."""
    classes = classifier(d_out)
    return lambda embedding, labels: cross_entropy(classes.logits(embedding), labels)


def on_coordinates(cached: Coordinates, adapter: Adapter) -> Loop:
    """Ours."""
    loss = as_training_does(cached.base.shape[1])
    return Loop(adapter.scales, lambda rows: cached.embed(adapter, rows), loss, cached.labels)


def both_loops(hvit: HookedViT, adapter: ResiDual, samples: CachedSamples, dtype: torch.dtype) -> tuple[Loop, Loop]:
    """On coordinates and on unit tensors, each with its own λ = 1; the adapter must be attached for the second."""
    cached = coordinates(adapter, samples, dtype=dtype)
    adapter.to(dtype).scales.data.fill_(1.0)
    on_units = Loop(adapter.scales, lambda rows: samples.embed(hvit, rows), from_logits(hvit.cfg.d_out), samples.labels)
    return on_coordinates(cached, Scales(len(adapter.scales)).to(dtype)), on_units


def step_case(place: int) -> Callable[[Sizes], Sides]:
    """A step on coordinates and one on unit tensors `[batch unit d_out]` through ResiDual's hooks."""

    def sides(sizes: Sizes) -> Sides:
        hvit, n_scales = HookedViT.wrap(tower(sizes.model)), sizes.scales[place]
        adapter, samples = adapter_of(hvit, n_scales), unit_tensors(hvit, sizes.unit_tensors)
        ours, on_units = both_loops(hvit, adapter, samples, torch.float32)

        def other() -> Timed:
            with adapter.attached(hvit):
                return Timed(None, on_units.epoch(sizes.step))

        return Sides(
            f"a step, {n_scales:,} scales",
            lambda: Timed(None, ours.epoch(sizes.step)),
            other,
            "unit tensors through hooks",
            lambda *_: after_an_epoch(hvit, sizes, n_scales),
        )

    return sides


def after_an_epoch(hvit: HookedViT, sizes: Sizes, n_scales: int) -> float:
    """Distance of λ, in float64 on both sides: AdamW divides each gradient by its own size, roundings count in full."""
    adapter = adapter_of(hvit, n_scales).double()
    samples = unit_tensors(hvit, max(sizes.step, sizes.unit_tensors // 4), torch.float64)
    loops = both_loops(hvit, adapter, samples, torch.float64)
    with adapter.attached(hvit):
        for loop in loops:
            loop.epoch(sizes.step)
    return apart(*(loop.result() for loop in loops))


def live(sizes: Sizes) -> Sides:
    """A step that runs the model, forward and backward, timed on a few images and multiplied."""
    hvit, n_scales = HookedViT.wrap(tower(sizes.model)), sizes.scales[-1]
    adapter, images = adapter_of(hvit, n_scales), noise(sizes.model, sizes.live_images)
    labels, loss = labels_of(sizes.live_images), from_logits(hvit.cfg.d_out)
    ours = on_coordinates(made_up(sizes.unit_tensors, n_scales, hvit.cfg.d_out), Scales(n_scales))
    through = Loop(adapter.scales, lambda rows: hvit(images[rows]), loss, labels)
    times = sizes.step / sizes.live_images

    def other() -> Timed:
        with adapter.attached(hvit):
            return Timed(None, times * through.epoch(sizes.live_images))

    return Sides(
        f"a step, {n_scales:,} scales",
        lambda: Timed(None, ours.epoch(sizes.step)),
        other,
        f"the live model, {sizes.live_images} images × {times:g}",
    )


def trainer(sizes: Sizes) -> Sides:
    """The same epochs through `train_adapter` and the bare loop: what Lightning and validation cost."""
    hvit, n_scales = HookedViT.wrap(tower(sizes.model)), sizes.scales[-1]
    d_out = hvit.cfg.d_out
    cached, validation = (made_up(samples, n_scales, d_out) for samples in (sizes.epoch, sizes.step))

    def ours() -> None:
        settings = {"max_epochs": EPOCHS, "patience": EPOCHS, "batch_size": sizes.step}
        train_adapter(Scales(n_scales), hvit, classifier(d_out), train=cached, validation=validation, **settings)

    def bare() -> None:
        loop = on_coordinates(cached, Scales(n_scales))
        for seed in range(EPOCHS):
            loop.epoch(sizes.step, seed)

    what = f"{EPOCHS} epochs of {sizes.epoch:,} samples, {n_scales:,} scales, `train_adapter`"
    return Sides(what, ours, bare, "a bare loop over the same epochs, no validation")


def section(sizes: Sizes) -> str:
    """What the rows share."""
    where = f"Training on coordinates of a {sizes.model}, batch {sizes.step}"
    return f"{where}; the difference is that of λ after an epoch in float64"


CASES: Cases = {
    "train-few": step_case(0),
    "train-many": step_case(1),
    "train-live": live,
    "train-trainer": trainer,
}
