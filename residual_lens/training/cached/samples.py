"""Samples whose direct contributions are held in memory."""

from dataclasses import dataclass

import torch
from beartype import beartype
from jaxtyping import Float, Int, jaxtyped
from torch import Tensor
from tqdm import tqdm

from residual_lens.decomposition import Decomposition, HeadFrames
from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT


@dataclass(frozen=True, eq=False)
class CachedSamples:
    """Direct contributions of a frozen model, computed once: enough for every edit on the direct path."""

    decomposition: Decomposition
    """One sample a row."""
    labels: Int[Tensor, "sample"]
    """Class indices."""
    frames: HeadFrames | None = None
    """Of the model's heads, if they are known: what whole heads are scaled in (see `coordinates`)."""

    def embed(self, hvit: HookedViT, rows: Int[Tensor, "batch"]) -> Float[Tensor, "batch d_out"]:
        """Recomposed embeddings, direct hooks in force."""
        return hvit.recompose(Decomposition(self.decomposition.values[rows], self.decomposition.units))


@jaxtyped(typechecker=beartype)
@torch.no_grad()
def cache_samples(
    hvit: HookedViT,
    images: Float[Tensor, "sample 3 height width"],
    labels: Int[Tensor, "_"],
    *,
    batch_size: int = 256,
    progress: bool = False,
) -> CachedSamples:
    """Decompose images once, so that direct edits train without the backbone.

    Hooks in force take part in what is cached: attach what is to be trained afterwards, or it acts twice.

    Args:
        hvit: the model.
        images: normalised.
        labels: one per image.
        batch_size: images per forward pass.
        progress: show a progress bar.

    Raises:
        InputError: no images, or not one label per image.
    """
    if len(images) == 0 or len(images) != len(labels):
        raise InputError(f"Expected at least one image and one label each, got {len(images)} and {len(labels)}.")
    batches = tqdm(images.split(batch_size), desc="decomposing", unit="batch", disable=not progress)
    values = torch.cat([hvit.decompose(batch).values for batch in batches])
    return CachedSamples(Decomposition(values, hvit.units), labels.to(values.device), hvit.head_frames())
