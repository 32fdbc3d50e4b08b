"""Peak memory of every use in `benchmark_uses.py`: one line of JSON, read by `benchmark.py`.

    MALLOC_MMAP_THRESHOLD_=65536 python scripts/benchmark_memory.py --source open_clip

Linux only: the kernel's high-water mark of this process' resident memory (VmHWM) is set back before each use by writing
to /proc/self/clear_refs. On CUDA it is `torch.cuda.max_memory_allocated`.
"""

import gc
import json
import logging
import random
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from benchmark_uses import Source, images_of, uses_of


@dataclass(frozen=True)
class Config:
    """What to measure; the fields are those of `benchmark.py`."""

    source: Source
    model: str = "ViT-B-16"
    batch: int = 16
    rounds: int = 1
    threads: int = 1
    device: str = "cpu"


@torch.no_grad()
def main(config: Config) -> None:
    """Print `[[library, use, MiB in use before, MiB at the peak], ...]`, one entry a use and round."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(config.threads)
    uses = uses_of(config.source, config.model, config.device)
    images = images_of(config.model, config.batch, config.device)
    # Every use on one image, so that code is loaded and handles exist; then the first at full size, for the libraries'
    # scratch memory. Neither belongs to a use.
    for run in uses.values():
        run(images[:1])
    next(iter(uses.values()))(images)
    order, measured = random.Random(0), {variant: [] for variant in uses}  # noqa: S311 - not for secrets
    for _ in range(config.rounds):
        for variant in order.sample(list(uses), len(uses)):
            gc.collect()
            before = memory(config.device, reset=True)
            result = uses[variant](images)
            peak = memory(config.device, reset=False)
            del result
            measured[variant].append([*variant, before, peak])
    print(json.dumps([entry for entries in measured.values() for entry in entries]))


def memory(device: str, *, reset: bool) -> float:
    """MiB at the peak since the last reset; with `reset`, MiB in use, which becomes the peak."""
    if device.startswith("cuda"):
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device) / 2**20
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10


if __name__ == "__main__":
    main(tyro.cli(Config))
