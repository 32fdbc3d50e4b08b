"""Study: is a shortcut removed by taking out what is said to carry it? Colour tells shape in training, not in the test.

    python scripts/shortcut.py                                 # the shipped model
    python scripts/shortcut.py --shifts sketch --out quick

A probe (logistic regression on the frozen embedding) learns shape from scenes in which colour mostly gives it away.
Then what is said to carry colour is taken out on the direct path, of all images alike: heads, by each score, replaced
by their mean; principal components of heads and MLPs (ResiDual with λ = 0); the span of the colour words. The probe
stays as it was, or is refitted to what is left. ResiDual is also trained on the biased scenes in the probe's place. How
much is taken out is decided by worst-group accuracy on validation scenes without the shortcut, whose groups are known;
those of the test scenes decide nothing. Beside every choice stand random draws: as many heads of each layer, as many
components of each unit.

Groups are shape × whether the colour is that of the shortcut. Writes `shortcut.json` and `figure.png`; a run that was
stopped goes on where it was, and a finished one computes nothing but the figure.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from resampling import resamples
from scene_world import SceneSet, World
from shortcut_removal import Probe, Readings, Removals, ZeroShot, nothing
from shortcut_trials import Trial, alike
from studies import Kept

from residual_lens.data.attribute_world import SHIFTS, sample_shortcut
from residual_lens.data.images.image_set import Split
from residual_lens.errors import InputError
from residual_lens.figures import save
from residual_lens.report import interval_figure
from residual_lens.selection import layer_matched

FIRST_SEED = 2**43
"""Scenes of this study have seeds of their own."""
BY = ("concepts", "task", "supervised")
"""Scores that say which heads are colour's."""
PLAIN = "plain"
"""Scenes as in pretraining."""


@dataclass(frozen=True)
class Config:
    """Which scenes, how strong a shortcut, what to try."""

    model: str = "attribute-clip"
    """A name as in `residual-lens models`, with a text tower."""
    shifts: tuple[str, ...] = (PLAIN, "sketch", "lowcontrast")
    """How scenes are rendered, in training and test alike: where shape is harder to see, a shortcut pays."""
    correlation: float = 0.95
    """Of colour and shape in training."""
    n_train: int = 1000
    """Biased scenes to learn from, and as many without the shortcut for comparison."""
    n_validation: int = 2000
    """Scenes without the shortcut that decide how much is taken out."""
    n_test: int = 8000
    """Scenes without the shortcut."""
    heads: tuple[int, ...] = (1, 2, 3, 5, 8, 12, 18, 27, 36)
    """How many heads may be taken out; none may stay as well."""
    components: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100, 200, 400, 800)
    """How many principal components may be taken out."""
    n_random: int = 20
    """Random draws beside each choice."""
    n_resamples: int = 1000
    """Bootstrap draws of test images."""
    seed: int = 0
    """Of scenes, draws and training."""
    out: Path = Path("studies/shortcut")
    """Folder for numbers and figure."""
    stores: Path = Path("studies/stores")
    """Folder of the activation stores."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the model runs."""
    batch_size: int = 128
    """Images in a forward pass."""

    def settings(self) -> dict[str, Any]:
        """What results depend on, beyond how scenes are rendered."""
        beyond = ("out", "stores", "device", "batch_size", "shifts")
        return {name: value for name, value in asdict(self).items() if name not in beyond}


def main(config: Config) -> None:
    """Try what has not been tried, draw, and print."""
    check(config)
    kept = Kept(config.out / "shortcut.json", config.settings())
    for shift in config.shifts:
        kept.get(shift, lambda shift=shift: tried(config, shift))
    runs = {shift: kept.results[shift] for shift in config.shifts}
    print_tables(runs)
    figure = interval_figure(
        {
            shift: {row: {"worst group": each["worst"], "average": each["average"]} for row, each in run.items()}
            for shift, run in runs.items()
        },
        random={
            shift: {row: {"worst group": each["random"]} for row, each in run.items()} for shift, run in runs.items()
        },
        title=f"{config.model}: shape, learned where colour gives it away and tested where it does not",
        labels=["accuracy (%)"] * len(runs),
    )
    save(figure, config.out / "figure.png", dpi=110)
    print(f"\nWrote {config.out / 'figure.png'}")


