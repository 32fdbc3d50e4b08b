"""Images a second and peak memory of large models on a GPU, in bfloat16: only where there is one."""

import time
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float

from residual_lens import HookedViT
from scripts.benchmark.models import Images, apart, noise, tower
from scripts.benchmark.rows import Cases, Sides, Skipped, Timed
from scripts.benchmark.sizes import Sizes

Use = Callable[[HookedViT, Images], Any]
Embeddings = Float[torch.Tensor, "batch d_out"]


def on_device(device: torch.device, work: Callable[[], Any]) -> Timed:
    """Result, seconds by the device's own clock, and MiB beyond what was allocated before."""
    if device.type != "cuda":
        started = time.perf_counter()
        return Timed(work(), time.perf_counter() - started)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    start.record()
    result = work()
    end.record()
    torch.cuda.synchronize(device)
    mib = (torch.cuda.max_memory_allocated(device) - before) / 2**20
    return Timed(result, start.elapsed_time(end) / 1000, mib)


def case(place: int, what: str, use: Use, embedding: Callable[[Any], Embeddings] | None) -> Callable[[Sizes], Sides]:
    """A use of the wrapper and the plain forward pass, of one of the models."""

    def sides(sizes: Sizes) -> Sides:
        device = torch.device(sizes.device)
        if device.type == "cuda" and not torch.cuda.is_available():
            raise Skipped("there is no CUDA device here")
        model = sizes.gpu_models[place]
        plain = tower(model, sizes.device, torch.bfloat16)
        hvit, images = HookedViT.wrap(plain), noise(model, sizes.gpu_batch).to(device, torch.bfloat16)
        return Sides(
            f"{what}, {model}",
            torch.no_grad()(lambda: on_device(device, lambda: use(hvit, images))),
            torch.no_grad()(lambda: on_device(device, lambda: plain(images))),
            "plain open_clip, forward",
            embedding and (lambda given, expected: apart(embedding(given), expected)),
            images=sizes.gpu_batch,
        )

    return sides


def section(sizes: Sizes) -> str:
    """What the rows share."""
    return f"Forward pass on a GPU, bfloat16, batch {sizes.gpu_batch}"


CASES: Cases = {
    f"gpu-{size}-{name}": case(place, *of_use)
    for place, size in enumerate(("base", "large"))
    for name, of_use in {
        "plain": ("no hooks", lambda hvit, images: hvit(images), lambda embedding: embedding),
        "extract": ("all units' terms, `extract`", HookedViT.extract, None),
        "decompose": ("all direct contributions, `decompose`", HookedViT.decompose, lambda parts: parts.total()),
    }.items()
}
