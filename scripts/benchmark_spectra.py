"""Time and memory of the analyses, beside the obvious ways to compute the same.

    python scripts/benchmark_spectra.py                              # all of it: about 10 minutes on 2 idle cores
    python scripts/benchmark_spectra.py --rows cosine neighbours     # two minutes
    python scripts/benchmark_spectra.py --samples 2000 --rounds 1    # a minute, to see that it works

Every row measures both sides in one process, one after the other in each round; a figure is the median over rounds. The
data are made up, of the sizes of a ViT-B/16 or ViT-L/14. Each row also says how far the two results are apart.

pca         Principal components of all heads, reading the store included, against an SVD of each head's contributions
            `[sample d_out]` in float32, which are given to it in memory. It is timed on a few heads and multiplied.
neighbours  TwoNN of one head against the full distance matrix in float64.
cosine      Spectral cosine of 144 pairs of bases against a greedy loop in Python, in the 65 dimensions that a head of
            64 has, and in 512.
encode      Images a second through `encode` (from the first image to the finished file) against the plain model's
            forward pass; and megabytes a second on the way to the disk, waiting for it included.

Memory is the peak beyond what the process had before, each side in a process of its own (Linux only).
"""

import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import open_clip
import torch
import tyro
from benchmark_peaks import head_like
from benchmark_rows import Row, peak, show, timed
from benchmark_stores import SIZES, made_up_store
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))  # The twins lie in tests/.
from residual_lens import HookedViT, encode, fit_bases
from residual_lens.data.images.image_set import ImageSet, ImageSource
from residual_lens.spectral import spectral_cosine, two_nn
from tests.reference.dimension import matrix_two_nearest, naive_two_nn
from tests.reference.similarity import naive_spectral_cosine

ROWS = ("pca", "neighbours", "cosine", "encode")
PEAKS = str(Path(__file__).with_name("benchmark_peaks.py"))


@dataclass(frozen=True)
class Config:
    """What to measure."""

    rows: tuple[str, ...] = ROWS
    """Which rows."""
    models: tuple[str, ...] = tuple(SIZES)
    """Sizes of the stores that PCA reads."""
    samples: int = 20_000
    """Of a store, and of TwoNN."""
    rounds: int = 3
    """Timed runs of each side."""
    twin_heads: int = 3
    """Heads that the SVD is timed on."""
    images: int = 256
    """Through `encode`."""
    memory: bool = True
    """Measure peaks, too."""
    threads: int | None = None
    """CPU threads; torch's choice by default."""
    markdown: bool = False
    """Print the table as Markdown."""


