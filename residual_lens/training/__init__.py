"""Training of adapters on a frozen model, and the baselines to compare with.

The names below are loaded when they are first used, so that the command line can read settings without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from residual_lens.training.cached import CachedSamples, Coordinates, cache_samples, coordinates
    from residual_lens.training.fitting import TrainingLog, evaluate, train_adapter
    from residual_lens.training.methods import Coarse, LinearAdapter
    from residual_lens.training.splits import LiveImages, LiveSamples

_HOMES = {
    "cached": ("CachedSamples", "Coordinates", "cache_samples", "coordinates"),
    "fitting": ("TrainingLog", "evaluate", "train_adapter"),
    "methods": ("Coarse", "LinearAdapter"),
    "splits": ("LiveImages", "LiveSamples"),
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
