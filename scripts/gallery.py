"""Every figure of docs/figures.md, from the shipped model: about a minute on 2 cores.

    python scripts/gallery.py                     # writes docs/figures/*.svg, and those with photographs as *.png
    python scripts/gallery.py --out elsewhere

All is computed anew in a temporary folder: stores of 600 images a data set, bases, scores, descriptions, and adapters
trained on four tasks. Enough to show what figures look like; the studies have the numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
import torch
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from residual_lens import (
    CachedSamples,
    Coarse,
    Dictionary,
    HookedViT,
    ImageSet,
    LinearAdapter,
    ResiDual,
    Store,
    cache_samples,
    describe,
    encode,
    evaluate,
    figures,
    fit_bases,
    layer_matched,
    load_task,
    open_images,
    subset_predictions,
    train_adapter,
    unit_dimensions,
    unit_scores,
    zero_shot_classifier,
)
from residual_lens.figures.look import TITLE, new_figure
from residual_lens.spectral import pairwise_spectral_cosine
from residual_lens.text import ZeroShotClassifier

MODEL, SEED = "attribute-clip", 0
N_IMAGES = 600
"""Of each data set; all digits."""
DATA = ("attributes", "attributes:shape@sketch", "digits", "random")
TASKS = ("digits", "attributes:shape@sketch", "attributes:position", "attributes:orientation")
"""Those with something left to learn."""
ATTRIBUTES = ("colour", "background", "shape", "texture", "digit", "letter", "size", "position", "orientation")
KEPT = (1, 2, 4, 8, 16, 36)
"""Heads."""
N_RANDOM = 10
"""Draws."""


@dataclass(frozen=True)
class Config:
    """Where to."""

    out: Path = Path("docs/figures")
    """Folder of the pictures."""


def main(config: Config) -> None:
    """Draw and save."""
    with TemporaryDirectory() as folder:
        world = World(Path(folder))
        trained = Trained(world)
        drawn = {
            "dimensions.svg": figures.dimensions({short(data): world.dimensions(data) for data in DATA}),
            "spectra.svg": figures.spectra(world.store("attributes"), title="all heads, on scenes"),
            "spectra-few.svg": figures.spectra(world.store("attributes"), ["L0H0", "L4H4", "L5H2", "L5H3"]),
            "similarity.svg": heads_by_heads(world),
            "unit-map.svg": figures.unit_map(world.scores("position"), label="accuracy of the head alone, position"),
            "scales.svg": figures.scales(
                trained.adapter("digits", "residual"), trained.bases, title="ResiDual, digits"
            ),
            "accuracy-curves.svg": kept_heads(world),
            "accuracy-by-parameters.svg": trained.costs(),
            "comparison.svg": trained.compared(),
            "transfer.svg": trained.carried_over(),
            "effects.svg": what_heads_know(world),
            "intervals.svg": what_is_lost(world),
            "descriptions.svg": described(world),
            "component-ends.png": component_ends(world),
            "attention.png": attention(world),
        }
        for name, figure in drawn.items():
            figures.save(figure, config.out / name, dpi=110)
            print(f"Wrote {config.out / name}")


class World:
    """The model, and stores that are made when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.hvit = HookedViT.from_pretrained(MODEL)
        self.images = cache(self._opened)
        self.store = cache(lambda data, split="train": self._encoded(data, split, folder))
        self.dimensions = cache(lambda data: unit_dimensions(self.store(data)))
        self.scores = cache(lambda name: unit_scores(self.store(f"attributes:{name}"), "supervised", **self.told(name)))

    @property
    def size(self) -> int:
        """Of images, in pixels."""
        return self.hvit.cfg.image_size[0]

    def classifier(self, task: str) -> ZeroShotClassifier:
        """By the model's own text tower."""
        words = load_task(task, image_size=self.size, n_train=1, n_validation=1, n_test=1)
        scale = self.hvit.logit_scale
        return zero_shot_classifier(self.hvit.encode_text, words.classes, templates=words.templates, logit_scale=scale)

    def told(self, attribute: str) -> dict[str, ZeroShotClassifier]:
        """What supervised scores need."""
        return {"classifier": self.classifier(f"attributes:{attribute}")}

    def _opened(self, data: str, split: str) -> ImageSet:
        # Of digits there are fewer.
        limit = None if data == "digits" else N_IMAGES
        return open_images(data, split=split, limit=limit, image_size=self.size)

    def _encoded(self, data: str, split: str, folder: Path) -> Store:
        path = folder / f"{data.replace(':', '-')}--{split}.h5"
        # None is for shards of several processes.
        return cast(Store, encode(self.hvit, self.images(data, split), path, batch_size=100))


