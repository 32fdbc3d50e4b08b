"""Exact principal components of many units at once, from a stream of batches."""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor

from residual_lens.errors import InputError
from residual_lens.spectral.moments import Moments, for_each_unit

# Rows converted to float64 at a time: few enough that a block of 144 heads stays in cache.
BLOCK_ROWS = 128


class StreamingPCA:
    """Principal components of every unit in one pass, as exact as an SVD of all the data in float64.

    Count, mean and centred scatter per unit are kept in float64 and merged exactly (see `Moments`). One `eigh` a unit
    at the end gives the spectrum. The order of batches, shards and ranks does not matter beyond rounding.

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
        if n_components is not None and n_components < 1:
            raise InputError(f"n_components must be at least 1, or None for all; got {n_components}.")
        self.n_components = n_components
        self._moments: Moments | None = None
        self._spectrum: tuple[Tensor, Tensor] | None = None

    @classmethod
    def from_moments(cls, moments: Moments, *, n_components: int | None = None) -> "StreamingPCA":
        """The PCA of data whose moments are known."""
        pca = cls(n_components=n_components)
        # A copy, because samples are added in place.
        pca._moments = Moments(moments.count, moments.mean, moments.scatter.clone())
        return pca

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
        x = x.detach()
        moments = self._moments or Moments.empty(*x.shape[1:], device=x.device)
        new_mean = x.mean(dim=0, dtype=torch.float64)
        for rows in x.split(BLOCK_ROWS):
            centred = (rows - new_mean).transpose(0, 1)
            moments.scatter.baddbmm_(centred.mT, centred)
        self._set(moments.combined(moments.scatter, len(x), new_mean))
        return self

    def merge(self, other: "StreamingPCA") -> "StreamingPCA":
        """Add the samples that another instance has seen.

        Raises:
            InputError: it saw other units or features.
        """
        if other._moments is not None:
            mean = other._moments.mean
            moments = self._moments or Moments.empty(*mean.shape, device=mean.device)
            self._set(moments.merged(other._moments))
        return self

    def merge_ranks(self) -> "StreamingPCA":
        """Add the samples of all processes (`torch.distributed`, which `accelerate` starts), on every one of them.

        Ranks are merged in their order, so that all end with the same bits. A rank may have seen nothing. A program of
        one process is left as it is. Every process must call it.

        Raises:
            InputError: the ranks saw other units or features; on every rank.
        """
        if not dist.is_initialized():
            return self
        device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
        own = self._moments or Moments.empty(0, 0)
        sizes = torch.tensor([own.count, *own.mean.shape], device=device)
        of_ranks = [torch.empty_like(sizes) for _ in range(dist.get_world_size())]
        dist.all_gather(of_ranks, sizes)
        merged = StreamingPCA()
        # One rank after the other: memory holds two sets of moments, not one for each rank.
        for rank, (count, units, features) in enumerate(size.tolist() for size in of_ranks):
            if count:
                mine = rank == dist.get_rank()
                sent = own if mine else Moments.empty(units, features)
                mean, scatter = sent.mean.to(device).contiguous(), sent.scatter.to(device).contiguous()
                dist.broadcast(mean, rank)
                dist.broadcast(scatter, rank)
                home = own.mean.device if own.count else device
                merged.merge(StreamingPCA.from_moments(Moments(count, mean.to(home), scatter.to(home))))
        if merged._moments is not None:
            self._set(merged._moments)
        return self

    def mapped(self, mixing: Float[Tensor, "unit feature rank"]) -> "StreamingPCA":
        """The PCA of linearly mapped data `x M`, from what was seen of `x`; itself it stays as it is.

        Raises:
            InputError: no samples seen, or another number of units or features.
        """
        return StreamingPCA.from_moments(self._seen().mapped(mixing), n_components=self.n_components)

    def state_dict(self) -> dict[str, Tensor]:
        """What was seen so far, as tensors: `count`, `mean` `[unit feature]`, `scatter` `[unit feature feature]`."""
        moments = self._moments or Moments.empty(0, 0)
        return {"count": torch.tensor(moments.count), "mean": moments.mean.clone(), "scatter": moments.scatter.clone()}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], *, n_components: int | None = None) -> "StreamingPCA":
        """Go on from where `state_dict` was taken.

        Raises:
            InputError: tensors missing, or of shapes, dtypes or values that no PCA has.
        """
        if set(state) != {"count", "mean", "scatter"}:
            raise InputError(f"A PCA's state has 'count', 'mean' and 'scatter', got {sorted(state)}.")
        count, mean, scatter = state["count"], state["mean"], state["scatter"]
        if count.shape != () or count.is_floating_point() or count < 0:
            raise InputError(f"'count' must be one whole number of samples, got {count.dtype} {list(count.shape)}.")
        if mean.ndim != 2 or scatter.shape != (*mean.shape, mean.shape[-1]):
            raise InputError(
                "'mean' and 'scatter' must be [unit feature] and [unit feature feature], got "
                f"{list(mean.shape)} and {list(scatter.shape)}."
            )
        if mean.dtype != torch.float64 or scatter.dtype != torch.float64:
            raise InputError(f"'mean' and 'scatter' must be float64, got {mean.dtype} and {scatter.dtype}.")
        if not (mean.isfinite().all() and scatter.isfinite().all()):
            raise InputError("'mean' or 'scatter' has values that are NaN or infinite.")
        if not count:
            return cls(n_components=n_components)
        return cls.from_moments(Moments(int(count), mean.clone(), scatter.clone()), n_components=n_components)

    @property
    def n_samples_seen_(self) -> int:
        """Samples taken in so far."""
        return 0 if self._moments is None else self._moments.count

    @property
    def mean_(self) -> Float[Tensor, "unit feature"]:
        """Mean of every unit."""
        return self._seen().mean

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

    def _set(self, moments: Moments) -> None:
        self._moments, self._spectrum = moments, None

    def _seen(self) -> Moments:
        if self._moments is None:
            raise InputError("This PCA has seen no samples: call partial_fit first.")
        return self._moments

    def _eigen(self) -> tuple[Float[Tensor, "unit feature"], Float[Tensor, "unit feature feature"]]:
        if self.n_samples_seen_ < 2 or self._moments is None:
            raise InputError(f"A spectrum needs at least 2 samples, this PCA has seen {self.n_samples_seen_}.")
        if self._spectrum is None:
            varies = self._moments.varies()
            variances, vectors = _eigh(self._moments.scatter / (self.n_samples_seen_ - 1))
            components = vectors.mT.flip(1)
            largest = components.gather(-1, components.abs().argmax(dim=-1, keepdim=True))
            # A spread below the rounding of its own mean is no spread: a constant unit has none, to the last digit.
            variances = torch.where(varies[:, None], variances.flip(1).clamp_min(0.0), 0.0)
            self._spectrum = variances, components * largest.sign()
        return self._spectrum

    def _check(self, x: Tensor) -> None:
        if not isinstance(x, Tensor) or x.ndim != 3 or not x.is_floating_point():
            got = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"Expected a float tensor [sample unit feature], got {got}.")
        if x.shape[0] == 0:
            raise InputError("Expected at least one sample, got none.")
        if self._moments is not None and x.shape[1:] != self._moments.mean.shape:
            units, features = self._moments.mean.shape
            raise InputError(f"Earlier batches were [sample, {units}, {features}], got {list(x.shape)}.")
        if not x.isfinite().all():
            raise InputError("Some values are NaN or infinite: find the samples they come from before fitting.")


def _eigh(
    covariance: Float[Tensor, "unit feature feature"],
) -> tuple[Float[Tensor, "unit feature"], Float[Tensor, "unit feature feature"]]:
    if covariance.device.type != "cpu":
        return torch.linalg.eigh(covariance)
    found = for_each_unit(len(covariance), lambda unit: torch.linalg.eigh(covariance[unit]))
    return torch.stack([values for values, _ in found]), torch.stack([vectors for _, vectors in found])
