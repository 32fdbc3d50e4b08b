"""Study: does a head use the same directions on other data? Spectral cosine of the same head between data sets.

    python scripts/head_similarity.py                                    # the shipped model: some minutes on 2 cores
    python scripts/head_similarity.py --model clip-l --data imagenet cifar100 random --limit 20000 --device cuda
    python scripts/head_similarity.py --data digits random --limit 500 --out quick

Principal bases of all heads are fitted on each data set and on two random halves of it (`<out>/*.bases.h5`), and
compared pair by pair, weighted by variance, so that what moves most counts most. Two bounds say what a value means:

* ceiling: two halves of one data set, which finite samples alone keep from 1;
* floor: the second data set's components turned at random within the head's own subspace. All that a head writes lies
  in `d_head + 1` of `d_out` dimensions, so that nothing is as unlike as two random bases.

Writes `similarity.json`, `figure.png` and `figure.pdf`. A run that was stopped goes on where it was; a finished one
computes nothing but the figure. Activation stores lie in `--stores`, for other studies as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
import tyro
from studies import Kept, Stores, Study, check_names, file_name
from torch import Tensor

from residual_lens import Bases, fit_bases
from residual_lens.figures import save
from residual_lens.report import similarity_figure
from residual_lens.spectral import spectral_cosine
from residual_lens.units import Unit

HALVES = ("first half", "second half")
"""Of a data set's samples, drawn at random."""


@dataclass(frozen=True)
class Config(Study):
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
    out: Path = Path("studies/head-similarity")
    """Folder for bases, numbers and figure."""


def main(config: Config) -> None:
    """Compare what has not been compared, and draw."""
    check_names("data", config.data, 2)
    kept = Kept(config.out / "similarity.json", {"model": config.model, **config.settings()})
    stores = Stores(config.model, config.data, config)

    @cache
    def bases(data: str) -> Bases:
        return bases_of(stores, data, "", config)

    for data in config.data:
        kept.get(
            pair(data, data), lambda data=data: compared(*(bases_of(stores, data, half, config) for half in HALVES))
        )
    for one, other in combinations(config.data, 2):
        kept.get(pair(one, other), lambda one=one, other=other: compared(bases(one), bases(other)))
        kept.get(floor_of(one, other), lambda one=one, other=other: floor(bases(one), bases(other), config.seed))
    figure = similarity_figure(
        np.array([[grid(kept.results[pair(one, other)]) for other in config.data] for one in config.data]),
        config.data,
        title=f"{config.model}: does a head use the same directions on other data?",
    )
    for suffix in ("png", "pdf"):
        save(figure, config.out / f"figure.{suffix}", dpi=120)
    print_table(kept, config.data)
    print(f"\nWrote {config.out / 'figure.png'}")


def bases_of(stores: Stores, data: str, half: str, config: Config) -> Bases:
    """Bases of all heads on one data set or a half of it, from the file or from the store."""
    path = config.out / f"{file_name(stores.model, data, *half.split())}.bases.h5"
    if not path.exists():
        with stores.open(data) as store:
            order = torch.randperm(len(store), generator=torch.Generator().manual_seed(config.seed))
            rows = order.chunk(2)[HALVES.index(half)].sort().values if half else None
            fit_bases(store, units="heads", rows=rows, progress=True).save(path)
    return Bases.load(path)


def compared(one: Bases, other: Bases) -> dict[str, float]:
    """Weighted spectral cosine of every head with itself."""
    (x, wx), (y, wy) = stacked(one), stacked(other)
    return dict(zip(one, spectral_cosine(x, y, x_weights=wx, y_weights=wy).tolist(), strict=True))


def stacked(bases: Bases) -> tuple[Tensor, Tensor]:
    """Components and variances of all heads, float64."""
    components = torch.stack([basis.components for basis in bases.values()])
    return components.double(), torch.stack([basis.variances for basis in bases.values()]).double()


def floor(one: Bases, other: Bases, seed: int) -> dict[str, float]:
    """The same with the other's components turned at random within what a head can write."""
    generator = torch.Generator().manual_seed(seed)

    def turned(components: Tensor) -> Tensor:
        n = len(components)
        return torch.linalg.qr(torch.randn(n, n, dtype=components.dtype, generator=generator)).Q @ components

    at_random = {name: replace(basis, components=turned(basis.components)) for name, basis in other.items()}
    return compared(one, replace(other, by_unit=at_random))


def pair(one: str, other: str) -> str:
    """Under which name a pair's result is kept: the same whichever comes first."""
    return f"{one}: halves" if one == other else " | ".join(sorted((one, other)))


def floor_of(one: str, other: str) -> str:
    """Under which name a pair's floor is kept."""
    return f"{pair(one, other)}: floor"


def grid(by_head: dict[str, float]) -> np.ndarray:
    """Layer × head."""
    places = {name: Unit.named(name) for name in by_head}
    shape = max(unit.layer for unit in places.values()) + 1, max(unit.index for unit in places.values()) + 1
    values = np.full(shape, np.nan)
    for name, unit in places.items():
        values[unit.layer, unit.index] = by_head[name]
    return values


def print_table(kept: Kept, data: Sequence[str]) -> None:
    """Means over heads, as a table in Markdown."""
    print("\nSpectral cosine weighted by variance, mean over heads. Above the diagonal: between two data sets; on it:")
    print("between two halves of one (ceiling); below it: the pair's components turned at random (floor).\n")
    print("| | " + " | ".join(data) + " |")
    print("|---|" + "--:|" * len(data))
    for row, one in enumerate(data):
        names = [(floor_of if column < row else pair)(one, other) for column, other in enumerate(data)]
        means = [float(np.mean(list(kept.results[name].values()))) for name in names]
        print(f"| {one} | " + " | ".join(f"{value:.2f}" for value in means) + " |")


if __name__ == "__main__":
    main(tyro.cli(Config))
