"""Principal components of all heads from a store, beside an SVD and scikit-learn on each head's contributions.

The other ways are given contributions `[sample d_out]` of one head after the other; rebuilding those from the store,
which a user would have to wait for as well, is left out of their time. They are timed on a few heads and multiplied.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from sklearn.decomposition import PCA, IncrementalPCA
from torch import Tensor

from residual_lens import fit_bases
from residual_lens.bases import Bases
from scripts.benchmark.made_up import store
from scripts.benchmark.rows import Cases, Sides, Timed
from scripts.benchmark.sizes import Sizes

Variances = Callable[[Float[Tensor, "sample d_out"]], np.ndarray]


def svd(x: Float[Tensor, "sample d_out"]) -> Float[np.ndarray, "component"]:
    """Variances, in the precision of what comes."""
    return (torch.linalg.svd(x - x.mean(dim=0), full_matrices=False).S.square() / (len(x) - 1)).numpy()


def scikit_pca(x: Float[Tensor, "sample d_out"]) -> Float[np.ndarray, "component"]:
    """With the solver that it chooses: eigenvectors of the covariance, where samples are many."""
    return PCA().fit(x.numpy()).explained_variance_


def scikit_incremental(x: Float[Tensor, "sample d_out"]) -> Float[np.ndarray, "component"]:
    """In batches of 1,024, what a user takes for data that do not fit in memory."""
    return IncrementalPCA(n_components=min(65, *x.shape), batch_size=1024).fit(x.numpy()).explained_variance_


def case(place: int, variances: Variances, the_other_way: str) -> Callable[[Sizes], Sides]:
    """All heads of a store against some, multiplied."""

    def sides(sizes: Sizes) -> Sides:
        model = sizes.stores[place]
        read = store(sizes.folder, model, sizes.samples)
        heads = [head.name for head in read.heads()]
        few = heads[:: len(heads) // sizes.twin_heads][: sizes.twin_heads]

        def other() -> Timed:
            seconds = 0.0
            for head in few:
                x = read.decompose(units=head).values[:, 0]
                started = time.perf_counter()
                variances(x)
                seconds += time.perf_counter() - started
            return Timed(None, seconds / len(few) * len(heads))

        def difference(bases: Bases, _: None) -> float:
            gaps = []
            for head in few:
                exact = torch.from_numpy(svd(read.decompose(units=head, dtype=torch.float64).values[:, 0]))
                ours = bases[head].variances.double()
                gaps.append(float((ours - exact[: len(ours)]).abs().max() / exact[0]))
            return max(gaps)

        return Sides(
            f"all {len(heads)} heads of a {model}, `fit_bases`",
            lambda: fit_bases(read, units="heads"),
            other,
            f"{the_other_way} (timed on {len(few)})",
            difference,
        )

    return sides


def section(sizes: Sizes) -> str:
    """What the rows share."""
    return f"PCA of all heads, read from a store of {sizes.samples:,} samples; the difference is from an SVD in float64"


CASES: Cases = {
    "pca-svd": case(0, svd, "`torch.linalg.svd` of each head in float32"),
    "pca-sklearn": case(0, scikit_pca, "`sklearn.decomposition.PCA` of each head"),
    "pca-incremental": case(0, scikit_incremental, "`sklearn.decomposition.IncrementalPCA` of each head"),
    "pca-large-svd": case(1, svd, "`torch.linalg.svd` of each head in float32"),
    "pca-large-sklearn": case(1, scikit_pca, "`sklearn.decomposition.PCA` of each head"),
}
