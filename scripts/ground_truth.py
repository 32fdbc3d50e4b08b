"""Study: do scores find the heads that matter for an attribute, and those alone? Claims about heads against the truth.

    python scripts/ground_truth.py                                  # the shipped model
    python scripts/ground_truth.py --n-stream 200 --tops 3 --out quick

Heads are scored for every attribute on training scenes, the best of each are ablated, and zero-shot accuracy on *all*
attributes is measured on test scenes: on the direct path and in the stream, with the mean of the training scenes in
their place or with what they gave for one of them. Beside every choice stand random draws with as many heads of each
layer. Scores are those of `residual_lens.selection`, and

* contrast: the share of the attribute's contrast that falls away with the head on the training scenes, on the direct
  path: an effect measured, not a label, and so what labels are to be compared with.

Writes `ground_truth.json` and figures. A run that was stopped goes on where it was; a finished one computes nothing but
the figures. Outcomes of ablations in the stream lie in `<out>/outcomes`, a file for each set of heads.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from ground_truth_report import foretellings, matrices, print_tables, selectivities
from head_effects import DirectAblations, Outcomes, Questions, StreamAblations
from resampling import resamples
from scene_world import SceneSet, World
from selectivity import Scores, measured
from studies import Kept, file_name

from residual_lens.data.attribute_world import ABSENT, sample_scenes
from residual_lens.data.images.image_set import Split
from residual_lens.errors import InputError
from residual_lens.figures import save
from residual_lens.selection import UnitScores, unit_scores

PATHS = ("direct", "stream")
WAYS = ("mean", "resample")
LABELS = ("output", "task", "supervised", "concepts")
"""Scores of `unit_scores`; "output" knows no attribute, and shows how far one gets without."""
EFFECT = "contrast"
SCORES = (*LABELS, EFFECT)
FIRST_SEED = 2**42
"""Scenes of this study have seeds of their own, far from those of pretraining and of tasks."""


@dataclass(frozen=True)
class Config:
    """Which model, how many scenes, how many heads."""

    model: str = "attribute-clip"
    """A name as in `residual-lens models`, with a text tower."""
    n_train: int = 4000
    """Scenes on which heads are scored, and which give the mean."""
    n_test: int = 3000
    """Scenes on which effects are measured."""
    n_stream: int = 1000
    """How many of these for effects in the stream, where the model runs for each set of heads."""
    glyph_share: float = 0.6
    """Share of scenes with a digit or letter: enough of each attribute."""
    tops: tuple[int, ...] = (1, 3, 5)
    """How many of the best heads are ablated."""
    shown: int = 3
    """How many, in tables and maps; one of `tops`."""
    n_random: int = 20
    """Layer-matched random draws beside each choice."""
    n_resamples: int = 1000
    """Bootstrap draws of test images."""
    seed: int = 0
    """Of scenes, draws and permutations."""
    out: Path = Path("studies/ground-truth")
    """Folder for outcomes, numbers and figures."""
    stores: Path = Path("studies/stores")
    """Folder of the activation stores."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the model runs."""
    batch_size: int = 128
    """Images in a forward pass."""

    def settings(self) -> dict[str, Any]:
        """What results depend on."""
        beyond = ("out", "stores", "device", "batch_size", "shown")
        return {name: value for name, value in asdict(self).items() if name not in beyond}

    def outcomes(self) -> Path:
        """Folder of what ablations gave, named by all that this depends on, so that none of other scenes is read."""
        made = (self.n_train, self.n_test, self.n_stream, self.glyph_share, self.seed)
        return self.out / "outcomes" / file_name(self.model, *map(str, made))


