"""scikit-learn style estimators over the functions of `dimension`: `fit(X)` on samples, results in attributes."""

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from sklearn.base import BaseEstimator
from torch import Tensor

from residual_lens.spectral.dimension import effective_rank, linear_dimension, participation_ratio, two_nn
from residual_lens.spectral.neighbours import check_samples
from residual_lens.spectral.pca import StreamingPCA


class TwoNN(BaseEstimator):
    """Intrinsic dimension of samples by their two nearest neighbours (see `two_nn`).

    Fitted attributes: `dimension_`, `standard_error_`, `scale_`, `n_used_`, `n_duplicates_`, `n_features_in_`.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((1000, 2))
        >>> round(TwoNN().fit(x @ np.ones((2, 4)) + x[:, :1] ** 2 * np.arange(4)).dimension_)
        2
    """

    def __init__(self, *, discard: float = 0.1) -> None:
        self.discard = discard

    def fit(self, X: Shaped[Tensor, "..."] | np.ndarray, y: Any = None) -> "TwoNN":
        """Estimate from `[sample feature]` samples, numpy or torch; `y` is not looked at.

        Raises:
            InputError: as `two_nn`.
        """
        samples = _samples(X)
        result = two_nn(samples, discard=self.discard)
        self.dimension_, self.standard_error_, self.scale_ = result.dimension, result.standard_error, result.scale
        self.n_used_, self.n_duplicates_ = result.n_used, result.n_duplicates
        self.n_features_in_ = samples.shape[1]
        return self


class SpectrumEstimator(BaseEstimator):
    """What the estimators that look at the principal components' variances alone have in common."""

    def fit(self, X: Shaped[Tensor, "..."] | np.ndarray, y: Any = None) -> "SpectrumEstimator":
        """Estimate from `[sample feature]` samples, at least 2, numpy or torch; `y` is not looked at.

        Returns:
            Itself.

        Raises:
            InputError: bad samples, or an option out of range.
        """
        samples = _samples(X)
        variances = StreamingPCA().partial_fit(samples[:, None]).explained_variance_[0].cpu()
        self.dimension_ = self._measure(variances).item()
        self.variances_, self.n_features_in_ = variances.numpy(), samples.shape[1]
        return self

    @abstractmethod
    def _measure(self, variances: Float[Tensor, "component"]) -> Float[Tensor, ""] | Int[Tensor, ""]: ...


class LinearDimension(SpectrumEstimator):
    """How many principal components hold a share of the variance (see `linear_dimension`).

    Fitted attributes: `dimension_`, `variances_` (of the components, numpy float64), `n_features_in_`.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((100, 3)) * [10, 10, 0.1]
        >>> LinearDimension(threshold=0.99).fit(x).dimension_
        2
    """

    def __init__(self, *, threshold: float = 0.99) -> None:
        self.threshold = threshold

    def _measure(self, variances: Float[Tensor, "component"]) -> Int[Tensor, ""]:
        return linear_dimension(variances, threshold=self.threshold)


class ParticipationRatio(SpectrumEstimator):
    """Participation ratio of the principal components' variances (see `participation_ratio`).

    Fitted attributes: `dimension_`, `variances_` (of the components, numpy float64), `n_features_in_`.

    Example:
        >>> x = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> round(ParticipationRatio().fit(x).dimension_, 6)
        2.0
    """

    def _measure(self, variances: Float[Tensor, "component"]) -> Float[Tensor, ""]:
        return participation_ratio(variances)


class EffectiveRank(SpectrumEstimator):
    """Effective rank of the centred samples (see `effective_rank`).

    Fitted attributes: `dimension_`, `variances_` (of the components, numpy float64), `n_features_in_`.

    Example:
        >>> x = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> round(EffectiveRank().fit(x).dimension_, 6)
        2.0
    """

    def _measure(self, variances: Float[Tensor, "component"]) -> Float[Tensor, ""]:
        return effective_rank(variances)


def _samples(x: Tensor | np.ndarray) -> Float[Tensor, "sample feature"]:
    samples = x if isinstance(x, Tensor) else torch.from_numpy(np.array(x))
    check_samples(samples)
    return samples
