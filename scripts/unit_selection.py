"""Study: how few heads does zero-shot classification need, and which score finds them?

    python scripts/unit_selection.py                                   # the shipped model: some minutes on 2 cores
    python scripts/unit_selection.py --models clip-b clip-l --data cifar100 eurosat --templates imagenet --device cuda
    python scripts/unit_selection.py --data digits --limit 500 --seeds 3 --out quick

Coarse selection as in Basile et al. (arXiv 2411.00246): only some units are kept on the direct path, and the class with
the largest cosine to what is left counts. Heads are ranked by each score and at random on the training split. 1 head,
1, 5, 10, 25, 50, 75, 100 % of them (rounded up) are kept, alone or beside all other units; then single layers, and all
layers up to one. What is dropped becomes zero, or its mean over the training split. Accuracies are those of the test
split. `bias`, the constant that the final norm adds, is dropped where heads, MLPs or a layer are kept alone, which
matters for zeros only: its mean is itself.

Writes `<out>/<model>--<data>.json` (scores, correct answers of every choice, descriptions of what is kept), and for
each model `<model>.png` and `<model>--layers.png`, both as PDF as well. A run that was stopped goes on where it was; a
finished one computes nothing but the figures. Activation stores lie in `--stores`, for other studies as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import tyro
from studies import Kept, Stores, Study, check_names, file_name
from torch import Tensor
from unit_selection_report import DESCRIBED, LAYERS, SCORES, print_tables, rows_of_heads, rows_of_layers, sizes

from residual_lens import HookedViT, Store, ZeroShotClassifier, open_images, zero_shot_classifier
from residual_lens.data.attribute_world.captions import TEMPLATES
from residual_lens.data.tasks import PREFIX, task_names
from residual_lens.errors import InputError
from residual_lens.figures import save
from residual_lens.report.selection import selection_figure
from residual_lens.selection import unit_scores
from residual_lens.spectral import somp
from residual_lens.subsets import DROPPED, subset_predictions
from residual_lens.text import Dictionary, open_dictionary, templates
from residual_lens.units import Units

N_TEXTS = 5
"""Of a description."""


@dataclass(frozen=True)
class Config(Study):
    """Which models on which data."""

    models: tuple[str, ...] = ("attribute-clip",)
    """Names as in `residual-lens models`, of models with a text tower."""
    data: tuple[str, ...] = (
        "attributes:colour",
        "attributes:shape",
        "attributes:digit",
        "attributes:position",
        "attributes:shape@sketch",
        "digits",
    )
    """Names as for `residual-lens encode`, of data with classes."""
    split: str = "train"
    """Where heads are scored and described, and means taken."""
    test_split: str = "test"
    """Where accuracy is measured."""
    templates: tuple[str, ...] = ()
    """Prompts with one `{}` each, or "imagenet" or "imagenet-simple"; by default the attribute world's own for what it
    draws and for digits, "a photo of a {}." for all else."""
    dictionary: str | None = None
    """What heads are described with, as for `residual-lens describe`; by default "attributes" for `attribute-clip`, and
    "words:10000" for others."""
    seeds: int = 10
    """Random orders of the heads."""
    out: Path = Path("studies/unit-selection")
    """Folder for numbers and figures."""

    def settings(self) -> dict[str, Any]:
        """What results depend on, beyond model and data set."""
        own = {"test_split": self.test_split, "templates": self.templates, "dictionary": self.dictionary}
        return super().settings() | own | {"seeds": self.seeds}


class Runs:
    """A model's stores of both splits, and its texts: all of it is made when it is asked for, and not before."""

    def __init__(self, model: str, config: Config) -> None:
        self.model = model
        self.train = Stores(model, config.data, config)
        self.test = Stores(model, config.data, replace(config, split=config.test_split))
        self._config = config

    @cached_property
    def hvit(self) -> HookedViT:
        """For its text tower."""
        return HookedViT.from_pretrained(self.model, device=self._config.device)

    @cached_property
    def dictionary(self) -> Dictionary:
        """What heads are described with."""
        by_default = "attributes" if self.model == "attribute-clip" else "words:10000"
        return open_dictionary(self.hvit, self._config.dictionary or by_default)

    @cached_property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """Of all data sets: one without is told of before any other is encoded."""
        c = self._config
        kinds = {"split": c.test_split, "root": c.root, "download": c.download, "seed": c.seed}
        found = {data: open_images(data, **kinds).classes for data in c.data}
        if without := [data for data, classes in found.items() if not classes]:
            raise InputError(
                f"{', '.join(without)}: no classes, which zero-shot classification needs; name other --data."
            )
        return found

    def classifier(self, data: str) -> ZeroShotClassifier:
        """By the model's own text tower."""
        prompts = templates_of(data, self._config.templates)
        # Its scale is left as it is: which class comes first does not depend on it, and BLIP tells none.
        return zero_shot_classifier(self.hvit.encode_text, self.classes[data], templates=prompts)


def main(config: Config) -> None:
    """Measure what is missing, draw, and print tables."""
    check_names("models", config.models, 1)
    check_names("data", config.data, 1)
    kept = {model: {data: numbers(model, data, config) for data in config.data} for model in config.models}
    for model, by_data in kept.items():
        runs = Runs(model, config)
        for data in config.data:
            measure(runs, data, by_data[data], config)
        results = {data: by_data[data].results for data in config.data}
        figures = {
            "": selection_figure(rows_of_heads(results), title=f"{model}: accuracy when only some heads are kept"),
            "--layers": selection_figure(
                rows_of_layers(results), title=f"{model}: accuracy when only some layers are kept"
            ),
        }
        for name, figure in figures.items():
            for suffix in ("png", "pdf"):
                save(figure, config.out / f"{file_name(model)}{name}.{suffix}", dpi=90)
        print_tables(model, results)
        print(f"\nWrote {config.out / file_name(model)}.png and --layers.png")


