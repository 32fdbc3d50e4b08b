"""Time and peak memory of typical uses of the wrapper, beside the plain model and beside TransformerLens' bridge.

    python scripts/benchmark.py                                          # all of it: 9 minutes on 2 idle cores
    python scripts/benchmark.py --model ViT-L-14 --what time --rounds 7
    python scripts/benchmark.py --what memory                            # about 2 minutes
    python scripts/benchmark.py --what bridge --markdown                 # tables as the README has them
    python scripts/benchmark.py --model ViT-S-32 --batch 2 --rounds 3    # a minute, to see that it works

Two tables. In the first, the plain model is an open_clip image tower and ours wraps that very object. In the second it
is a Hugging Face `ViTModel` of the same sizes, which TransformerLens' bridge and ours both take. Weights are random.

Time: every round runs every use once, in an order drawn anew, in one process; a figure is the median over rounds of a
use's time divided by the plain model's in the same round, so that a machine that slows down or speeds up favours
nobody. One thing is not equal: the bridge sets its model to eager attention, which has a row of its own beside it.

Memory: what a use needs at its peak (result included) beyond what is resident once the model is loaded and has run:
"MiB working". It is the high-water mark that the kernel keeps, set back before each use, with glibc told to hand freed
tensors back at once; it repeats within 1 MiB once tensors are larger than 64 KiB. "total" adds the process itself, the
weights and the images, and flatters everybody; the ratio of working memory is the strict one. Every library's model has
a process to itself, and ours shares the plain model's. On CUDA: `torch.cuda.max_memory_allocated`. Linux only.
"""

import json
import logging
import os
import random
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from benchmark_uses import HUGGING_FACE, OPEN_CLIP, Source, Uses, Variant, images_of, uses_of
from rich.console import Console
from rich.progress import track
from rich.table import Table

Column = tuple[str, dict[Variant, str]]
"""A column's head and its cells."""


@dataclass(frozen=True)
class Config:
    """What to measure."""

    model: str = "ViT-B-16"
    """Name of an open_clip model; the Hugging Face model has its sizes."""
    batch: int = 16
    """Images per forward pass."""
    rounds: int = 5
    """Timed runs of every use."""
    memory_rounds: int = 1
    """Runs of every use that are watched for memory, after one that is not."""
    threads: int | None = None
    """CPU threads; torch's choice by default."""
    what: Literal["time", "memory", "bridge", "all"] = "all"
    """Time or memory beside open_clip, both beside the bridge, or everything."""
    device: str = "cpu"
    """Where to run."""
    seed: int = 0
    """Of the order of uses."""
    markdown: bool = False
    """Print the tables as Markdown."""


@torch.no_grad()
def main(config: Config) -> None:
    """Measure and print the tables."""
    logging.disable(logging.WARNING)  # open_clip and the bridge warn that weights are random and no processor is found.
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.what != "bridge":
        columns = [] if config.what == "memory" else time_columns(config, OPEN_CLIP, ["open_clip"])
        columns += [] if config.what == "time" else memory_columns(config, OPEN_CLIP, ["open_clip"])
        show(config, OPEN_CLIP, columns)
    if config.what in ("bridge", "all"):
        sources: list[Source] = ["hugging_face", "eager", "bridge"]
        show(
            config,
            HUGGING_FACE,
            time_columns(config, HUGGING_FACE, sources) + memory_columns(config, HUGGING_FACE, sources),
        )


def time_columns(config: Config, plain: Variant, sources: list[Source]) -> list[Column]:
    """Run every use once a round, in an order drawn anew."""
    uses: Uses = {}
    for source in sources:
        uses |= uses_of(source, config.model, config.device)
    images = images_of(config.model, config.batch, config.device)
    order = random.Random(config.seed)  # noqa: S311 - not for secrets
    seconds: dict[Variant, list[float]] = {variant: [] for variant in uses}
    for run in uses.values():
        run(images[:1])
    uses[plain](images)
    for _ in track(range(config.rounds), description=f"{config.model}, {plain.library}", transient=True):
        for variant in order.sample(list(uses), len(uses)):
            synchronize(config.device)
            started = time.perf_counter()
            uses[variant](images)
            synchronize(config.device)
            seconds[variant].append(time.perf_counter() - started)
    ratios = {
        variant: [own / of_plain for own, of_plain in zip(times, seconds[plain], strict=True)]
        for variant, times in seconds.items()
    }
    quartiles = {variant: statistics.quantiles(values, n=4, method="inclusive") for variant, values in ratios.items()}
    return [
        ("ms", {variant: f"{1000 * statistics.median(times):.0f}" for variant, times in seconds.items()}),
        ("time, plain = 1", {variant: f"{median:.3f}" for variant, (_, median, _) in quartiles.items()}),
        ("quartiles", {variant: f"{low:.3f}–{high:.3f}" for variant, (low, _, high) in quartiles.items()}),
    ]


def memory_columns(config: Config, plain: Variant, sources: list[Source]) -> list[Column]:
    """Let a process for each source report, and take medians over its rounds."""
    working: dict[Variant, list[float]] = defaultdict(list)
    totals: dict[Variant, list[float]] = defaultdict(list)
    script = Path(__file__).with_name("benchmark_memory.py")
    for source in sources:
        given = {
            "source": source,
            "model": config.model,
            "batch": config.batch,
            "rounds": config.memory_rounds,
            "threads": torch.get_num_threads(),
            "device": config.device,
        }
        command = [sys.executable, str(script), *(f"--{name}={value}" for name, value in given.items())]
        # glibc then maps every tensor by itself and unmaps it when it is freed, so that resident is what is alive.
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
        for library, use, before, peak in json.loads(done.stdout.splitlines()[-1]):
            working[Variant(library, use)].append(peak - before)
            totals[Variant(library, use)].append(peak)
    needed = {variant: statistics.median(values) for variant, values in working.items()}
    total = {variant: statistics.median(values) for variant, values in totals.items()}
    return [
        ("MiB working", {variant: f"{mebibytes:.0f}" for variant, mebibytes in needed.items()}),
        ("working, plain = 1", {variant: f"{value / needed[plain]:.2f}" for variant, value in needed.items()}),
        ("total, plain = 1", {variant: f"{value / total[plain]:.3f}" for variant, value in total.items()}),
    ]


def show(config: Config, plain: Variant, columns: list[Column]) -> None:
    """Print a table, libraries side by side in what they both do."""
    variants = list(columns[0][1])
    uses = list(dict.fromkeys(variant.use for variant in variants))
    variants.sort(key=lambda variant: (uses.index(variant.use), variant != plain))
    rows = [[variant.use, variant.library, *(cells[variant] for _, cells in columns)] for variant in variants]
    heads = ["use", "library", *(head for head, _ in columns)]
    where = f"{torch.get_num_threads()} CPU threads" if config.device == "cpu" else config.device
    title = f"{config.model}, batch {config.batch}, {where}, torch {torch.__version__}"
    if config.markdown:
        rules = ["---", "---", *["--:"] * len(columns)]
        print(f"{title}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in [heads, rules, *rows]) + "\n")
        return
    table = Table(title=title, title_justify="left")
    for head in heads:
        table.add_column(head, justify="left" if head in ("use", "library") else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def synchronize(device: str) -> None:
    """Wait for a GPU, which is given work ahead of time."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main(tyro.cli(Config))