class Study:
    """The study's data and ablations, made when they are asked for."""

    def __init__(self, config: Config) -> None:
        """Draw the scenes; they cost nothing before they are rendered."""
        self.config = config
        self.world = World(config.model, config.stores, device=config.device, batch_size=config.batch_size)
        self.train = self._scenes("train", config.n_train, 0)
        self.test = self._scenes("test", config.n_test, 1)
        self.streamed = replace(self.test, scenes=self.test.scenes.select(slice(config.n_stream)))

    def _scenes(self, split: Split, n_images: int, place: int) -> SceneSet:
        config = self.config
        seed = FIRST_SEED + 2 * config.seed + place
        scenes = sample_scenes(n_images, torch.Generator().manual_seed(seed), glyph_share=config.glyph_share)
        parameters = {"n": n_images, "glyphs": str(config.glyph_share), "seed": config.seed}
        return SceneSet("scenes", split, scenes, parameters)

    def questions(self, scenes: SceneSet) -> Questions:
        """What is asked of scenes."""
        return Questions.of(self.world.classifiers, scenes.scenes.labels)

    def measured(self, scores: Scores, path: str, how: str) -> dict[str, Any]:
        """One path, one way to ablate; outcomes in the stream are kept as files."""
        config = self.config
        scenes = self.test if path == "direct" else self.streamed
        folder = config.outcomes() / f"{path}-{how}" if path == "stream" else None
        return measured(
            Outcomes(lambda: self._ablations(path, how), lambda: self.questions(scenes), folder),
            scores,
            tops=config.tops,
            n_random=config.n_random,
            counts=resamples(len(scenes.scenes), config.n_resamples, config.seed),
            seed=config.seed,
        )

    def _ablations(self, path: str, how: str) -> DirectAblations | StreamAblations:
        world, weights, seed = self.world, self.questions(self.test).weights, self.config.seed
        if path == "direct":
            return DirectAblations(world.store(self.test), weights, how, reference=world.store(self.train), seed=seed)
        return StreamAblations(
            world.hvit,
            world.pixels(self.streamed),
            weights.to(world.hvit.device),
            how,
            reference=world.pixels(self.train),
            seed=seed,
            batch_size=world.batch_size,
        )

    def scores(self) -> dict[str, dict[str, dict[str, float]]]:
        """Of every head, for every attribute, on the training scenes that have it."""
        store, labels = self.world.store(self.train), self.train.scenes.labels
        output = _by_unit(unit_scores(store, "output"))
        found: dict[str, dict[str, dict[str, float]]] = {how: {} for how in LABELS}
        for name, classifier in self.world.classifiers.items():
            found["output"][name] = output
            for how in LABELS[1:]:
                scored = unit_scores(
                    store,
                    how,
                    rows=labels[name] != ABSENT,
                    classifier=classifier,
                    labels=labels[name],
                    concepts=classifier.weights,
                )
                found[how][name] = _by_unit(scored)
        return {**found, EFFECT: self._contrasts()}

    def _contrasts(self) -> dict[str, dict[str, float]]:
        """Share of every attribute's contrast that each head gives on the training scenes."""
        questions, store = self.questions(self.train), self.world.store(self.train)
        ablations = DirectAblations(store, questions.weights, "mean", reference=store, seed=self.config.seed)
        outcomes = Outcomes(lambda: ablations, lambda: questions)
        before = np.nanmean(outcomes.of(())[1], axis=1)
        alone = {head: 1 - np.nanmean(outcomes.of([head])[1], axis=1) / before for head in ablations.heads}
        return {
            name: {head: float(shares[place]) for head, shares in alone.items()}
            for place, name in enumerate(questions.labels)
        }


def _by_unit(scores: UnitScores) -> dict[str, float]:
    return dict(zip(scores.units, scores.values.tolist(), strict=True))


def main(config: Config) -> None:
    """Measure what has not been measured, draw, and print."""
    check(config)
    kept = Kept(config.out / "ground_truth.json", config.settings())
    study = Study(config)
    scores: Scores = kept.get("scores", study.scores)
    for path in PATHS:
        for how in WAYS:
            kept.get(f"{path}, {how}", lambda path=path, how=how: study.measured(scores, path, how))
    runs = {name: run for name, run in kept.results.items() if name != "scores"}
    k = str(config.shown)
    print_tables(runs, k)
    taken = f"on the attribute of a column when {k} heads chosen for that of a row are replaced by their mean"
    shown = ("concepts", EFFECT)
    figures = {
        "effects": matrices(runs, shown, k, "accuracy", title=f"{config.model}: accuracy lost (points) {taken}"),
        "contrasts": matrices(runs, shown, k, "contrast", title=f"{config.model}: contrast lost (%) {taken}"),
        "selectivity": selectivities(
            runs, title=f"{config.model}: drop of the attribute chosen for, less the mean drop of the others"
        ),
        "foretold": foretellings(
            runs, title=f"{config.model}: does a head's score foretell what is lost when that head alone goes?"
        ),
    }
    for name, figure in figures.items():
        save(figure, config.out / f"{name}.png", dpi=110)
        print(f"Wrote {config.out / name}.png")


def check(config: Config) -> None:
    """Refuse what makes no study.

    Raises:
        InputError: too few scenes, heads or draws.
    """
    if not 100 <= config.n_stream <= config.n_test or config.n_train < 100:
        raise InputError(
            f"Every attribute needs some scenes: got --n-train {config.n_train}, --n-test {config.n_test}, --n-stream "
            f"{config.n_stream}, expected at least 100 of each, and in the stream at most those of the test."
        )
    if min(config.tops, default=0) < 1 or config.shown not in config.tops:
        raise InputError(
            f"Heads start at 1, and --shown is one of --tops: got --tops {config.tops}, --shown {config.shown}."
        )
    if min(config.n_random, config.n_resamples) < 2:
        raise InputError(f"Draws start at 2, got --n-random {config.n_random}, --n-resamples {config.n_resamples}.")


if __name__ == "__main__":
    main(tyro.cli(Config))
