"""Time and memory of training on cached coordinates, beside the obvious ways to train the same.

    python scripts/benchmark_training.py                                       # all of it: ten minutes on 2 idle cores
    python scripts/benchmark_training.py --rows step --rounds 3                # two minutes
    python scripts/benchmark_training.py --samples 256 --run-samples 256 --epochs 1 --rounds 1    # to see that it works

A ViT-B/16 with random weights, made-up contributions of its 144 heads, 10 classes, batch 64. A step is what a training
loop does for one batch: embeddings, cross-entropy, gradients, schedule-free AdamW. Both sides run in one process, in
turns; a figure is the median over rounds.

step     One step on coordinates against one on unit tensors [batch unit d_out] through ResiDual's hooks. The
         difference is that of λ after an epoch over the same batches, relative to the largest λ. AdamW divides each
         gradient by its own size, so that roundings of small gradients count in full: printed above the table is how
         far each side is from the same epoch in float64, and how far the two are apart there.
live     The same against a step that runs the model, forward and backward. It is timed on a few images and multiplied.
run      A whole run: seconds of stepping, and the peak of memory in a process of its own beyond imports (Linux only).
trainer  The same epochs through `train_adapter` against the bare loop of `run`: what Lightning and validation cost.
"""

import gc
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import open_clip
import torch
import tyro
from benchmark_memory import memory
from benchmark_rows import Row, peak, show
from schedulefree import AdamWScheduleFree
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from residual_lens import Decomposition, HookedViT
from residual_lens.bases import Basis
from residual_lens.hooked.root import Hook
from residual_lens.interventions import Adapter, ResiDual
from residual_lens.interventions.config import ResiDualConfig
from residual_lens.text import ZeroShotClassifier
from residual_lens.training import train_adapter
from residual_lens.training.cached import CachedSamples, Coordinates, coordinates

ROWS = ("step", "live", "run", "trainer")
N_CLASSES, D_OUT = 10, 512


@dataclass(frozen=True)
class Config:
    """What to measure."""

    rows: tuple[str, ...] = ROWS
    """Which rows."""
    scales: tuple[int, ...] = (793, 4104)
    """How many, of the heads' components; the last of them for all rows but `step`."""
    batch: int = 64
    """Images of a step."""
    samples: int = 1024
    """Of an epoch on unit tensors, 323 kB each."""
    live_images: int = 4
    """Of the live step that is multiplied."""
    run_samples: int = 5000
    """Of a whole run."""
    epochs: int = 30
    """Of a whole run."""
    rounds: int = 7
    """Timed runs of each side."""
    memory: bool = True
    """Measure the run's peak, too."""
    threads: int | None = None
    """CPU threads; torch's choice by default."""
    markdown: bool = False
    """Print the table as Markdown."""
    peak: bool = False
    """Only print the MiB that a run needs, in this process."""


