"""Spectra of units: pure tensors in, tensors out; nothing here knows a model."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from residual_lens.spectral.dimension import (
    Decimation,
    TwoNNResult,
    effective_rank,
    linear_dimension,
    participation_ratio,
    two_nn,
    two_nn_scaling,
)
from residual_lens.spectral.moments import Moments
from residual_lens.spectral.neighbours import two_nearest
from residual_lens.spectral.pca import StreamingPCA
from residual_lens.spectral.pursuit import Pursuit, omp, somp, text_span
from residual_lens.spectral.similarity import pairwise_spectral_cosine, spectral_cosine
from residual_lens.spectral.similarity_baselines import (
    correlation,
    linear_cka,
    mean_cosine,
    principal_angles,
    relative_cosine,
)

if TYPE_CHECKING:
    from residual_lens.spectral.estimators import EffectiveRank, LinearDimension, ParticipationRatio, TwoNN

__all__ = [
    "Decimation",
    "EffectiveRank",
    "LinearDimension",
    "Moments",
    "ParticipationRatio",
    "Pursuit",
    "StreamingPCA",
    "TwoNN",
    "TwoNNResult",
    "correlation",
    "effective_rank",
    "linear_cka",
    "linear_dimension",
    "mean_cosine",
    "omp",
    "pairwise_spectral_cosine",
    "participation_ratio",
    "principal_angles",
    "relative_cosine",
    "somp",
    "spectral_cosine",
    "text_span",
    "two_nearest",
    "two_nn",
    "two_nn_scaling",
]


def __getattr__(name: str) -> Any:
    # Estimators are loaded when they are first used: scikit-learn takes longer to import than all the rest.
    if name in ("EffectiveRank", "LinearDimension", "ParticipationRatio", "TwoNN"):
        return getattr(import_module("residual_lens.spectral.estimators"), name)
    raise AttributeError(f"module 'residual_lens.spectral' has no attribute {name!r}")
