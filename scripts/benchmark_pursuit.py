"""Time and memory of the pursuits, beside the obvious ways to compute the same.

    python scripts/benchmark_pursuit.py                              # all of it: about 5 minutes on 2 idle cores
    python scripts/benchmark_pursuit.py --rows gaussian span         # some rows
    python scripts/benchmark_pursuit.py --samples 1000 --atoms 300 --rounds 1 --no-memory    # to see that it works

Every row measures both sides in one process, one after the other in each round; a figure is the median over rounds. The
obvious way holds float32 tensors `[sample atom]`: SOMP multiplies residuals with all atoms and refits by `lstsq` at
every pick; TextSpan takes an SVD, multiplies data and dictionary, and takes the pick off both. 20 picks of 3,500 atoms,
which share a direction as text embeddings do. *difference* is the number of picks that are not the same.

head       SOMP of a head: its contributions lie on 65 of 768 dimensions, with standard deviations that decay, and ours
           takes their coordinates, as a store gives them.
gaussian   SOMP of normal data in all 768 dimensions, with standard deviations 1, 1/2, 1/3 … along random directions.
sparse     SOMP where each sample is the sum of 5 atoms with normal weights: atoms are much alike.
noise      SOMP of isotropic normal data: nothing tells atoms apart.
head-span  TextSpan of rank 64 of the same head.
span       TextSpan of rank 64 of the `gaussian` data.

Memory is the peak beyond what the process had before, each side in a process of its own (Linux only).
"""

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
import tyro
from benchmark_correlation import sides
from benchmark_memory import memory
from benchmark_rows import Row, peak, show, timed
from torch import Tensor
from torch.nn.functional import normalize

from residual_lens.spectral import somp, text_span

D_OUT, RANK = 768, 64


@dataclass(frozen=True)
class Config:
    """What to measure."""

    rows: tuple[str, ...] = ("gaussian", "sparse", "noise", "head", "span", "correlation")
    """Which rows."""
    samples: int = 10_000
    """Of the data."""
    atoms: int = 3_500
    """Of the dictionary."""
    picks: int = 20
    """Atoms to pick."""
    rounds: int = 3
    """Timed runs of each side."""
    memory: bool = True
    """Measure peaks, too."""
    threads: int | None = None
    """CPU threads; torch's choice by default."""
    markdown: bool = False
    """Print the table as Markdown."""
    peak: Literal["ours", "twin"] | None = None
    """Only print the peak of one side of the one row that is named, in MiB."""


class Sides(NamedTuple):
    """What is measured."""

    what: str
    ours: Callable[[], Any]
    twin: Callable[[], Any]
    gap: Callable[[Any, Any], float]
    """Between what the two sides give."""


def somp_row(what: str, draw: Callable[[Config, Tensor, torch.Generator], Tensor]) -> Callable[[Config], Sides]:
    """SOMP of some data."""

    def row(config: Config) -> Sides:
        generator = torch.Generator().manual_seed(0)
        atoms = dictionary(config, generator)
        x = draw(config, atoms, generator)
        return Sides(
            f"SOMP, {what}",
            lambda: somp(x, atoms, config.picks).indices.tolist(),
            lambda: obvious_somp(x, atoms, config.picks),
            picks_apart,
        )

    return row


def gaussian(config: Config, atoms: Tensor, generator: torch.Generator) -> Tensor:
    """Variances that decay."""
    turned = torch.linalg.qr(torch.randn(D_OUT, D_OUT, generator=generator)).Q
    return torch.randn(config.samples, D_OUT, generator=generator) / torch.arange(1, D_OUT + 1) @ turned


def sparse(config: Config, atoms: Tensor, generator: torch.Generator) -> Tensor:
    """Few atoms a sample."""
    chosen = torch.randint(len(atoms), (config.samples, 5), generator=generator)
    weights = torch.randn(chosen.shape, generator=generator)
    return torch.stack([(w[:, None] * atoms[i]).sum(dim=0) for i, w in zip(chosen, weights, strict=True)])


def noise(config: Config, atoms: Tensor, generator: torch.Generator) -> Tensor:
    """No structure."""
    return torch.randn(config.samples, D_OUT, generator=generator)


def head_somp_row(config: Config) -> Sides:
    """In as few coordinates as a head has."""
    coordinates, frame, x, atoms = head(config)
    return Sides(
        "SOMP, a head in its coordinates",
        lambda: somp(coordinates, atoms, config.picks, frame=frame).indices.tolist(),
        lambda: obvious_somp(x, atoms, config.picks),
        picks_apart,
    )


