"""Exact principal components of many units at once, from a stream of batches."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from residual_lens.errors import InputError

# Rows converted to float64 at a time: few enough that a block of 144 heads stays in cache.
BLOCK_ROWS = 128
# Relative to the mean, about 16 roundings of float64: what summing equal numbers leaves behind.
CONSTANT_SPREAD = 4e-15


class StreamingPCA:
    """Principal components of every unit in one pass, as exact as an SVD of all the data in float64.

    Count, mean and centred scatter per unit are kept in float64 and merged exactly (Chan, Golub & LeVeque 1983):
    `S = S_a + S_b + (μ_b − μ_a)(μ_b − μ_a)ᵀ n_a n_b / n`. One batched `eigh` at the end gives the spectrum. The
    order of batches, shards and ranks does not matter beyond rounding.

    Fitted attributes, all float64 on the data's device:
        `n_samples_seen_`, `mean_` `[unit feature]`, `components_` `[unit component feature]` (orthonormal rows, largest
        variance first, each row's largest entry positive), `explained_variance_` `[unit component]` (over `n − 1`),
        `explained_variance_ratio_` `[unit component]` (of the total variance; 0 for a unit that does not vary),
        `total_variance_` `[unit]`.

    Example:
        >>> x = torch.randn(500, 3, 4, generator=torch.Generator().manual_seed(0))
        >>> pca = StreamingPCA().partial_fit(x[:200]).partial_fit(x[200:])
        >>> pca.components_.shape, pca.n_samples_seen_
        (torch.Size([3, 4, 4]), 500)
        >>> halves = StreamingPCA().partial_fit(x[:200]).merge(StreamingPCA().partial_fit(x[200:]))
        >>> torch.allclose(halves.explained_variance_, pca.explained_variance_)
        True
    """

    def __init__(self, *, n_components: int | None = None) -> None:
        """Store the options.

        Args:
            n_components: how many components the fitted attributes hold; all by default.
        """
        self.n_components = n_components
        self.n_samples_seen_ = 0
        self._moments: tuple[Tensor, Tensor] | None = None
        self._spectrum: tuple[Tensor, Tensor] | None = None

    def partial_fit(self, x: Shaped[Tensor, "..."]) -> "StreamingPCA":
        """Add samples.

        Args:
            x: `[sample unit feature]`, floating, need not be centred.

        Returns:
            Itself.

        Raises:
            InputError: another shape than before, no samples, not floating, or values that are not finite; nothing of
                the batch is taken in then.
        """
        self._check(x)
        _, units, features = x.shape
        mean, scatter = self._moments or (
            x.new_zeros(units, features, dtype=torch.float64),
            x.new_zeros(units, features, features, dtype=torch.float64),
        )
        new_mean = x.detach().mean(dim=0, dtype=torch.float64)
        for rows in x.detach().split(BLOCK_ROWS):
            centred = (rows - new_mean).transpose(0, 1)
            scatter.baddbmm_(centred.mT, centred)
        self._combine(mean, scatter, len(x), new_mean)
        return self

    def merge(self, other: "StreamingPCA") -> "StreamingPCA":
        """Add the samples that another instance has seen.

        Raises:
            InputError: it saw other units or features.
        """
        if other._moments is None:
            return self
        other_mean, other_scatter = other._moments
        mean, scatter = self._moments or (torch.zeros_like(other_mean), torch.zeros_like(other_scatter))
        if mean.shape != other_mean.shape:
            raise InputError(
                f"Cannot merge: this PCA is over [unit feature] {list(mean.shape)}, the other over "
                f"{list(other_mean.shape)}."
            )
        self._combine(
            mean, scatter + other_scatter.to(scatter.device), other.n_samples_seen_, other_mean.to(mean.device)
        )
        return self

    @property
    def mean_(self) -> Float[Tensor, "unit feature"]:
        """Mean of every unit."""
        if self._moments is None:
            raise InputError("This PCA has seen no samples: call partial_fit first.")
        return self._moments[0]

    @property
    def components_(self) -> Float[Tensor, "unit component feature"]:
        """Principal directions as orthonormal rows, largest variance first."""
        return self._eigen()[1][:, : self.n_components]

    @property
    def explained_variance_(self) -> Float[Tensor, "unit component"]:
        """Variance along each component (over `n − 1`)."""
        return self._eigen()[0][:, : self.n_components]

    @property
    def explained_variance_ratio_(self) -> Float[Tensor, "unit component"]:
        """Share of the total variance along each component; 0 for a unit that does not vary."""
        total = self.total_variance_[:, None]
        return torch.where(total > 0, self.explained_variance_ / total.where(total > 0, 1.0), 0.0)

    @property
    def total_variance_(self) -> Float[Tensor, "unit"]:
        """Sum of the variances along all components, those beyond `n_components` included."""
        return self._eigen()[0].sum(dim=-1)

    def _combine(
        self,
        mean: Float[Tensor, "unit feature"],
        scatters: Float[Tensor, "unit feature feature"],
        count: int,
        new_mean: Float[Tensor, "unit feature"],
    ) -> None:
        """Take in `count` samples around `new_mean`; `scatters` is the sum of the old scatter and theirs, each about
        its own mean.
        """
        total = self.n_samples_seen_ + count
        delta = new_mean - mean
        scatters.baddbmm_(delta[:, :, None], delta[:, None, :], alpha=self.n_samples_seen_ * count / total)
        self._moments = mean + delta * (count / total), scatters
        self.n_samples_seen_ = total
        self._spectrum = None

    def _eigen(self) -> tuple[Float[Tensor, "unit feature"], Float[Tensor, "unit feature feature"]]:
        if self.n_samples_seen_ < 2 or self._moments is None:
            raise InputError(f"A spectrum needs at least 2 samples, this PCA has seen {self.n_samples_seen_}.")
        if self._spectrum is None:
            variances, vectors = torch.linalg.eigh(self._moments[1] / (self.n_samples_seen_ - 1))
            components = vectors.mT.flip(1)
            largest = components.gather(-1, components.abs().argmax(dim=-1, keepdim=True))
            # A spread below the rounding of its own mean is no spread: a constant unit has none, to the last digit.
            floor = (CONSTANT_SPREAD * self._moments[0]).square().sum(dim=-1)
            varies = variances.sum(dim=-1) > floor
            variances = torch.where(varies[:, None], variances.flip(1).clamp_min(0.0), 0.0)
            self._spectrum = variances, components * largest.sign()
        return self._spectrum

    def _check(self, x: Tensor) -> None:
        if not isinstance(x, Tensor) or x.ndim != 3 or not x.is_floating_point():
            got = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"Expected a float tensor [sample unit feature], got {got}.")
        if x.shape[0] == 0:
            raise InputError("Expected at least one sample, got none.")
        if self._moments is not None and x.shape[1:] != self._moments[0].shape:
            units, features = self._moments[0].shape
            raise InputError(f"Earlier batches were [sample, {units}, {features}], got {list(x.shape)}.")
        if not x.isfinite().all():
            raise InputError("Some values are NaN or infinite: find the samples they come from before fitting.")
