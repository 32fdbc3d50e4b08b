"""The row "correlation" of `benchmark_pursuit.py`: units' correlation with the output, from moments and from a tensor.

The obvious way holds all contributions `[sample unit d_out]` in float32, turns them to the principal axes of the
output, and standardises every coordinate. Both sides read the same store, 64 heads of the size of a ViT-B/16's.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from benchmark_stores import made_up_store
from torch import Tensor

from residual_lens import Store
from residual_lens.activations import Rows
from residual_lens.selection import unit_scores

N_HEADS = 64


class DrawnOutput(Store):
    """A made-up store with embeddings that vary, which those of its file do not."""

    def __init__(self, n_samples: int) -> None:
        """Write it to a folder that lasts as long as the store."""
        self.folder = TemporaryDirectory()
        path = Path(self.folder.name) / "made-up.h5"
        made_up_store(path, "ViT-B/16", n_samples)[0].close()
        super().__init__(path)
        self.drawn = torch.randn(n_samples, self.layout.d_out, generator=torch.Generator().manual_seed(1))

    def embeddings(self, rows: Rows = None) -> Tensor:
        """Normal numbers."""
        return self.drawn if rows is None else self.drawn[rows]


def sides(n_samples: int) -> tuple[str, Callable[[], Tensor], Callable[[], Tensor], Callable[[Tensor, Tensor], float]]:
    """What the row is called, the two sides of it, and the largest difference between their scores."""
    store = DrawnOutput(n_samples)
    heads = [head.name for head in store.heads()[:N_HEADS]]
    return (
        f"unit–output correlation, {len(heads)} heads",
        lambda: unit_scores(store, "output", heads).values,
        lambda: obvious_correlation(store.decompose(units=heads).values, store.embeddings()),
        lambda ours, twin: float((ours - twin).abs().max()),
    )


def obvious_correlation(values: Tensor, output: Tensor) -> Tensor:
    """Coordinate by coordinate, all at once."""
    output = output - output.mean(dim=0)
    axes = torch.linalg.svd(output, full_matrices=False).Vh
    u, o = values @ axes.mT, output @ axes.mT
    u = u - u.mean(dim=0)
    correlations = (u * o[:, None]).mean(dim=0) / (u.std(dim=0, correction=0) * o.std(dim=0, correction=0))
    return correlations.mean(dim=1)