def heads_by_heads(world: World) -> Axes:
    """The last two layers' heads on scenes, with each on digits."""
    bases = [fit_bases(world.store(data), units=["L4", "L5"]) for data in ("attributes", "digits")]
    heads = [name for name in bases[0] if "H" in name]
    components, weights = (
        [torch.stack([getattr(each[head], field).double() for head in heads]) for each in bases]
        for field in ("components", "variances")
    )
    cosines = pairwise_spectral_cosine(*components, x_weights=weights[0], y_weights=weights[1])
    return figures.similarity(cosines, heads, title="heads on scenes (rows) and on digits")


def kept_heads(world: World) -> Axes:
    """Accuracy on digits by number of heads kept, the best first."""
    classifier, test = world.classifier("digits"), world.store("digits", "test")
    orders = {how: [unit_scores(world.store("digits"), how, classifier=classifier)] for how in ("supervised", "task")}
    orders["random"] = [unit_scores(world.store("digits"), "random", seed=seed) for seed in range(N_RANDOM)]
    curves = {}
    for how, scores in orders.items():
        predicted = subset_predictions(test, classifier, ["all", *(one.top(k) for one in scores for k in KEPT)])
        hits = (predicted == test.labels).double().mean(dim=1)
        found = hits[1:].reshape(len(scores), len(KEPT)).numpy()
        curves[how] = figures.AccuracyCurve(*(of(found, axis=0).tolist() for of in (np.mean, np.min, np.max)))
    levels = {"all units": float(hits[0]), "chance": 1 / len(classifier.weights)}
    ticks = [str(k) for k in KEPT]
    return figures.accuracy_curves(curves, ticks, levels=levels, x_label="heads kept alone", title="digits")


def what_heads_know(world: World) -> Axes:
    """Accuracy of a head alone, above chance, for heads of the last two layers."""
    scores = {name: world.scores(name) for name in ATTRIBUTES}
    heads = [head for head in scores["colour"].units if head.startswith(("L4", "L5"))]
    above = [
        [100 * (float(one.values[one.units.index(head)]) - chance) for one, chance in chances(world, scores)]
        for head in heads
    ]
    label = "points of accuracy above chance"
    return figures.effects(np.array(above), heads, ATTRIBUTES, label=label, title="What a head knows alone")


def chances(world: World, scores: Mapping[str, object]) -> list[tuple]:
    """Scores with the accuracy that chance gives."""
    return [(one, 1 / len(world.images(f"attributes:{name}", "train").classes)) for name, one in scores.items()]


def what_is_lost(world: World) -> Axes:
    """Accuracy lost without the three best heads (mean in their place), with bootstrap intervals and random draws."""
    draws = np.random.default_rng(SEED)
    lost, random = {}, {}
    for name in ATTRIBUTES:
        store, classifier = world.store(f"attributes:{name}", "test"), world.classifier(f"attributes:{name}")
        best = world.scores(name).top(3)
        drawn = [layer_matched(best, store.units, seed=seed) for seed in range(N_RANDOM)]
        kept = [[unit for unit in store.units.names if unit not in out] for out in ((), best, *drawn)]
        right = (subset_predictions(store, classifier, kept, "mean", reference=store) == store.labels).double().numpy()
        drops = 100 * (right[0] - right[1:])
        resampled = drops[0, draws.integers(0, len(store), (1000, len(store)))].mean(axis=1)
        lost[name] = {"best three": (drops[0].mean(), *np.quantile(resampled, [0.025, 0.975]))}
        random[name] = {"best three": drops[1:].mean(axis=1).tolist()}
    return figures.intervals(lost, random=random, label="points of accuracy lost")


def described(world: World) -> Axes:
    """The last layer's heads in words."""
    words = Dictionary.of_attributes(world.hvit)
    found = describe(world.store("attributes"), words, ["L4", "L5"], n_atoms=5, n_null=39)
    return figures.descriptions(found, [one.unit for one in found if "H" in one.unit])


