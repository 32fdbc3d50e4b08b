"""The activation stores of runs: made by whoever needs one first, shared by all others."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

from residual_lens.activations import Store, encode
from residual_lens.activations.writer import alone_with
from residual_lens.bases import Bases, fit_bases
from residual_lens.bases.basis import Basis
from residual_lens.data.images import ImageSet
from residual_lens.data.images.opening import FOLDER_PREFIX, HUGGING_FACE_PREFIX
from residual_lens.errors import InputError, MismatchError
from residual_lens.files import made_while_needed
from residual_lens.hooked import HookedViT
from residual_lens.training.methods import embedding_basis
from residual_lens.training.runs.config import Resources, RunConfig, file_name

OWN = "own"
"""Bases of the run's own training split."""
HDF5 = b"\x89HDF\r\n\x1a\n"
"""What a store begins with; in a file of bases their description stands before it."""


def store_path(config: RunConfig, resources: Resources, images: ImageSet, split: str) -> Path:
    """Where the store of a split lies, called as the studies call it: model, data, split, limit and seed.

    Data that are called by their place have some digits of their fingerprint in the name, since two folders may bear
    one name.
    """
    digits = f"-{images.fingerprint()[:8]}" if images.name.startswith((FOLDER_PREFIX, HUGGING_FACE_PREFIX)) else ""
    name = f"{file_name(config.model, images.name)}{digits}--{split}-{config.limit or 'all'}-{config.data_seed}.h5"
    return resources.stores / name


def open_store(
    config: RunConfig, resources: Resources, hvit: HookedViT, images: ImageSet, split: str, *, progress: bool = False
) -> Store:
    """The store of a split, encoded as far as it is not there.

    Where several processes want the same one, one of them encodes and the others wait for it.

    Args:
        config: of the run.
        resources: where stores lie.
        hvit: the model.
        images: the split.
        split: what it is called.
        progress: show a progress bar.

    Raises:
        MismatchError, StoreError, CorruptImageError: see `encode`.
    """
    path = store_path(config, resources, images, split)
    # Not the writer's own lock, at which it does not wait.
    with made_while_needed(path.parent), alone_with(path.with_name(f"{path.name}.turn"), wait=True):
        store = encode(
            hvit,
            images,
            path,
            batch_size=resources.encode_batch_size,
            workers=resources.workers,
            progress=progress,
        )
    # None is for shards of several processes.
    return cast(Store, store)


def require_bases(config: RunConfig) -> None:
    """Refuse bases that are not there, before any work.

    Raises:
        InputError: `config.bases` is the path of no file.
    """
    if config.bases != OWN and not Path(config.bases).is_file():
        raise InputError(f"There are no bases {config.bases!r}: give own, a store, or a file that Bases.save wrote.")


def bases_of(
    config: RunConfig, hvit: HookedViT, needs: str, store: Callable[[str], Store], *, progress: bool = False
) -> Bases | Basis:
    """The bases that a method needs (see `RunConfig.bases`).

    Args:
        config: of the run.
        hvit: the model.
        needs: "units", or "embedding" for the basis of whole embeddings.
        store: gives the run's own store of a split.
        progress: show a progress bar.

    Raises:
        InputError: no such file, a file that is neither, or bases of units where that of embeddings is needed.
        MismatchError: made with another model.
    """
    if config.bases == OWN:
        return _fitted(config, store("train"), needs, progress=progress)
    require_bases(config)
    path = Path(config.bases)
    with path.open("rb") as file:
        is_store = file.read(len(HDF5)) == HDF5
    if is_store:
        with Store(path) as other:
            other.require_model(hvit)
            return _fitted(config, other, needs, progress=progress)
    bases = Bases.load(path)
    if needs == "embedding":
        raise InputError(f"{path} holds bases of units, {config.method} needs that of whole embeddings: give a store.")
    if bases.fingerprint != hvit.fingerprint():
        raise MismatchError(
            f"The bases in {path} were fitted on {bases.model_name} with other weights than this {config.model} has: "
            "fit bases on this model."
        )
    return bases


def _fitted(config: RunConfig, store: Store, needs: str, *, progress: bool) -> Bases | Basis:
    if needs == "embedding":
        return embedding_basis(store)
    return fit_bases(store, units=config.units or ("heads", "mlps"), progress=progress)
