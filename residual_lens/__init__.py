"""Take a vision transformer apart: every head and MLP as a hook, its spectrum, and ResiDual on top.

The names below are loaded when they are first used, so that importing the package costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from residual_lens.activations import Store, encode
    from residual_lens.bases import Bases, Basis, fit_bases
    from residual_lens.data import ImageSet, Preprocessing, Task, load_task, open_images, task_names
    from residual_lens.decomposition import Decomposition, HeadFrames
    from residual_lens.descriptions import Descriptions, describe
    from residual_lens.dimensions import UnitDimensions, unit_dimensions
    from residual_lens.errors import InputError, MismatchError, ResidualLensError, StoreError, UnsupportedModelError
    from residual_lens.hooked import HookedViT
    from residual_lens.interventions import (
        Adapter,
        Component,
        Difference,
        Edit,
        ResiDual,
        ablate,
        activation_patch,
        bake,
        keep_only,
        project_out,
        scale,
        steer,
        unbake,
    )
    from residual_lens.selection import UnitScores, layer_matched, unit_scores
    from residual_lens.spectral import Pursuit, StreamingPCA, omp, somp, text_span
    from residual_lens.subsets import subset_predictions
    from residual_lens.text import Dictionary, ZeroShotClassifier, open_dictionary, zero_shot_classifier
    from residual_lens.training import (
        CachedSamples,
        Coarse,
        Coordinates,
        LinearAdapter,
        LiveImages,
        LiveSamples,
        TrainingLog,
        cache_samples,
        coordinates,
        evaluate,
        train_adapter,
    )
    from residual_lens.units import Unit, Units

__version__ = "0.1.0"

_HOMES = {
    "activations": ("Store", "encode"),
    "bases": ("Bases", "Basis", "fit_bases"),
    "data": ("ImageSet", "Preprocessing", "Task", "load_task", "open_images", "task_names"),
    "decomposition": ("Decomposition", "HeadFrames"),
    "descriptions": ("Descriptions", "describe"),
    "dimensions": ("UnitDimensions", "unit_dimensions"),
    "errors": ("InputError", "MismatchError", "ResidualLensError", "StoreError", "UnsupportedModelError"),
    "hooked": ("HookedViT",),
    "interventions": (
        "Adapter",
        "Component",
        "Difference",
        "Edit",
        "ResiDual",
        "ablate",
        "activation_patch",
        "bake",
        "keep_only",
        "project_out",
        "scale",
        "steer",
        "unbake",
    ),
    "selection": ("UnitScores", "layer_matched", "unit_scores"),
    "spectral": ("Pursuit", "StreamingPCA", "omp", "somp", "text_span"),
    "subsets": ("subset_predictions",),
    "text": ("Dictionary", "ZeroShotClassifier", "open_dictionary", "zero_shot_classifier"),
    "training": (
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
    ),
    "units": ("Unit", "Units"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Adapter",
    "Bases",
    "Basis",
    "CachedSamples",
    "Coarse",
    "Component",
    "Coordinates",
    "Decomposition",
    "Descriptions",
    "Dictionary",
    "Difference",
    "Edit",
    "HeadFrames",
    "HookedViT",
    "ImageSet",
    "InputError",
    "LinearAdapter",
    "LiveImages",
    "LiveSamples",
    "MismatchError",
    "Preprocessing",
    "Pursuit",
    "ResiDual",
    "ResidualLensError",
    "Store",
    "StoreError",
    "StreamingPCA",
    "Task",
    "TrainingLog",
    "Unit",
    "UnitDimensions",
    "UnitScores",
    "Units",
    "UnsupportedModelError",
    "ZeroShotClassifier",
    "ablate",
    "activation_patch",
    "bake",
    "cache_samples",
    "coordinates",
    "describe",
    "encode",
    "evaluate",
    "fit_bases",
    "keep_only",
    "layer_matched",
    "load_task",
    "omp",
    "open_dictionary",
    "open_images",
    "project_out",
    "scale",
    "somp",
    "steer",
    "subset_predictions",
    "task_names",
    "text_span",
    "train_adapter",
    "unbake",
    "unit_dimensions",
    "unit_scores",
    "zero_shot_classifier",
]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(f"residual_lens.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module 'residual_lens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