def component_ends(world: World) -> Figure:
    """Both ends of the first two components of two heads."""
    heads, components = ("L5H2", "L5H3"), (0, 1)
    figure = new_figure(9.6, 2.8)
    store, images = world.store("attributes"), world.images("attributes", "train")
    bases = fit_bases(store, units=heads)
    for row, head in zip(figure.subplots(2, 2), heads, strict=True):
        for axes, component in zip(row, components, strict=True):
            figures.component_ends(store, images, head, component, bases=bases, axes=axes)
    return figure


def attention(world: World) -> Figure:
    """Three scenes, where three heads look, and rollout."""
    scenes = load_task("attributes:position", image_size=world.size, seed=SEED, n_train=1, n_validation=1, n_test=3)
    _, cached = world.hvit.run_with_cache(world.hvit.normalize(scenes.test.images))
    figure = new_figure(9.6, 6.4)
    for sample, (row, image) in enumerate(zip(figure.subplots(3, 5), scenes.test.images, strict=True)):
        row[0].imshow(image.movedim(0, -1))
        row[0].set_axis_off()
        row[0].set_title("image", **TITLE)
        for axes, head in zip(row[1:], ("L0H0", "L4H4", "L5H2", None), strict=True):
            figures.attention(cached, image, head, sample=sample, axes=axes)
    return figure


class Trained:
    """Adapters trained on each task, all on bases of all tasks' images."""

    METHODS = ("zero-shot", "coarse", "residual*", "residual", "linear")

    def __init__(self, world: World) -> None:
        self.world = world
        tasks = {name: load_task(name, image_size=world.size, seed=SEED) for name in TASKS}
        hvit = world.hvit
        self.samples: dict[str, Sequence[CachedSamples]] = {
            name: [
                cache_samples(hvit, hvit.normalize(s.images), s.labels) for s in (one.train, one.validation, one.test)
            ]
            for name, one in tasks.items()
        }
        self.bases = fit_bases(hvit, hvit.normalize(torch.cat([one.train.images for one in tasks.values()])))
        self.classifier = cache(world.classifier)
        self.adapter = cache(self._adapter)
        self.accuracy = cache(self._accuracy)

    def _adapter(self, task: str, method: str) -> ResiDual | Coarse | LinearAdapter | None:
        hvit = self.world.hvit
        if method == "zero-shot":
            return None
        if method == "coarse":
            adapter = Coarse(hvit.cfg.n_layers, hvit.cfg.n_heads)
        elif method == "linear":
            adapter = LinearAdapter(hvit.cfg.d_out)
        else:
            adapter = ResiDual.from_bases(self.bases, variant=method, scales="ones", keep_mean=True)
        train, validation, _ = self.samples[task]
        train_adapter(adapter, hvit, self.classifier(task), train=train, validation=validation, seed=SEED)
        return adapter

    def _accuracy(self, task: str, method: str, on: str) -> float:
        """Of what was trained on a task, on the test images of another."""
        return evaluate(self.world.hvit, self.classifier(on), self.samples[on][2], adapter=self.adapter(task, method))

    def compared(self) -> Axes:
        """Methods by task."""
        found = {short(task): {name: self.accuracy(task, name, task) for name in self.METHODS} for task in TASKS}
        chance = {short(task): 1 / len(self.classifier(task).weights) for task in TASKS}
        return figures.comparison(found, ends=("zero-shot", "residual"), chance=chance)

    def costs(self) -> Axes:
        """Mean accuracy over tasks by what was trained."""
        points = {}
        for name in self.METHODS:
            adapter = self.adapter(TASKS[0], name)
            accuracies = [self.accuracy(task, name, task) for task in TASKS]
            points[name] = figures.Trained(adapter.parameter_count() if adapter else 0, float(np.mean(accuracies)))
        return figures.accuracy_by_parameters(points, label="test accuracy (%), mean over 4 tasks")

    def carried_over(self) -> Axes:
        """λ of one task on another."""
        none = [self.accuracy(TASKS[0], "zero-shot", on) for on in TASKS]
        found = [[self.accuracy(task, "residual", on) for on in TASKS] for task in TASKS]
        names = [short(task) for task in TASKS]
        label = "points above zero-shot"
        return figures.transfer(np.array([none, *found]), np.array(none), ["zero-shot", *names], names, label=label)


def short(data: str) -> str:
    """Without what all attribute tasks have in common."""
    return data.removeprefix("attributes:")


if __name__ == "__main__":
    main(tyro.cli(Config))
