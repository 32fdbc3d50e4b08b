"""Study: how many dimensions heads take up, by layer, for any models and data.

    python scripts/intrinsic_dimension.py                                   # the shipped model: some minutes on 2 cores
    python scripts/intrinsic_dimension.py --models clip-b clip-l dinov2-l --data imagenet --limit 80000 --device cuda
    python scripts/intrinsic_dimension.py --data digits random --limit 500 --out quick

For every head: the linear dimension (principal components with 99 % of the variance), the intrinsic dimension by TwoNN
and its standard error, their ratio, and the share of the first component. Writes `<out>/<model>--<data>.json` (the
numbers, layer by layer as they come), and `figure.png` and `figure.pdf`. A run that was stopped goes on where it was; a
finished one computes nothing but the figure. Activation stores lie in `--stores`, for other studies as well.

Basile et al. (arXiv 2411.00246, section 3) find the linear dimension to rise and fall with depth (a "hunchback") while
the intrinsic one stays low and grows towards the end.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import tyro
from studies import Kept, Stores, Study, check_names, file_name
from tqdm import tqdm

from residual_lens import Store, UnitDimensions, unit_dimensions
from residual_lens.figures import save
from residual_lens.report import dimensions_figure
from residual_lens.units import Unit


@dataclass(frozen=True)
class Config(Study):
    """Which models on which data."""

    models: tuple[str, ...] = ("attribute-clip",)
    """Names as in `residual-lens models`."""
    data: tuple[str, ...] = (
        "attributes",
        "attributes:shape@sketch",
        "attributes:shape@clutter",
        "digits",
        "random",
    )
    """Names as for `residual-lens encode`."""
    share: float = 0.99
    """Of the variance, for the linear dimension."""
    out: Path = Path("studies/intrinsic-dimension")
    """Folder for numbers and figure."""


def main(config: Config) -> None:
    """Measure what is missing, and draw."""
    check_names("models", config.models, 1)
    check_names("data", config.data, 1)
    kept = {model: {data: numbers(model, data, config) for data in config.data} for model in config.models}
    results: dict[str, dict[str, list[UnitDimensions]]] = {}
    for model in config.models:
        stores = Stores(model, config.data, config)
        results[model] = {data: heads_of(stores, data, kept[model][data], config.share) for data in config.data}
    figure = dimensions_figure(results, share=config.share)
    for suffix in ("png", "pdf"):
        save(figure, config.out / f"figure.{suffix}", dpi=120)
    for model, by_data in results.items():
        print_table(model, by_data)
    print(f"\nWrote {config.out / 'figure.png'}")


def numbers(model: str, data: str, config: Config) -> Kept:
    """What is known of a model on a data set."""
    settings = {"model": model, "data": data, "share": config.share, **config.settings()}
    return Kept(config.out / f"{file_name(model, data)}.json", settings)


def heads_of(stores: Stores, data: str, kept: Kept, share: float) -> list[UnitDimensions]:
    """Dimensions of all heads on one data set, from the file as far as it goes, then from the store."""
    if not is_finished(kept):
        with stores.open(data) as store:
            n_layers = kept.get("layers", lambda: store.layout.n_layers)
            for layer in tqdm(range(n_layers), desc=f"{stores.model}, {data}", unit="layer"):
                kept.get(f"L{layer}", lambda layer=layer: measured(store, layer, share))
    return [UnitDimensions(**head) for layer in range(kept.results["layers"]) for head in kept.results[f"L{layer}"]]


def is_finished(kept: Kept) -> bool:
    """Whether every layer was measured."""
    return "layers" in kept.results and all(f"L{layer}" in kept.results for layer in range(kept.results["layers"]))


def measured(store: Store, layer: int, share: float) -> list[dict]:
    """One layer's heads, as JSON takes them."""
    heads = [head.name for head in store.heads() if head.layer == layer]
    return [asdict(head) for head in unit_dimensions(store, heads, share=share)]


def print_table(model: str, by_data: dict[str, list[UnitDimensions]]) -> None:
    """Means over the heads of each layer, as a table in Markdown; of TwoNN with the mean of the standard errors."""
    layers = range(1 + max(layer_of(head) for heads in by_data.values() for head in heads))
    print(f"\n{model}: mean over heads of the linear dimension / TwoNN dimension ± its standard error\n")
    print("| data | samples | " + " | ".join(f"layer {layer}" for layer in layers) + " |")
    print("|---|--:|" + "--:|" * len(layers))
    for data, heads in by_data.items():
        cells = []
        for layer in layers:
            here = [head for head in heads if layer_of(head) == layer]
            linear, two_nn, error = (
                sum(values) / len(here)
                for values in zip(*((h.linear, h.two_nn, h.two_nn_error) for h in here), strict=True)
            )
            cells.append(f"{linear:.1f} / {two_nn:.1f} ± {error:.1f}")
        print(f"| {data} | {heads[0].n_samples:,} | " + " | ".join(cells) + " |")


def layer_of(head: UnitDimensions) -> int:
    """Every head has one."""
    return Unit.named(head.unit).layer or 0


if __name__ == "__main__":
    main(tyro.cli(Config))
