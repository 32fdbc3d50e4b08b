"""What a finished run learned, from its folder."""

from pathlib import Path

from jaxtyping import Float, Int
from torch import Tensor

from residual_lens.errors import InputError
from residual_lens.explain.explaining import explain
from residual_lens.hooked import HookedViT
from residual_lens.hooked.devices import device_named
from residual_lens.hooked.loading import SHIPPED
from residual_lens.interventions import ResiDual
from residual_lens.report.explanation import Explanation
from residual_lens.text import CACHE, Dictionary, open_dictionary
from residual_lens.training.runs import ADAPTER, Resources, RunResult
from residual_lens.training.runs.classifiers import classifier_of
from residual_lens.training.runs.data import few_shot_rows, open_splits
from residual_lens.training.runs.stores import open_store

METHODS = ("residual", "residual*")
"""Methods whose λ scale components on the direct path, where the embedding is a sum over them."""


def explain_run(
    folder: str | Path,
    dictionary: str = "auto",
    resources: Resources | None = None,
    *,
    n_components: int = 20,
    n_texts: int = 5,
    cache: str | Path | None = None,
    progress: bool = False,
) -> Explanation:
    """What λ of a finished run does, on the test split that the run was tested on (see `explain`).

    Args:
        folder: of the run, with method `residual` or `residual*`.
        dictionary: see `open_dictionary`, or a .safetensors of `Dictionary.save`; "auto" is "attributes" for the
            shipped model and "words:3500" for others. A model without a text tower has units and components without
            texts, unless a .safetensors is given.
        resources: where things lie and run; the run's stores are taken if they are there.
        n_components: components to describe, those of largest change.
        n_texts: texts a description.
        cache: folder of text embeddings made before; `CACHE` by default.
        progress: show progress bars.

    Raises:
        InputError: no finished run, or one of another method; otherwise as in `explain` and `open_dictionary`.
        MismatchError: the model or the dictionary is another than the run's.

    Example:
        >>> explain_run("runs/attribute-clip--digits--residual--0").reached  # doctest: +SKIP
        197
    """
    resources, folder = resources or Resources(), Path(folder)
    result, residual = residual_of_run(folder)
    config = result.config
    hvit = HookedViT.from_pretrained(config.model, device=device_named(resources.device))
    atoms = dictionary_named(dictionary, hvit, cache, progress=progress)
    splits = open_splits(config, resources, hvit.cfg.image_size[0])

    def train() -> tuple[Float[Tensor, "sample d_out"], Int[Tensor, "sample"]]:
        rows = None if config.shots is None else few_shot_rows(splits.train, config.shots, config.seed)
        with open_store(config, resources, hvit, splits.train, "train", progress=progress) as store:
            return store.embeddings(rows), store.labels if rows is None else store.labels[rows]

    classifier = classifier_of(config, hvit, splits.classes, train)
    with open_store(config, resources, hvit, splits.test, "test", progress=progress) as store:
        return explain(
            residual,
            store,
            classifier,
            atoms,
            data=f"{config.data}/test",
            n_components=n_components,
            n_texts=n_texts,
            about={"run": result.to_dict()},
            progress=progress,
        )


def residual_of_run(folder: Path) -> tuple[RunResult, ResiDual]:
    """A finished run's result and what it trained.

    Raises:
        InputError: no finished run, or one of another method than `METHODS`.
    """
    result = RunResult.load(folder)
    if result.config.method not in METHODS:
        raise InputError(
            f"{folder} is a run of {result.config.method}; only those of {' and '.join(METHODS)} have λ on components "
            "of units that add up to the embedding: give one of these."
        )
    return result, ResiDual.load(folder / ADAPTER)


def dictionary_named(
    name: str, hvit: HookedViT, cache: str | Path | None = None, *, progress: bool = False
) -> Dictionary | None:
    """A dictionary by its name or file, in the space of a model.

    Args:
        name: as for `explain_run`.
        hvit: the model.
        cache: folder of embeddings made before; `CACHE` by default.
        progress: show a progress bar.

    Returns:
        None for "auto" with a model without a text tower.

    Raises:
        InputError, UnsupportedModelError: see `open_dictionary`.
    """
    if name.endswith(".safetensors"):
        return Dictionary.load(name)
    if name == "auto":
        if hvit.parts.text is None or hvit.tokenizer is None:
            return None
        name = "attributes" if hvit.cfg.model_name == SHIPPED else "words:3500"
    return open_dictionary(hvit, name, cache=cache or CACHE, progress=progress)
