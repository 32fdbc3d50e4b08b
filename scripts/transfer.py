"""Study: does what ResiDual learns on one data set help on another? And do bases have to be the task's own?

    python scripts/transfer.py                                  # the shipped model: some minutes on one core
    python scripts/transfer.py --data digits attributes:shape --seeds 1 --out quick

Three questions, each with `--seeds` draws of images, λ and order of samples. All adapters are ResiDual on heads and
MLPs, trained on 1,000 images, stopped by 250, tested on 500.

* λ: learned on one data set and applied to another, on bases that all share (fitted on all training images together).
* Bases: λ trained and tested on one data set, on bases fitted on another, on all together, or on the task's own ones
  turned at random within their span.
* Start: λ from `1 + N(0, 1)`, from ones or from the spectrum, with and without the mean, on the shared bases.

Writes `transfer.json`, figures of the first two, and tables. A run that was stopped goes on where it was.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import tyro
from studies import Kept, check_names
from transfer_report import ALL, CARRIED, NEUTRAL, STARTS, TURNED, draw_matrices, print_starts

from residual_lens import (
    Bases,
    CachedSamples,
    HookedViT,
    ResiDual,
    ZeroShotClassifier,
    cache_samples,
    fit_bases,
    load_task,
    train_adapter,
    zero_shot_classifier,
)
from residual_lens.data import ImageSplit
from residual_lens.errors import InputError
from residual_lens.training.cached import Coordinates, coordinates


@dataclass(frozen=True)
class Config:
    """Which model on which data."""

    model: str = "attribute-clip"
    """A name as in `residual-lens models`."""
    data: tuple[str, ...] = (
        "digits",
        "attributes:shape",
        "attributes:colour",
        "attributes:texture",
        "attributes:digit",
        "attributes:position",
        "attributes:shape@sketch",
        "attributes:shape@inverted",
    )
    """Names as in `residual-lens tasks`."""
    seeds: int = 3
    """Draws of images, λ and order."""
    n_train: int = 1000
    """Images to learn from."""
    n_validation: int = 250
    """Images that decide when to stop."""
    n_test: int = 500
    """Images that accuracies are of."""
    max_epochs: int = 30
    """Passes over the training images, at most."""
    out: Path = Path("studies/transfer")
    """Folder for numbers and figures."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the model runs."""

    def settings(self) -> dict[str, Any]:
        """What results depend on, beyond seeds: the shared bases are of all data sets."""
        names = ("model", "data", "n_train", "n_validation", "n_test", "max_epochs")
        return {name: getattr(self, name) for name in names}


def main(config: Config) -> None:
    """Train what has not been trained, print tables, draw."""
    check_names("data", config.data, 2)
    if config.seeds < 1:
        raise InputError(f"--seeds starts at 1, got {config.seeds}.")
    kept = Kept(config.out / "transfer.json", config.settings())
    for seed in range(config.seeds):
        draw = Draw(config, seed)
        kept.get(f"zero-shot: {seed}", draw.zero_shot)
        for start, data in product(STARTS, config.data):
            name = f"λ of {data}, {start}: {seed}"
            kept.get(name, partial(draw.learned, start, data))
        for bases, data in product((*config.data, TURNED), config.data):
            kept.get(f"bases of {bases} for {data}: {seed}", partial(draw.on_bases, bases, data))
    print_starts(kept.results, config.data, config.seeds)
    draw_matrices(kept.results, config.data, config.seeds, config.out)


Splits = Mapping[str, Coordinates]
"""Train, validation and test."""


class Samples:
    """One data set's images, run through the model once."""

    def __init__(self, hvit: HookedViT, config: Config, data: str, seed: int) -> None:
        sizes = {name: getattr(config, name) for name in ("n_train", "n_validation", "n_test")}
        task = load_task(data, image_size=hvit.cfg.image_size[0], seed=seed, **sizes)

        def cached(split: ImageSplit) -> CachedSamples:
            return cache_samples(hvit, hvit.normalize(split.images.to(hvit.device)), split.labels)

        self.images = task.train.images
        self.train, self.validation, self.test = cached(task.train), cached(task.validation), cached(task.test)
        self.classifier: ZeroShotClassifier = zero_shot_classifier(
            hvit.encode_text, task.classes, templates=task.templates, logit_scale=hvit.logit_scale
        )


