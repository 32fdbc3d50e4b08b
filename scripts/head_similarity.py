"""Study: does a head use the same directions on other data? Spectral cosine of the same head between data sets.

    python scripts/head_similarity.py                                    # the shipped model: some minutes on 2 cores
    python scripts/head_similarity.py --model clip-l --data imagenet cifar100 random --limit 20000 --device cuda
    python scripts/head_similarity.py --data digits random --limit 500 --out /tmp/quick

Principal bases of all heads are fitted on each data set (`<out>/<model>--<data>.bases.h5`), and compared pair by pair:
weighted by variance, so that what moves most counts most. Writes `similarity.json`, `figure.png` and `figure.pdf`.
Two halves of the first data set show what the same data give, the ceiling of what can be expected. A run that was
stopped goes on where it was; a finished one computes nothing but the figure.
"""

from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import torch
import tyro
from studies import Encoder, Kept, Source, file_name
from torch import Tensor
from tqdm import tqdm

from residual_lens import Bases, fit_bases
from residual_lens.report import similarity_figure
from residual_lens.spectral import spectral_cosine
from residual_lens.units import Unit

HALVES = ("first half", "second half")
"""Of the first data set's samples, every other one each."""


@dataclass(frozen=True)
class Config:
    """Which model on which data."""

    model: str = "attribute-clip"
    """A name as in `residual-lens models`."""
    data: tuple[str, ...] = (
        "attributes",
        "attributes:shape@sketch",
        "attributes:shape@inverted",
        "attributes:shape@clutter",
        "attributes:shape@lowcontrast",
        "digits",
        "random",
    )
    """Names as for `residual-lens encode`."""
    split: str = "train"
    """Of each data set."""
    limit: int | None = None
    """Samples of each data set; all by default."""
    root: Path | None = None
    """Folder that holds the data sets."""
    download: bool = False
    """Fetch data sets that are not there."""
    out: Path = Path("studies/head-similarity")
    """Folder for stores, bases, numbers and figure."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the model runs."""
    batch_size: int = 32
    """Images in a forward pass."""
    seed: int = 42
    """Of splits and of what is drawn."""


def main(config: Config) -> None:
    """Compare what has not been compared, and draw."""
    settings = {"model": config.model, "split": config.split, "limit": config.limit, "seed": config.seed}
    kept = Kept(config.out / "similarity.json", settings)
    encoder = Encoder(config.model, config.out, device=config.device, batch_size=config.batch_size)
    loaded: dict[tuple[str, str], Bases] = {}

    def bases(data: str, part: str = "") -> Bases:
        if (data, part) not in loaded:
            loaded[data, part] = bases_of(encoder, data, part, config)
        return loaded[data, part]

    pairs = list(combinations_with_replacement(config.data, 2))
    for one, other in tqdm(pairs, desc="pairs of data sets", unit="pair"):
        kept.get(f"{one} | {other}", lambda one=one, other=other: compared(bases(one), bases(other)))
    first = config.data[0]
    halves = kept.get(f"{first}, two halves", lambda: compared(*(bases(first, half) for half in HALVES)))
    by_pair = np.array(
        [[grid(kept.results[key(one, other, config.data)]) for other in config.data] for one in config.data]
    )
    figure = similarity_figure(by_pair, config.data, title=f"Heads of {config.model}: same directions on other data?")
    for suffix in ("png", "pdf"):
        figure.savefig(config.out / f"figure.{suffix}", dpi=150)
    print(f"\nSpectral cosine, weighted by variance, mean over heads; {first}, two halves: {mean(halves):.3f}")
    for one, other in pairs:
        if one != other:
            print(f"  {one:30} {other:30} {mean(kept.results[f'{one} | {other}']):.3f}")
    print(f"\nWrote {config.out / 'figure.png'}")


def bases_of(encoder: Encoder, data: str, part: str, config: Config) -> Bases:
    """Bases of all heads on one data set or a part of it, from the file or from the store."""
    path = config.out / f"{file_name(encoder.model, data, *part.split())}.bases.h5"
    if not path.exists():
        source = Source(data, config.split, config.limit, config.root, config.download, config.seed)
        with encoder.store(source) as store:
            rows = slice(HALVES.index(part), None, 2) if part else None
            fit_bases(store, units="heads", rows=rows).save(path)
    return Bases.load(path)


def compared(one: Bases, other: Bases) -> dict[str, float]:
    """Weighted spectral cosine of every head with itself."""
    (x, wx), (y, wy) = stacked(one), stacked(other)
    return dict(zip(one, spectral_cosine(x, y, x_weights=wx, y_weights=wy).tolist(), strict=True))


def stacked(bases: Bases) -> tuple[Tensor, Tensor]:
    """Components and variances of all heads, float64."""
    components = torch.stack([basis.components for basis in bases.values()])
    return components.double(), torch.stack([basis.variances for basis in bases.values()]).double()


def grid(by_head: dict[str, float]) -> np.ndarray:
    """Layer × head."""
    places = {name: Unit.named(name) for name in by_head}
    shape = max(unit.layer for unit in places.values()) + 1, max(unit.index for unit in places.values()) + 1
    values = np.full(shape, np.nan)
    for name, unit in places.items():
        values[unit.layer, unit.index] = by_head[name]
    return values


def key(one: str, other: str, data: tuple[str, ...]) -> str:
    """Under which a pair's result is kept."""
    first, second = sorted((one, other), key=data.index)
    return f"{first} | {second}"


def mean(by_head: dict[str, float]) -> float:
    """Over heads."""
    return sum(by_head.values()) / len(by_head)


if __name__ == "__main__":
    main(tyro.cli(Config))