def main(config: Config) -> None:
    """Measure and print."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.peak:
        print(peak_of_run(config))
        return
    rows = []
    for row in measured(config):
        rows.append(row)
        print("  ".join(row.cells()), flush=True)
    show(rows, rounds=config.rounds, markdown=config.markdown, difference="difference of λ")


def measured(config: Config) -> Iterator[Row]:
    """Row by row."""
    torch.manual_seed(0)
    hvit = HookedViT.wrap(open_clip.create_model("ViT-B-16").visual.eval().requires_grad_(False))
    if "step" in config.rows:
        yield from (step_row(hvit, n_scales, config) for n_scales in config.scales)
    if "live" in config.rows:
        yield live_row(hvit, config)
    if "run" in config.rows:
        yield run_row(config)
    if "trainer" in config.rows:
        yield trainer_row(hvit, config)


def adapter_of(hvit: HookedViT, n_scales: int) -> ResiDual:
    """λ of some principal components of every head, the means kept: the bases are made up."""
    names = [unit.name for unit in hvit.units.select("heads")]
    bounds = [n_scales * place // len(names) for place in range(len(names) + 1)]
    counts = tuple(end - start for start, end in pairwise(bounds))
    about = (hvit.center, 1.0, hvit.cfg.model_name, hvit.fingerprint())
    adapter = ResiDual(ResiDualConfig("residual*", True, tuple(names), counts, D_OUT, *about))
    generator = torch.Generator().manual_seed(1)
    for rescaling in adapter.rescalings:
        rows = [torch.linalg.qr(torch.randn(D_OUT, n, generator=generator)).Q.mT for n in rescaling.counts]
        means = 0.1 * torch.randn(len(rows), D_OUT, generator=generator)
        rescaling.fill([Basis(mean, phi, torch.ones(len(phi)), 1.0) for mean, phi in zip(means, rows, strict=True)])
    return adapter


def unit_tensors(hvit: HookedViT, n_samples: int) -> CachedSamples:
    """Made-up contributions of every unit."""
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(n_samples, len(hvit.units), D_OUT, generator=generator)
    return CachedSamples(Decomposition(values, hvit.units), labels_of(n_samples))


def made_up(n_samples: int, n_scales: int) -> Coordinates:
    """Coordinates as such, without the unit tensors that they would come from."""
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(n_samples, n_scales, generator=generator)
    directions = torch.randn(n_scales, D_OUT, generator=generator).div_(D_OUT**0.5)
    base = torch.zeros(n_samples, D_OUT)
    return Coordinates(base, values, directions, torch.arange(n_scales), labels_of(n_samples))


def labels_of(n_samples: int) -> Tensor:
    """They take turns."""
    return torch.arange(n_samples) % N_CLASSES


def classifier() -> ZeroShotClassifier:
    """Classes at random."""
    weights = torch.randn(N_CLASSES, D_OUT, generator=torch.Generator().manual_seed(4))
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

    def __init__(self, scales: nn.Parameter, embed: Callable[[Tensor], Tensor], labels: Tensor) -> None:
        self._scales, self._embed, self._labels = scales, embed, labels
        self._classifier = classifier()
        self._optimizer = AdamWScheduleFree([scales], lr=0.8)
        self._optimizer.train()

    def step(self, rows: Tensor) -> float:
        """Seconds."""
        started = time.perf_counter()
        logits = self._classifier.logits(self._embed(rows))
        (self._scales.grad,) = torch.autograd.grad(cross_entropy(logits, self._labels[rows]), [self._scales])
        self._optimizer.step()
        return time.perf_counter() - started

    def epoch(self, batch: int, seed: int = 0) -> float:
        """Seconds; the order of samples goes by the seed."""
        order = torch.randperm(len(self._labels), generator=torch.Generator().manual_seed(seed))
        return sum(self.step(rows) for rows in order.split(batch))

    def result(self) -> Tensor:
        """λ as the optimizer gives them out."""
        self._optimizer.eval()
        return self._scales.detach().clone()


def both_loops(hvit: HookedViT, adapter: ResiDual, samples: CachedSamples, dtype: torch.dtype) -> tuple[Loop, Loop]:
    """On coordinates and on unit tensors, each with its own λ = 1; hooks must be in force for the second."""
    cached = coordinates(adapter, samples, dtype=dtype)
    own = Scales(len(adapter.scales)).to(dtype)
    adapter.to(dtype).scales.data.fill_(1.0)
    ours = Loop(own.scales, lambda rows: cached.embed(own, rows), samples.labels)
    return ours, Loop(adapter.scales, lambda rows: samples.embed(hvit, rows), samples.labels)


def step_row(hvit: HookedViT, n_scales: int, config: Config) -> Row:
    """A step on coordinates and one on unit tensors, in turns; then an epoch of each."""
    adapter, samples = adapter_of(hvit, n_scales), unit_tensors(hvit, config.samples)
    row = Row(f"step, batch {config.batch}, {n_scales:,} scales: unit tensors")
    with adapter.attached(hvit):
        ours, twin = both_loops(hvit, adapter, samples, torch.float32)
        batches = torch.arange(config.samples).split(config.batch)
        for number in range(-1, config.rounds):
            # A batch is made of rows of its own, so that none lies in a cache.
            rows = batches[number % len(batches)]
            seconds = ours.step(rows), twin.step(rows)
            if number >= 0:
                row.ours.append(seconds[0])
                row.twin.append(seconds[1])
    ours32, twin32 = after_an_epoch(hvit, adapter, samples, config.batch)
    row.difference = gap(ours32, twin32)
    few = first(samples, max(config.batch, config.samples // 4))
    ours32, twin32 = after_an_epoch(hvit, adapter, few, config.batch)
    ours, twin = after_an_epoch(hvit, adapter, few, config.batch, torch.float64)
    print(
        f"{n_scales:,} scales, λ after {len(few.labels):,} samples: coordinates and unit tensors differ by "
        f"{gap(ours, twin):.0e} in float64; from there float32 is {gap(ours32, twin):.0e} away on coordinates, "
        f"{gap(twin32, twin):.0e} on unit tensors."
    )
    return row


def after_an_epoch(
    hvit: HookedViT, adapter: ResiDual, samples: CachedSamples, batch: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """λ of both sides."""
    parts = samples.decomposition
    samples = CachedSamples(Decomposition(parts.values.to(dtype), parts.units), samples.labels)
    with adapter.to(dtype).attached(hvit):
        loops = both_loops(hvit, adapter, samples, dtype)
        for loop in loops:
            loop.epoch(batch)
        ours, twin = (loop.result() for loop in loops)
    adapter.float()
    return ours, twin


def first(samples: CachedSamples, count: int) -> CachedSamples:
    """Some of them."""
    parts = samples.decomposition
    return CachedSamples(Decomposition(parts.values[:count], parts.units), samples.labels[:count])


def gap(actual: Tensor, expected: Tensor) -> float:
    """Largest difference of λ over the largest λ."""
    return float((actual.double() - expected).abs().max() / expected.abs().max())


def live_row(hvit: HookedViT, config: Config) -> Row:
    """The step on coordinates and one through the model."""
    n_scales = config.scales[-1]
    cached, own, adapter = made_up(config.samples, n_scales), Scales(n_scales), adapter_of(hvit, n_scales)
    images = torch.rand(config.live_images, 3, 224, 224, generator=torch.Generator().manual_seed(5))
    ours = Loop(own.scales, lambda rows: cached.embed(own, rows), cached.labels)
    times = config.batch / config.live_images
    row = Row(f"step, batch {config.batch}, {n_scales:,} scales: live, {config.live_images} images × {times:g}")
    with adapter.attached(hvit):
        live = Loop(adapter.scales, lambda rows: hvit(images[rows]), cached.labels)
        for number in range(-1, config.rounds):
            rows = torch.arange(config.batch) + number % (config.samples // config.batch) * config.batch
            seconds = ours.step(rows), times * live.step(torch.arange(config.live_images))
            if number >= 0:
                row.ours.append(seconds[0])
                row.twin.append(seconds[1])
    return row


def bare_run(cached: Coordinates, batch: int, epochs: int) -> float:
    """Seconds of stepping."""
    own = Scales(len(cached.index))
    loop = Loop(own.scales, lambda rows: cached.embed(own, rows), cached.labels)
    return sum(loop.epoch(batch, seed) for seed in range(epochs))


def run_row(config: Config) -> Row:
    """A whole run, which nothing is compared with."""
    name = f"run, {config.epochs} epochs of {config.run_samples:,} images, {config.scales[-1]:,} scales"
    row = Row(name, ours=[bare_run(made_up(config.run_samples, config.scales[-1]), config.batch, config.epochs)])
    if config.memory:
        sizes = ("--scales", config.scales[-1], "--run-samples", config.run_samples)
        row.mib = (peak(__file__, "--peak", *sizes),)
    return row


def peak_of_run(config: Config) -> float:
    """MiB of an epoch with its data beyond what was there before; a first step has loaded what steps need."""
    for samples in (config.batch, config.run_samples):
        gc.collect()
        before = memory("cpu", reset=True)
        bare_run(made_up(samples, config.scales[-1]), config.batch, 1)
    return memory("cpu", reset=False) - before


def trainer_row(hvit: HookedViT, config: Config) -> Row:
    """The bare loop's epochs through the Trainer, with validation on as many samples as a batch has."""
    n_scales, epochs = config.scales[-1], min(config.epochs, 3)
    cached, validation = made_up(config.run_samples, n_scales), made_up(config.batch, n_scales)
    row = Row(f"{epochs} epochs of {config.run_samples:,} images: `train_adapter`")
    for _ in range(min(config.rounds, 3)):
        row.ours.append(bare_run(cached, config.batch, epochs))
        started = time.perf_counter()
        train_adapter(
            Scales(n_scales),
            hvit,
            classifier(),
            train=cached,
            validation=validation,
            max_epochs=epochs,
            patience=epochs,
            batch_size=config.batch,
        )
        row.twin.append(time.perf_counter() - started)
    return row


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # open_clip warns that weights are random.
    main(tyro.cli(Config))
