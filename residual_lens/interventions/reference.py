"""What units gave for reference images, or for the samples of a store: means, samples, the final norm's scale."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from residual_lens.activations import Store
from residual_lens.errors import InputError, MismatchError
from residual_lens.hooked import HookedViT
from residual_lens.hooked.checks import Images, check_images
from residual_lens.hooked.root import Hook
from residual_lens.interventions.adapter import Path
from residual_lens.units import Unit

ReferenceImages = Images | Iterable[Images]
"""A tensor of images `[batch 3 height width]`, or an iterable of such batches."""

Reference = Store | ReferenceImages
"""A store of the model, or images."""

BATCH_SIZE = 64
"""Images in a forward pass, where one tensor is given."""


def mean_contributions(store: Store, units: str | Iterable[str] = "all") -> Float[Tensor, "unit d_out"]:
    """Mean direct contribution of units over the samples of a store, in one streaming pass.

    Args:
        store: of any model; its samples are not held in memory.
        units: which units (`Units.select`).

    Returns:
        In float64, in the scale of the embedding, the units in the order of the model.

    Raises:
        InputError: no or unknown units, or an empty store.
        StoreError: what is read is damaged.
    """
    chosen = store.units.select(units)
    if not chosen or not len(store):
        raise InputError(f"Means need units and samples, got {len(chosen)} units and {len(store)} samples.")
    means: list[Tensor] = []
    # Heads of a layer are read together, and of no more than a layer is a block held.
    for _, group in groupby(chosen, key=lambda unit: unit.layer):
        names = [unit.name for unit in group]
        blocks = (store.decompose(places, names).values for places in store.blocks())
        means.append(cast(Tensor, sum(values.sum(dim=0, dtype=torch.float64) for values in blocks)) / len(store))
    return torch.cat(means)


@torch.no_grad()
def means_of(
    hvit: HookedViT, units: Sequence[Unit], reference: Reference, path: Path, *, by_position: bool
) -> dict[str, Float[Tensor, "*pos d"]]:
    """Mean of what units give at their hook point of a path, by name: of heads in the stream, `z`.

    Taken in float64, given in the model's dtype (on the direct path, that of contributions).

    Args:
        hvit: the model, without hooks in force.
        units: which.
        reference: what to average over.
        path: whose hook points.
        by_position: on the stream path, a mean for each token position instead of one over all of them.

    Raises:
        InputError: no samples, images of several sizes, or a store that does not hold what is asked for.
        MismatchError: a store of another model, or hooks in force.
    """
    dtype = hvit.dtype if path == "stream" else hvit.wide_dtype
    if isinstance(reference, Store):
        reference.require_model(hvit)
        means = _means_of_store(reference, units, path, by_position)
    else:
        means = _means_of_images(hvit, units, reference, path, by_position)
    for name, mean in means.items():
        if not bool(mean.isfinite().all()):
            raise InputError(f"The mean of {name} over the reference is not finite: look at the model's weights.")
    return {name: mean.to(device=hvit.device, dtype=dtype) for name, mean in means.items()}


@torch.no_grad()
def samples_of(
    hvit: HookedViT, units: Sequence[Unit], images: ReferenceImages, path: Path
) -> dict[str, Float[Tensor, "sample *pos d"]]:
    """What units give for each reference image at their hook point of a path, by name: of heads in the stream, `z`.

    Raises:
        InputError: no images, or images of several sizes.
        MismatchError: hooks in force.
    """
    batches = list(_recorded(hvit, units, images, path, same_size=path == "stream"))
    return {unit.name: torch.cat([batch[unit.name] for batch in batches]) for unit in units}


@torch.no_grad()
def typical_scale(hvit: HookedViT, reference: Reference) -> float:
    """Harmonic mean of the final norm's σ: what turns contributions into stream terms (see `Bases.scale`).

    Raises:
        InputError: no samples.
        MismatchError: a store of another model, or hooks in force.
    """
    if isinstance(reference, Store):
        reference.require_model(hvit)
        if not len(reference):
            raise InputError(f"{reference!r} holds no samples.")
        return float(1 / reference.inverse_scales().double().mean())
    # One route's weights sum to the pooled 1/σ; attention pooling has several, each a pattern over the tokens.
    inverse = [
        hvit.extract(batch).readout.weights.sum(dim=-1).mean(dim=1).double() for batch in _batches(hvit, reference)
    ]
    return float(1 / torch.cat(inverse).mean())


def _means_of_images(
    hvit: HookedViT, units: Sequence[Unit], images: ReferenceImages, path: Path, by_position: bool
) -> dict[str, Float[Tensor, "*pos d"]]:
    totals: dict[str, Tensor] = {}
    counts = dict.fromkeys((unit.name for unit in units), 0)
    for batch in _recorded(hvit, units, images, path, same_size=by_position and path == "stream"):
        for name, values in batch.items():
            samples = values if by_position else values.flatten(0, -2)
            total = samples.sum(dim=0, dtype=torch.float64)
            totals[name] = totals[name] + total if name in totals else total
            counts[name] += len(samples)
    return {name: total / counts[name] for name, total in totals.items()}


def _means_of_store(
    store: Store, units: Sequence[Unit], path: Path, by_position: bool
) -> dict[str, Float[Tensor, "d"]]:
    names = [unit.name for unit in units]
    if path == "direct":
        return dict(zip(names, mean_contributions(store, names), strict=True))
    if by_position:
        raise InputError(
            f"{store!r} holds what units gave where the embedding reads it, and no token positions: give reference "
            "images, or by_position=False to write the mean of what is stored at every token."
        )
    if store.layout.n_routes > 1:
        raise InputError(
            f"{store!r} is of a model with attention pooling, and holds contributions but nothing of the stream: give "
            "reference images, or use path='direct'."
        )
    if not len(store):
        raise InputError(f"{store!r} holds no samples.")
    blocks = list(store.blocks())
    return {
        name: cast(Tensor, sum(store.values(name, at).sum(dim=0, dtype=torch.float64) for at in blocks)) / len(store)
        for name in names
    }


def _recorded(
    hvit: HookedViT, units: Sequence[Unit], images: ReferenceImages, path: Path, *, same_size: bool
) -> Iterator[dict[str, Float[Tensor, "batch *pos d"]]]:
    """What units gave, batch by batch."""
    seen: dict[str, Tensor] = {}

    def reading(unit: Unit) -> Hook:
        def read(values: Tensor, hook: object) -> None:
            # A copy: a view of one head would keep all of them in memory.
            seen[unit.name] = unit.read(values).clone()

        return (unit.direct_hook_name if path == "direct" else cast(str, unit.hook_name)), read

    hooks = [reading(unit) for unit in units]
    for batch in _batches(hvit, images, same_size=same_size):
        with hvit.hooks(hooks):
            hvit(batch)
        yield dict(seen)


def _batches(
    hvit: HookedViT, images: ReferenceImages, *, same_size: bool = False
) -> Iterator[Float[Tensor, "_ 3 height width"]]:
    """Reference images in batches, to be run by a model that nothing edits."""
    if hvit.hooked_points():
        raise MismatchError(
            f"Hooks are in force at {', '.join(hvit.hooked_points())}, and reference images would run into them. Make "
            "edits outside of other contexts and enter them afterwards: first, second = ablate(…), ablate(…); "
            "with first, second: …"
        )
    if not isinstance(images, Iterable):
        raise InputError(f"reference= takes images, batches of them or a store, got {type(images).__name__}.")
    if isinstance(images, Tensor):
        check_images(images, hvit.cfg, hvit.dtype, hvit.device)
    size = None
    for batch in images.split(BATCH_SIZE) if isinstance(images, Tensor) else images:
        check_images(batch, hvit.cfg, hvit.dtype, hvit.device)
        size = size or batch.shape[2:]
        if same_size and batch.shape[2:] != size:
            raise InputError(
                f"Reference images of {list(size)} and of {list(batch.shape[2:])} pixels have other token positions: "
                "give images of one size, or by_position=False for one mean over all tokens."
            )
        yield batch
    if size is None:
        raise InputError("There are no reference images: give a tensor or an iterable of batches, not a used iterator.")