def tried(config: Config, shift: str) -> dict[str, Any]:
    """Everything on scenes of one rendering: by method, accuracies with intervals, what was taken out, random draws."""
    world = World(config.model, config.stores, device=config.device, batch_size=config.batch_size)
    sets: list[tuple[Split, int, float]] = [
        ("train", config.n_train, config.correlation),
        ("train", config.n_train, 0.0),
        ("validation", config.n_validation, 0.0),
        ("test", config.n_test, 0.0),
    ]
    biased, fair, validation, test = (
        Readings.of(world, scene_set(config, shift, place, *each)) for place, each in enumerate(sets)
    )
    removals = Removals(world, biased)
    trial = Trial(biased, validation, test, resamples(len(test), config.n_resamples, config.seed))
    zero_shot, residual = ZeroShot(world.classifiers["shape"]), removals.trained_residual(validation, config.seed)
    probe, refitted = trial.fixed(Probe(biased, nothing)), trial.refitted
    trial.keep("zero-shot, nothing trained", zero_shot, nothing)
    trial.keep("probe of scenes without the shortcut", Probe(fair, nothing), nothing)
    trial.keep("probe", probe(nothing), nothing)
    for readout, by in ((probe, "probe"), (refitted, "refitted")):
        for how in BY:
            ranking = removals.heads_of_colour(how)
            trial.keep_best(
                f"{by}, heads by {how}",
                readout,
                {k: removals.heads(ranking[:k]) for k in config.heads if k <= len(ranking)},
                lambda k, seed, ranking=ranking: removals.heads(
                    layer_matched(ranking[:k], biased.store.units, seed=seed)
                ),
                config.n_random,
            )
        ranked = removals.components_of_colour()
        trial.keep_best(
            f"{by}, components (ResiDual, λ = 0)",
            readout,
            {k: removals.components(ranked[:k]) for k in config.components if k <= len(ranked)},
            lambda k, seed, ranked=ranked: removals.components(alike(ranked[:k], removals.bases, seed)),
            config.n_random,
        )
        trial.keep(f"{by}, colour's words projected out", readout(removals.words()), removals.words())
    untouched = removals.components((), residual)
    trial.keep("ResiDual, trained", zero_shot, untouched)
    trial.keep_best(
        "ResiDual, trained, then components λ = 0",
        lambda taken: zero_shot,
        {k: removals.components(ranked[:k], residual) for k in config.components if k <= len(ranked)},
        lambda k, seed: removals.components(alike(ranked[:k], removals.bases, seed), residual),
        config.n_random,
        without=untouched,
    )
    return trial.found


def scene_set(config: Config, shift: str, place: int, split: Split, n_images: int, correlation: float) -> SceneSet:
    """Scenes of shapes, with or without the shortcut."""
    seed = FIRST_SEED + 4 * config.seed + place
    scenes = sample_shortcut(n_images, torch.Generator().manual_seed(seed), correlation=correlation)
    parameters = {"n": n_images, "correlation": str(correlation), "seed": config.seed}
    return SceneSet("shortcut", split, scenes, parameters, shift=None if shift == PLAIN else shift)


def print_tables(runs: Mapping[str, Mapping[str, Any]]) -> None:
    """The numbers, as a table in Markdown."""
    print(
        "\nAccuracy (%) on scenes without the shortcut [95 % interval]; taken: how many, chosen on validation; random:"
    )
    print("worst group after as many random draws, mean and largest.\n")
    for shift, run in runs.items():
        print(f"\n| {shift} | worst group | average | taken | random |\n|---|--:|--:|--:|--:|")
        for name, each in run.items():
            cells = [f"{value:.1f} [{low:.1f}, {high:.1f}]" for value, low, high in (each["worst"], each["average"])]
            taken = "" if each["taken"] is None else str(each["taken"])
            random = each["random"]
            drawn = f"{sum(random) / len(random):.1f}, {max(random):.1f}" if random else ""
            print(f"| {name} | {' | '.join(cells)} | {taken} | {drawn} |")


def check(config: Config) -> None:
    """Refuse what makes no study.

    Raises:
        InputError: unknown renderings, or too few scenes or draws.
    """
    known = (PLAIN, *SHIFTS)
    unknown = [shift for shift in config.shifts if shift not in known]
    if unknown or not config.shifts or len(set(config.shifts)) != len(config.shifts):
        raise InputError(f"--shifts takes some of {', '.join(known)}, each once; got {', '.join(config.shifts)}.")
    if min(config.n_train, config.n_validation, config.n_test) < 160:
        raise InputError("Sixteen groups need at least 160 scenes of each kind.")
    if not config.heads or not config.components or min(*config.heads, *config.components) < 1:
        raise InputError(f"Heads and components start at 1, got {config.heads} and {config.components}.")
    if min(config.n_random, config.n_resamples) < 2:
        raise InputError(f"Draws start at 2, got --n-random {config.n_random}, --n-resamples {config.n_resamples}.")


if __name__ == "__main__":
    main(tyro.cli(Config))