def numbers(model: str, data: str, config: Config) -> Kept:
    """What is known of a model on a data set."""
    settings = {"model": model, "data": data, **config.settings()}
    return Kept(config.out / f"{file_name(model, data)}.json", settings)


def measure(runs: Runs, data: str, kept: Kept, config: Config) -> None:
    """All results of one data set; stores are opened for what is missing."""
    orders = [*SCORES, *(f"random {seed}" for seed in range(config.seeds))]
    if all(name in kept.results for name in ("about", *orders, "centred", *DROPPED, "described")):
        return
    classifier = runs.classifier(data)
    with runs.train.open(data) as train, runs.test.open(data) as test:
        known = test.labels >= 0
        about = {"units": test.units.names, "classes": classifier.classes, "samples": int(known.sum())}
        kept.get("about", lambda: about)
        for order in orders:
            kept.get(order, lambda order=order: scored(train, order, classifier))
        rankings = {order: list(kept.results[order]) for order in orders}
        kept.get("centred", lambda: correct_less_mean(test, classifier, train))
        for how in DROPPED:
            kept.get(how, lambda how=how: correct(test, classifier, rankings, how, train))
        kept.get("described", lambda: {score: described(train, rankings[score], runs.dictionary) for score in SCORES})


def scored(store: Store, order: str, classifier: ZeroShotClassifier) -> dict[str, float]:
    """Heads with their scores, best first."""
    how, _, seed = order.partition(" ")
    found = unit_scores(
        store, how, classifier=classifier, concepts=classifier.weights, rows=store.labels >= 0, seed=int(seed or 0)
    )
    values = dict(zip(found.units, found.values.tolist(), strict=True))
    return {unit: values[unit] for unit in found.ranking()}


def correct(
    test: Store, classifier: ZeroShotClassifier, rankings: Mapping[str, Sequence[str]], how: str, train: Store
) -> dict[str, int]:
    """Correct answers of every choice of units."""
    known = test.labels >= 0
    subsets = choices(test.units, rankings)
    reference = train if how == "mean" else None
    predicted = subset_predictions(
        test, classifier, list(subsets.values()), how, reference=reference, rows=known, progress=True
    )
    hits = (predicted == test.labels[known]).sum(dim=1).tolist()
    return dict(zip(subsets, hits, strict=True))


def correct_less_mean(test: Store, classifier: ZeroShotClassifier, train: Store) -> int:
    """Correct answers of all units once the mean over the training split is taken off, to tell selection from that."""
    known = test.labels >= 0
    moved = test.embeddings(known) - train.embeddings().mean(dim=0)
    return int((classifier.logits(moved).argmax(dim=-1) == test.labels[known]).sum())


def choices(units: Units, rankings: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Which units are kept, by the name of the choice."""
    heads = [unit.name for unit in units if unit.kind == "head"]
    mlps = [unit.name for unit in units if unit.kind == "mlp"]
    others = [unit.name for unit in units if unit.kind != "head"]
    outside = [unit.name for unit in units if unit.layer is None]
    found = {"all": list(units.names), "others": others, "MLPs": mlps}
    for order, ranking in rankings.items():
        for n in sizes(len(heads)):
            found[f"{order}, {n}"] = list(ranking[:n])
            found[f"{order}, {n}, others"] = [*ranking[:n], *others]
    for layer in range(1 + max(unit.layer or 0 for unit in units)):
        here = [unit.name for unit in units if unit.layer == layer]
        below = [unit.name for unit in units if unit.layer is not None and unit.layer <= layer]
        kept = ([name for name in here if name in heads], here, [name for name in below if name in heads])
        found |= {f"{name}, {layer}": names for name, names in zip(LAYERS, (*kept, [*outside, *below]), strict=True)}
    return found


def described(store: Store, ranking: Sequence[str], dictionary: Dictionary) -> dict[str, Any]:
    """Texts for the sum of the heads that are kept at 10 %, and for each of them, by SOMP."""
    heads = list(ranking[: -(-len(ranking) * DESCRIBED // 100)])
    total = sum(store.decompose(units=head).values[:, 0] for head in heads)
    by_head = {head: texts_of(*store.coordinates(head), dictionary) for head in heads}
    return {"together": texts_of(total, None, dictionary), "heads": by_head}


def texts_of(x: Tensor, frame: Tensor | None, dictionary: Dictionary) -> dict[str, float]:
    """Texts with the share of the variance that they and those before them explain."""
    atoms = dictionary.embeddings.to(x.dtype)
    found = somp(x, atoms, min(N_TEXTS, len(dictionary)), frame=frame)
    texts = [dictionary.texts[atom] for atom in found.indices.tolist()]
    return dict(zip(texts, found.explained_variance.tolist(), strict=True))


def templates_of(data: str, given: Sequence[str]) -> tuple[str, ...]:
    """Prompts for a data set."""
    if len(given) == 1 and "{}" not in given[0]:
        return templates(given[0])
    if given:
        return tuple(given)
    if data in task_names():
        attribute = "digit" if data == "digits" else data.removeprefix(PREFIX).partition("@")[0]
        return TEMPLATES[attribute]
    return ("a photo of a {}.",)


if __name__ == "__main__":
    main(tyro.cli(Config))
