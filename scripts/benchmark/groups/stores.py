"""Writing a store, and scores that are read from one."""

import time

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from residual_lens import HookedViT, Store, encode
from residual_lens.activations import Rows
from residual_lens.data.images.image_set import ImageSet, ImageSource
from residual_lens.selection import unit_scores
from scripts.benchmark.made_up import store
from scripts.benchmark.models import tower
from scripts.benchmark.rows import Cases, Sides, Timed
from scripts.benchmark.sizes import Sizes

BATCH = 32


class Noise(ImageSource):
    """Images that cost next to nothing to load; remembers when the first one was asked for."""

    def __init__(self, side: int) -> None:
        pixels = np.random.default_rng(0).integers(256, size=(BATCH, side, side, 3), dtype=np.uint8)
        self._images = [Image.fromarray(one) for one in pixels]
        self.started: float | None = None

    def image(self, index: int) -> Image.Image:
        """One of a batch."""
        self.started = self.started or time.perf_counter()
        return self._images[index % BATCH]

    def sample_id(self, index: int) -> str:
        """Its number."""
        return str(index)


def encoding(sizes: Sizes) -> Sides:
    """From the first image to the finished file, images decoded and prepared included."""
    plain = tower(sizes.model)
    hvit = HookedViT.wrap(plain)
    side = hvit.cfg.image_size[0]
    source = Noise(side)
    batch = hvit.preprocess([source.image(index) for index in range(BATCH)])
    path = sizes.folder / "encoded.h5"

    def ours() -> Timed:
        source, labels = Noise(side), np.full(sizes.encoded, -1)
        images = ImageSet(name="noise", split="train", classes=(), source=source, labels=labels)
        path.unlink(missing_ok=True)
        encode(hvit, images, path, batch_size=BATCH).close()
        return Timed(None, time.perf_counter() - (source.started or 0.0))

    def other() -> None:
        with torch.inference_mode():
            for start in range(0, sizes.encoded, BATCH):
                plain(batch[: sizes.encoded - start])

    what = f"`encode` {sizes.encoded} images, batch {BATCH}"
    return Sides(what, ours, other, "plain open_clip, forward, nothing kept")


class DrawnOutput(Store):
    """A made-up store with embeddings and labels that vary, which those of its file do not."""

    def embeddings(self, rows: Rows = None) -> Float[Tensor, "sample d_out"]:
        """Normal numbers."""
        drawn = torch.randn(len(self), self.layout.d_out, generator=torch.Generator().manual_seed(1))
        return drawn if rows is None else drawn[rows]


def correlation(sizes: Sizes) -> Sides:
    """From moments, and from a tensor of all contributions; both read the same store."""
    made = store(sizes.folder, sizes.stores[0], sizes.samples // 5)
    read = DrawnOutput(made.path)
    made.close()
    heads = [head.name for head in read.heads()[: sizes.correlated_heads]]
    return Sides(
        f"correlation of {len(heads)} heads with the output, {len(read):,} samples, `unit_scores`",
        lambda: unit_scores(read, "output", heads).values,
        lambda: obvious_correlation(read.decompose(units=heads).values, read.embeddings()),
        "a tensor of all contributions in float32",
        lambda ours, twin: float((ours - twin).abs().max()),
    )


def obvious_correlation(
    values: Float[Tensor, "sample unit d_out"], output: Float[Tensor, "sample d_out"]
) -> Float[Tensor, "unit"]:
    """Turned to the principal axes of the output, then coordinate by coordinate, all at once."""
    output = output - output.mean(dim=0)
    axes = torch.linalg.svd(output, full_matrices=False).Vh
    u, o = values @ axes.mT, output @ axes.mT
    u = u - u.mean(dim=0)
    correlations = (u * o[:, None]).mean(dim=0) / (u.std(dim=0, correction=0) * o.std(dim=0, correction=0))
    return correlations.mean(dim=1)


def section(sizes: Sizes) -> str:
    """What the rows share."""
    return f"Activation stores of a {sizes.model}"


CASES: Cases = {"store-encode": encoding, "store-correlation": correlation}
