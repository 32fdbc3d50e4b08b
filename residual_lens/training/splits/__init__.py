"""What a training loop reads, in batches: samples that are cached, and images that run through the model."""

from residual_lens.training.splits.batches import Split
from residual_lens.training.splits.live import LiveImages, LiveSamples

__all__ = ["LiveImages", "LiveSamples", "Split"]
