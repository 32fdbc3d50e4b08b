"""Study: how many dimensions heads take up, by layer, for any models and data.

    python scripts/intrinsic_dimension.py                                   # the shipped model: some minutes on 2 cores
    python scripts/intrinsic_dimension.py --models clip-b clip-l dinov2-l --data imagenet --limit 80000 --device cuda
    python scripts/intrinsic_dimension.py --data digits random --limit 500 --out /tmp/quick

For every head: the linear dimension (principal components with 99 % of the variance), the intrinsic dimension by TwoNN
and its standard error, their ratio, and the share of the first component. Writes `<out>/<model>--<data>.h5` (the
activation store), `.json` (the numbers, layer by layer as they come), and `figure.png` and `figure.pdf`. A run that was
stopped goes on where it was; a finished one computes nothing but the figure.

Basile et al. (arXiv 2411.00246, section 3) find the linear dimension to rise and fall with depth (a "hunchback") while
the intrinsic one stays low and grows towards the end.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import tyro
from studies import Encoder, Kept, Source, file_name
from tqdm import tqdm

from residual_lens.dimensions import UnitDimensions, unit_dimensions
from residual_lens.report import dimensions_figure


@dataclass(frozen=True)
class Config:
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
    split: str = "train"
    """Of each data set."""
    limit: int | None = None
    """Samples of each data set; all by default."""
    share: float = 0.99
    """Of the variance, for the linear dimension."""
    root: Path | None = None
    """Folder that holds the data sets."""
    download: bool = False
    """Fetch data sets that are not there."""
    out: Path = Path("studies/intrinsic-dimension")
    """Folder for stores, numbers and figure."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where models run."""
    batch_size: int = 32
    """Images in a forward pass."""
    seed: int = 42
    """Of splits and of what is drawn."""


def main(config: Config) -> None:
    """Measure what is missing, and draw."""
    results: dict[str, dict[str, list[UnitDimensions]]] = {}
    for model in config.models:
        encoder = Encoder(model, config.out, device=config.device, batch_size=config.batch_size)
        results[model] = {data: heads_of(encoder, data, config) for data in config.data}
    figure = dimensions_figure(results)
    for suffix in ("png", "pdf"):
        figure.savefig(config.out / f"figure.{suffix}", dpi=150)
    for model, by_data in results.items():
        print(f"\n{model}: mean over heads of the first, the middle and the last layer")
        for data, heads in by_data.items():
            print(f"  {data:28}" + "   ".join(summary(heads)))
    print(f"\nWrote {config.out / 'figure.png'}")


def heads_of(encoder: Encoder, data: str, config: Config) -> list[UnitDimensions]:
    """Dimensions of all heads on one data set, from the file or from the store."""
    source = Source(data, config.split, config.limit, config.root, config.download, config.seed)
    settings = {"model": encoder.model, "data": data, "split": config.split, "limit": config.limit}
    settings |= {"seed": config.seed, "share": config.share}
    kept = Kept(config.out / f"{file_name(encoder.model, data)}.json", settings)
    if "heads" in kept.results:
        return [UnitDimensions(**head) for layer in kept.results["heads"] for head in kept.results[f"layer {layer}"]]
    with encoder.store(source) as store:
        layers = range(store.layout.n_layers)
        for layer in tqdm(layers, desc=f"{encoder.model}, {data}", unit="layer"):
            names = [head.name for head in store.heads() if head.layer == layer]
            kept.get(f"layer {layer}", lambda names=names: measured(store, names, config.share))
    kept.get("heads", lambda: list(layers))
    return heads_of(encoder, data, config)


def measured(store, names: list[str], share: float) -> list[dict]:
    """As JSON takes it."""
    return [asdict(head) for head in unit_dimensions(store, names, share=share)]


def summary(heads: list[UnitDimensions]) -> list[str]:
    """Linear and TwoNN dimension in three layers."""
    by_layer: dict[str, list[UnitDimensions]] = {}
    for head in heads:
        by_layer.setdefault(head.unit.split("H")[0], []).append(head)
    layers = list(by_layer)
    chosen = [layers[0], layers[len(layers) // 2], layers[-1]]
    return [
        f"{name}: linear {mean([h.linear for h in by_layer[name]]):.1f}, TwoNN "
        f"{mean([h.two_nn for h in by_layer[name]]):.1f}"
        for name in chosen
    ]


def mean(values: list[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)


if __name__ == "__main__":
    main(tyro.cli(Config))
