"""Principal bases of units' direct contributions, from a model and images or from a store."""

from collections.abc import Iterable
from typing import overload

import torch

from residual_lens.activations import Rows, Store
from residual_lens.bases.basis import Bases
from residual_lens.bases.of_images import Images, bases_of_images
from residual_lens.bases.of_stores import bases_of_store
from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT


@overload
def fit_bases(
    source: HookedViT,
    images: Images,
    *,
    units: str | Iterable[str] = ...,
    batch_size: int = ...,
    progress: bool = ...,
) -> Bases: ...


@overload
def fit_bases(source: Store, *, units: str | Iterable[str] = ..., rows: Rows = ..., progress: bool = ...) -> Bases: ...


@torch.no_grad()
def fit_bases(
    source: HookedViT | Store,
    images: Images | None = None,
    *,
    units: str | Iterable[str] = ("heads", "mlps"),
    rows: Rows = None,
    batch_size: int = 256,
    progress: bool = False,
) -> Bases:
    """Principal bases of units' direct contributions, exact, in one streaming pass.

    Heads are fitted in their low-rank coordinates (`HeadFrames`): the same components and variances as those of their
    `d_out`-dimensional contributions. (In half precision without the share of rounding that `decompose` counts to
    heads, which lies in no such coordinates.) Memory does not grow with the number of samples.

    Args:
        source: a model that runs over images, or the store of such a run.
        images: for a model: one tensor, or an iterable of batches for data that does not fit in memory; normalised.
        units: which units (`Units.select`); `bias`, which no unit writes, is left out of "all" and refused by name.
        rows: of a store: which samples, in any order; all by default.
        batch_size: for a model: images per forward pass where one tensor is given.
        progress: show a progress bar.

    Returns:
        In float32, on the model's device or, of a store, on the CPU. A head has `d_head + 1` components ("own"),
        another unit `d_out`.

    Raises:
        InputError: no or unknown units, fewer than two samples, no such rows, images that the model refuses, a model
            without images, or a store with them.
        MismatchError: hooks in force that bases would not show (direct points) or that no unit owns (see `decompose`).
        StoreError: what is read of a store is damaged.

    Example:
        >>> hvit = HookedViT.from_pretrained("attribute-clip")
        >>> images = torch.rand(64, 3, *hvit.cfg.image_size, generator=torch.Generator().manual_seed(0))
        >>> fit_bases(hvit, hvit.normalize(images), units="heads")
        Bases(36 units L0H0 … L5H5 of attribute-clip, center='own', 64 samples)
        >>> with Store("digits.h5") as store:  # doctest: +SKIP
        ...     bases = fit_bases(store, rows=slice(0, 1000))
    """
    if isinstance(source, Store):
        if images is not None:
            raise InputError("A store holds what a model made of its images: give no others, or give the model.")
        return bases_of_store(source, units, rows, progress=progress)
    if rows is not None:
        raise InputError("Rows choose samples of a store: of a model's images give those that are wanted.")
    if images is None:
        raise InputError("A model needs images to fit bases on: give a tensor or batches of them, or a store instead.")
    return bases_of_images(source, images, units, batch_size=batch_size, progress=progress)