class Draw:
    """All data sets as one seed draws them. Nothing is loaded before it is needed."""

    def __init__(self, config: Config, seed: int) -> None:
        self.config = config
        self.seed = seed
        self.hvit = cache(lambda: HookedViT.from_pretrained(config.model, device=config.device))
        self.samples = cache(lambda data: Samples(self.hvit(), config, data, seed))
        self.bases = cache(self._fitted)
        # Of the bases that all share, since every start and every λ meets them.
        self.shared = cache(lambda data, keep_mean: self._splits(self.bases(ALL), data, keep_mean))

    def zero_shot(self) -> dict[str, float]:
        """Accuracy of the model as it is, by data set."""
        samples = {data: self.samples(data) for data in self.config.data}
        return {
            data: one.classifier.accuracy(one.test.decomposition.total(), one.test.labels)
            for data, one in samples.items()
        }

    def learned(self, start: str, data: str) -> dict[str, Any]:
        """λ of one data set on the shared bases: what it reaches on each, and how much of its start is left."""
        keep_mean = STARTS[start]["keep_mean"]
        begun = ResiDual.from_bases(self.bases(ALL), seed=self.seed, **STARTS[start])
        residual, epoch = self._trained(copy.deepcopy(begun), data, self.shared(data, keep_mean))
        counts = zip(residual.config.units, residual.config.counts, strict=True)
        deviations = torch.cat([self.bases(ALL)[unit].variances[:count] for unit, count in counts]).sqrt()
        before, after = ((one.scales.detach() - 1) * deviations for one in (begun, residual))
        targets = self.config.data if start in CARRIED else (data,)
        return {
            "accuracy": {to: self._accuracy(to, residual, self.shared(to, keep_mean)) for to in targets},
            "start": self._accuracy(data, begun, self.shared(data, keep_mean)),
            "best epoch": epoch,
            "start left": float(torch.cosine_similarity(before, after, dim=0)),
        }

    def on_bases(self, bases: str, data: str) -> float:
        """Accuracy of λ trained and tested on one data set, on the bases of another."""
        chosen = turned(self.bases(data), self.seed) if bases == TURNED else self.bases(bases)
        splits = self._splits(chosen, data, STARTS[NEUTRAL]["keep_mean"])
        residual, _ = self._trained(ResiDual.from_bases(chosen, seed=self.seed, **STARTS[NEUTRAL]), data, splits)
        return self._accuracy(data, residual, splits)

    def _trained(self, residual: ResiDual, data: str, splits: Splits) -> tuple[ResiDual, int]:
        """The same ResiDual, and the epoch whose weights it has."""
        log = train_adapter(
            residual,
            self.hvit(),
            self.samples(data).classifier,
            train=splits["train"],
            validation=splits["validation"],
            seed=self.seed,
            max_epochs=self.config.max_epochs,
        )
        return residual, log.best_epoch

    @torch.no_grad()
    def _accuracy(self, data: str, residual: ResiDual, splits: Splits) -> float:
        """On the test images of a data set."""
        test = splits["test"]
        return self.samples(data).classifier.accuracy(test.embed(residual, torch.arange(len(test))), test.labels)

    def _splits(self, bases: Bases, data: str, keep_mean: bool) -> Splits:
        """A data set as any λ on these bases sees it."""
        residual = ResiDual.from_bases(bases, keep_mean=keep_mean)
        samples = self.samples(data)
        return {name: coordinates(residual, getattr(samples, name)) for name in ("train", "validation", "test")}

    def _fitted(self, data: str) -> Bases:
        """Bases of one data set's training images, or of all data sets' together."""
        hvit = self.hvit()
        names = self.config.data if data == ALL else (data,)
        batches = (batch for name in names for batch in self.samples(name).images.split(250))
        return fit_bases(hvit, (hvit.normalize(batch.to(hvit.device)) for batch in batches))


def turned(bases: Bases, seed: int) -> Bases:
    """The same spans with other directions in them: components turned at random, as many as ResiDual rescales."""
    generator = torch.Generator().manual_seed(seed)
    by_unit = {}
    for name, basis in bases.items():
        components = basis.components.double()
        n = len(components)
        rotation = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator)).Q.to(components.device)
        by_unit[name] = replace(basis, components=(rotation @ components).to(basis.components))
    return replace(bases, by_unit=by_unit)


if __name__ == "__main__":
    main(tyro.cli(Config))
