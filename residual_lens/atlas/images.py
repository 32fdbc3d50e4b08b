"""The images of a store, opened again by what it knows of them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from residual_lens.activations import Store
from residual_lens.data.images import ImageSet, open_images
from residual_lens.errors import InputError
from residual_lens.training.runs import Resources, RunConfig
from residual_lens.training.runs.data import open_splits


def images_of(
    store: Store,
    image_size: int,
    *,
    data: str | None = None,
    root: Path | None = None,
    seed: int = 42,
    image_column: str | None = None,
    label_column: str | None = None,
) -> ImageSet:
    """The images that a store was made from, looked for as `residual-lens encode` and `train` open them.

    They are known by their fingerprint, and where they have moved by their ids and labels.

    Args:
        store: of images that can still be opened.
        image_size: side of drawn images in pixels.
        data: what the data set is called, if not as in the store; `folder:PATH` for a folder, whose place is not kept.
        root: folder that holds the data.
        seed: of splits and of what is drawn, as it was for the store.
        image_column: of a Hugging Face data set with several image columns.
        label_column: of a Hugging Face data set with several label columns.

    Raises:
        InputError: no such images, with what to give.
    """
    made = store.provenance
    config = RunConfig(
        made.model, data or made.data, "zero-shot", data_seed=seed, image_column=image_column, label_column=label_column
    )
    failures: list[str] = []
    reason = None
    for images in _candidates(config, root, image_size, made.split, made.n_samples, failures):
        reason = f"{config.data} has other images, or others with seed {seed}."
        if images.fingerprint() == made.data_fingerprint or (data is not None and _has_samples(images, store)):
            return images
    raise InputError(
        f"{store.path} was made from {made.n_samples:,} images of {made.data}/{made.split}, and these are not found: "
        f"{reason or failures[0]} Give --data with the place of a folder or of what has moved, --root, or the "
        "--data-seed and columns that the store was encoded with."
    )


def _candidates(
    config: RunConfig, root: Path | None, image_size: int, split: str, n_images: int, failures: list[str]
) -> Iterator[ImageSet]:
    """What a store may have been made from, and why the rest cannot be opened."""
    for limit in (None, n_images):
        try:
            yield open_images(
                config.data,
                split=split,
                root=root,
                seed=config.data_seed,
                limit=limit,
                image_size=image_size,
                image_column=config.image_column,
                label_column=config.label_column,
            )
        except InputError as error:
            failures.append(str(error))
    for limit in (None, n_images):
        try:
            splits = open_splits(replace(config, limit=limit), Resources(root=root), image_size)
        except InputError as error:
            failures.append(str(error))
            continue
        yield from (splits.test, splits.validation, splits.train)


def _has_samples(images: ImageSet, store: Store) -> bool:
    """Whether every sample of the store is among the images, with the same label."""
    labels = images.labels
    known = {images.sample_id(row): int(labels[row]) for row in range(len(images))}
    return all(known.get(name) == label for name, label in zip(store.sample_ids, store.labels.tolist(), strict=True))