def head_span_row(config: Config) -> Sides:
    """In as few coordinates as a head has."""
    coordinates, frame, x, atoms = head(config)
    return Sides(
        "TextSpan, a head in its coordinates",
        lambda: text_span(coordinates, atoms, config.picks, frame=frame, rank=RANK).indices.tolist(),
        lambda: obvious_text_span(x, atoms, config.picks),
        picks_apart,
    )


def head(config: Config) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Coordinates, frame and contributions of a head of 64 dimensions, whose variances decay, and atoms."""
    generator = torch.Generator().manual_seed(0)
    atoms = dictionary(config, generator)
    coordinates = torch.randn(config.samples, RANK + 1, generator=generator) * torch.exp(-torch.arange(RANK + 1) / 20)
    frame = torch.linalg.qr(torch.randn(D_OUT, RANK + 1, generator=generator)).Q.mT.contiguous()
    return coordinates, frame, coordinates @ frame, atoms


def span_row(config: Config) -> Sides:
    """In all dimensions."""
    generator = torch.Generator().manual_seed(0)
    atoms = dictionary(config, generator)
    x = gaussian(config, atoms, generator)
    return Sides(
        "TextSpan, all dimensions",
        lambda: text_span(x, atoms, config.picks, rank=RANK).indices.tolist(),
        lambda: obvious_text_span(x, atoms, config.picks),
        picks_apart,
    )


ROWS: dict[str, Callable[[Config], Sides]] = {
    "head": head_somp_row,
    "gaussian": somp_row("decaying spectrum", gaussian),
    "sparse": somp_row("5 atoms a sample", sparse),
    "noise": somp_row("isotropic noise", noise),
    "head-span": head_span_row,
    "span": span_row,
    "correlation": lambda config: Sides(*sides(config.samples)),
}


def dictionary(config: Config, generator: torch.Generator) -> Tensor:
    """Unit-norm atoms with a cosine of about a half."""
    shared = torch.randn(D_OUT, generator=generator)
    return normalize(torch.randn(config.atoms, D_OUT, generator=generator) + shared, dim=1)


def obvious_somp(x: Tensor, atoms: Tensor, n_picks: int) -> list[int]:
    """Correlate, pick, refit, again."""
    x = x - x.mean(dim=0)
    picked: list[int] = []
    residual = x
    for _ in range(n_picks):
        scores = (residual @ atoms.mT).abs().sum(dim=0)
        scores[picked] = -1
        picked.append(int(scores.argmax()))
        weights = torch.linalg.lstsq(atoms[picked].mT, x.mT).solution.mT
        residual = x - weights @ atoms[picked]
    return picked


def obvious_text_span(x: Tensor, atoms: Tensor, n_picks: int) -> list[int]:
    """Project, correlate, pick, take off data and dictionary, again."""
    x = x - x.mean(dim=0)
    rows = torch.linalg.svd(x, full_matrices=False).Vh[:RANK]
    atoms = atoms @ rows.mT @ rows
    picked: list[int] = []
    for _ in range(n_picks):
        picked.append(int((x @ atoms.mT).var(dim=0).argmax()))
        direction = normalize(atoms[picked[-1]], dim=0)
        x = x - (x @ direction)[:, None] * direction
        atoms = atoms - (atoms @ direction)[:, None] * direction
    return picked


def picks_apart(ours: list[int], twin: list[int]) -> float:
    """How many differ."""
    return float(sum(a != b for a, b in zip(ours, twin, strict=True)))


def main(config: Config) -> None:
    """Measure and print."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.peak is not None:
        print(peak_here(config))
        return
    rows = []
    for row in measured(config):
        rows.append(row)
        print("  ".join(row.cells()), flush=True)
    show(rows, rounds=config.rounds, markdown=config.markdown)


def measured(config: Config) -> Iterator[Row]:
    """Row by row."""
    sizes = ("--samples", config.samples, "--atoms", config.atoms, "--picks", config.picks)
    for name in config.rows:
        sides = ROWS[name](config)
        row = Row(sides.what)
        for _ in range(config.rounds):
            ours, seconds = timed(sides.ours)
            row.ours.append(seconds)
            twin, seconds = timed(sides.twin)
            row.twin.append(seconds)
        row.difference = sides.gap(ours, twin)
        if config.memory:
            row.mib = tuple(peak(__file__, "--rows", name, "--peak", side, *sizes) for side in ("ours", "twin"))
        yield row


def peak_here(config: Config) -> float:
    """Run it small, for what is loaded and kept, then watch it."""
    (name,) = config.rows
    for samples in (200, config.samples):
        sides = ROWS[name](replace(config, samples=samples))
        gc.collect()
        before = memory("cpu", reset=True)
        (sides.ours if config.peak == "ours" else sides.twin)()
    return memory("cpu", reset=False) - before


if __name__ == "__main__":
    with torch.no_grad():
        main(tyro.cli(Config))
