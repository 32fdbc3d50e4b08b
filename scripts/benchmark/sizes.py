"""How large everything is that is measured."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sizes:
    """Of what is measured."""

    folder: Path
    """Scratch, for what several rows read."""
    model: str = "ViT-B-16"
    """Name of an open_clip model; Hugging Face's has its sizes."""
    batch: int = 8
    """Images of a forward pass."""
    gpu_models: tuple[str, str] = ("ViT-B-16", "ViT-L-14")
    gpu_batch: int = 256
    device: str = "cuda"
    """Of the GPU's rows."""
    stores: tuple[str, str] = ("ViT-B/16", "ViT-L/14")
    """Whose activations are made up."""
    samples: int = 20_000
    """Of a store, and of TwoNN."""
    twin_heads: int = 3
    """Heads that the other way is timed on where it takes one after the other; multiplied."""
    pairs: int = 144
    """Of bases, for the spectral cosine."""
    pursuit_samples: int = 10_000
    single_samples: int = 200
    """Of a pursuit that takes sample by sample."""
    atoms: int = 3_500
    picks: int = 20
    correlated_heads: int = 64
    encoded: int = 128
    """Images through `encode`."""
    scales: tuple[int, int] = (793, 4104)
    """λ of a training step."""
    step: int = 64
    """Images of a training step."""
    unit_tensors: int = 1024
    """Samples of an epoch on unit tensors, 323 kB each."""
    live_images: int = 4
    """Of the live step that is multiplied."""
    epoch: int = 5000
    """Samples of an epoch on coordinates."""


def tiny(folder: Path) -> Sizes:
    """At which every row runs in a moment, and figures mean nothing."""
    return Sizes(
        folder,
        model="benchmark-tiny",
        batch=2,
        gpu_models=("benchmark-tiny", "benchmark-tiny"),
        gpu_batch=2,
        device="cpu",
        stores=("tiny", "tiny"),
        samples=250,
        twin_heads=1,
        pairs=4,
        pursuit_samples=150,
        single_samples=20,
        atoms=60,
        picks=4,
        correlated_heads=4,
        encoded=2,
        scales=(20, 40),
        step=4,
        unit_tensors=16,
        live_images=1,
        epoch=16,
    )