def main(config: Config) -> None:
    """Measure and print."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    rows: list[Row] = []
    with TemporaryDirectory() as folder:
        for row in measured(config, Path(folder)):
            rows.append(row)
            print("  ".join(row.cells()), flush=True)
    show(rows, rounds=config.rounds, markdown=config.markdown)


def measured(config: Config, folder: Path) -> Iterator[Row]:
    """Row by row."""
    if "pca" in config.rows:
        yield from (pca_row(model, config, folder) for model in config.models)
    if "neighbours" in config.rows:
        yield neighbours_row(config)
    if "cosine" in config.rows:
        yield from (cosine_row(k, features, config) for features in (65, 512) for k in (32, 64))
    if "encode" in config.rows:
        yield encode_row(config, folder)


def pca_row(model: str, config: Config, folder: Path) -> Row:
    """All heads of a store."""
    store, rate = made_up_store(folder / "pca.h5", model, config.samples)
    print(f"{model}: written at {rate:.0f} MB/s, waiting for the disk included")
    row = Row(f"PCA of all {len(store.heads())} heads, {model}, n = {config.samples:,}")
    heads = [head.name for head in store.heads()][:: len(store.heads()) // config.twin_heads][: config.twin_heads]
    for _ in range(config.rounds):
        bases, seconds = timed(lambda: fit_bases(store, units="heads"))
        row.ours.append(seconds)
        twins = [timed(svd, store.decompose(units=head).values[:, 0])[1] for head in heads]
        row.twin.append(sum(twins) / len(twins) * len(store.heads()))
    gaps = []
    for head in heads:
        variances = svd(store.decompose(units=head, dtype=torch.float64).values[:, 0])
        ours = bases[head].variances.double()
        gaps.append(float((ours - variances[: len(ours)]).abs().max() / variances[0]))
    row.difference = max(gaps)
    if not config.memory:
        store.close()
        return row
    row.mib = (peak(PEAKS, "pca", store.path),)
    store.close()
    small, _ = made_up_store(folder / "pca.h5", model, config.samples // 4)
    quarter = peak(PEAKS, "pca", small.path)
    print(f"{model}: {row.mib[0]:.0f} MiB for {config.samples:,} samples, {quarter:.0f} for a quarter")
    small.close()
    return row


def svd(x: Tensor) -> Tensor:
    """Variances."""
    return torch.linalg.svd(x - x.mean(dim=0), full_matrices=False).S.square() / (len(x) - 1)


def neighbours_row(config: Config) -> Row:
    """One head's contributions in the space of the embedding."""
    x = head_like(config.samples)
    row = Row(f"TwoNN, n = {config.samples:,}, d_out = {x.shape[1]}")
    for _ in range(config.rounds):
        ours, seconds = timed(lambda: two_nn(x).dimension)
        row.ours.append(seconds)
        row.twin.append(timed(lambda: matrix_two_nearest(x))[1])
    row.difference = abs(ours / naive_two_nn(matrix_two_nearest(x.double())) - 1)
    if config.memory:
        row.mib = tuple(peak(PEAKS, side, config.samples) for side in ("neighbours", "matrix"))
    return row


def cosine_row(components: int, features: int, config: Config, pairs: int = 144) -> Row:
    """The same head's bases on two data sets, in its own coordinates or in the space of the embedding."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.linalg.qr(torch.randn(pairs, features, components, generator=generator)).Q.mT for _ in range(2))
    wx, wy = (torch.rand(pairs, components, generator=generator).sort(descending=True).values for _ in range(2))
    row = Row(f"spectral cosine, {pairs} pairs, {components} components of {features} dimensions")
    for _ in range(config.rounds):
        ours, seconds = timed(lambda: spectral_cosine(x, y, x_weights=wx, y_weights=wy))
        row.ours.append(seconds)
        twin, seconds = timed(lambda: torch.tensor(list(map(naive_spectral_cosine, x, y, wx, wy))))
        row.twin.append(seconds)
    row.difference = float(((ours - twin).abs() / twin).max())
    return row


class Noise(ImageSource):
    """Images that cost next to nothing to load; remembers when the first one was asked for."""

    def __init__(self, side: int) -> None:
        noise = np.random.default_rng(0).integers(256, size=(32, side, side, 3), dtype=np.uint8)
        self._images = [Image.fromarray(one) for one in noise]
        self.started: float | None = None

    def image(self, index: int) -> Image.Image:
        """One of 32."""
        self.started = self.started or time.perf_counter()
        return self._images[index % 32]

    def sample_id(self, index: int) -> str:
        """Its number."""
        return str(index)


def encode_row(config: Config, folder: Path) -> Row:
    """ViT-B/16 with random weights."""
    torch.manual_seed(0)
    plain = open_clip.create_model("ViT-B-16").visual.eval()
    hvit = HookedViT.wrap(plain)
    batch = hvit.preprocess([Noise(224).image(index) for index in range(32)])
    row = Row(f"encode {config.images} images, ViT-B/16, batch 32")
    for number in range(config.rounds):
        source = Noise(224)
        labels = np.full(config.images, -1)
        images = ImageSet(name="noise", split="train", classes=(), source=source, labels=labels)
        encode(hvit, images, folder / f"{number}.h5").close()
        row.ours.append(time.perf_counter() - source.started)
        with torch.inference_mode():
            row.twin.append(timed(lambda: [plain(batch) for _ in range(config.images // 32)])[1])
    return row


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # open_clip warns that weights are random.
    with torch.no_grad():
        main(tyro.cli(Config))
