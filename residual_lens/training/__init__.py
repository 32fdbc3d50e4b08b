"""Training of adapters on a frozen model, and the baselines to compare with.

The names below are loaded when they are first used, so that the command line can read settings without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from residual_lens.training.cached import Coordinates, coordinates
    from residual_lens.training.data import CachedSamples, cache_samples
    from residual_lens.training.live import LiveImages, LiveSamples
    from residual_lens.training.loop import evaluate, train_adapter
    from residual_lens.training.methods import Coarse, LinearAdapter
    from residual_lens.training.progress import TrainingLog

_HOMES = {
    "cached": ("Coordinates", "coordinates"),
    "data": ("CachedSamples", "cache_samples"),
    "live": ("LiveImages", "LiveSamples"),
    "loop": ("evaluate", "train_adapter"),
    "methods": ("Coarse", "LinearAdapter"),
    "progress": ("TrainingLog",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "CachedSamples",
    "Coarse",
    "Coordinates",
    "LinearAdapter",
    "LiveImages",
    "LiveSamples",
    "TrainingLog",
    "cache_samples",
    "coordinates",
    "evaluate",
    "train_adapter",
]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
