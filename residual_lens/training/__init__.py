"""Training of adapters on a frozen model, and the baselines to compare with."""

from residual_lens.training.baselines import Coarse, LinearAdapter
from residual_lens.training.data import CachedSamples, LiveSamples, cache_samples
from residual_lens.training.loop import TrainingLog, evaluate, train_adapter

__all__ = [
    "CachedSamples",
    "Coarse",
    "LinearAdapter",
    "LiveSamples",
    "TrainingLog",
    "cache_samples",
    "evaluate",
    "train_adapter",
]
