"""Speed of the wrapper against the model it wraps: ratios from interleaved runs in one process.

    python scripts/benchmark.py                               # ViT-B-16, batch 8: about 3 minutes on 2 cores
    python scripts/benchmark.py --model ViT-L-14 --batch 4 --rounds 10

Every round runs every variant once, in an order drawn anew; a variant's figure is the median over rounds of its time
divided by the plain model's in the same round, so that a machine that slows down or speeds up favours nobody. Weights
are random: they do not matter for speed.
"""

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import open_clip
import torch
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from residual_lens import HookedViT


@dataclass(frozen=True)
class Config:
    """What to time."""

    model: str = "ViT-B-16"
    """Name of an open_clip model."""
    batch: int = 8
    """Images per forward pass."""
    rounds: int = 15
    """Runs of every variant that count, after one that does not."""
    threads: int | None = None
    """CPU threads; torch's choice by default."""
    seed: int = 0
    """Of the images and of the order of variants."""


@torch.no_grad()
def main(config: Config) -> None:
    """Time the variants and print the table."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    order = random.Random(config.seed)  # noqa: S311 - not for secrets
    tower = open_clip.create_model(config.model).visual.eval()
    hvit = HookedViT.wrap(tower)
    images = torch.randn(config.batch, 3, *hvit.cfg.image_size)
    captured: dict[str, torch.Tensor] = {}

    def save_pooled_z(z: torch.Tensor, hook: object) -> None:
        captured[hook.name] = z[:, 0].clone()  # pyright: ignore[reportAttributeAccessIssue]

    def capture_z() -> torch.Tensor:
        hooks = [(f"blocks.{layer}.attn.hook_z", save_pooled_z) for layer in range(hvit.cfg.n_layers)]
        return hvit.run_with_hooks(images, fwd_hooks=hooks)

    def whole_blocks() -> torch.Tensor:
        # Which keeps that block from being cut down to the pooled token: the wiring alone, like for like.
        return hvit.run_with_hooks(images, fwd_hooks=[(f"blocks.{hvit.cfg.n_layers - 1}.hook_resid_post", _look)])

    variants: dict[str, Callable[[], object]] = {
        "open_clip, plain": lambda: tower(images),
        "no hooks": lambda: hvit(images),
        "one hook on the last block's tokens": whole_blocks,
        "all heads' z at the pooled token, hooks": capture_z,
        "all units' terms, extract()": lambda: hvit.extract(images),
        "all contributions, decompose()": lambda: hvit.decompose(images),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in track(range(config.rounds + 1), description=config.model, transient=True):
        for name in order.sample(list(variants), len(variants)):
            started = time.perf_counter()
            variants[name]()
            if round_ > 0:
                seconds[name].append(time.perf_counter() - started)
    title = f"{config.model}, batch {config.batch}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    table = Table(title=title, title_justify="left")
    for column in ("forward pass", "ms", "ratio to plain", "quartiles"):
        table.add_column(column, justify="left" if column == "forward pass" else "right")
    for name, times in seconds.items():
        ratios = [own / plain for own, plain in zip(times, seconds["open_clip, plain"], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        table.add_row(
            name, f"{1000 * statistics.median(times):.0f}", f"{statistics.median(ratios):.3f}", f"{low:.3f}–{high:.3f}"
        )
    Console().print(table)


def _look(activation: torch.Tensor, hook: object) -> None:
    """A hook that only listens."""


if __name__ == "__main__":
    main(tyro.cli(Config))
