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
    `d_out`-dimensional contributions. Memory does not grow with the number of samples.

    Args:
        source: a model that runs over images, or the store of such a run.
        images: for a model: one tensor, or an iterable of batches for data that does not fit in memory; normalised.
        units: which units (`Units.select`); `bias`, which no unit writes, is left out of "all" and refused by name.
        rows: of a store: which samples; all by default.
        batch_size: for a model: images per forward pass where one tensor is given.
        progress: show a progress bar.

    Returns:
        In float32 on the model's device. A head has `d_head + 1` components ("own"), another unit `d_out`.

    Raises:
        InputError: no or unknown units, fewer than two samples, images that the model refuses, or images with a store.
        MismatchError: hooks in force that bases would not show (direct points) or that no unit owns (see `decompose`).
        StoreError: what is read of a store is damaged.
    """
    if isinstance(source, Store):
        if images is not None:
            raise InputError("A store holds what a model made of its images: give no others, or give the model.")
        return bases_of_store(source, units, rows, progress=progress)
    if images is None or rows is not None:
        raise InputError("A model needs images to fit bases on, and rows choose samples of a store.")
    return bases_of_images(source, images, units, batch_size=batch_size, progress=progress)
