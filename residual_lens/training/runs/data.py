"""The three splits of a run's data, published or split by us, checked before anything runs."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from residual_lens.data.images import ImageSet, carve_validation, open_images, split_three_ways, stratified_subset
from residual_lens.data.images.folders import SPLIT_FOLDERS
from residual_lens.data.images.hugging_face import MissingSplitError
from residual_lens.data.images.image_set import SPLITS, Split
from residual_lens.data.images.opening import FOLDER_PREFIX, HUGGING_FACE_PREFIX
from residual_lens.errors import InputError
from residual_lens.text.sources import named
from residual_lens.training.runs.config import Resources, RunConfig

VALIDATION_SHARE = 0.1
"""Of the training images, where nothing was published to validate on; as in the paper for most of its data sets."""


@dataclass(frozen=True, eq=False)
class Splits:
    """Train, validation and test of one data set."""

    train: ImageSet
    validation: ImageSet
    test: ImageSet

    @property
    def classes(self) -> tuple[str, ...]:
        """Words of the classes, which the splits share."""
        return self.train.classes


def open_splits(config: RunConfig, resources: Resources, image_size: int) -> Splits:
    """The splits of a run, at most `config.limit` samples each, with every class in proportion.

    Published splits are taken as they are. A folder or a Hugging Face repository may lack some. With `train` alone:
    80 % train, 10 % validation, 10 % test of it. Without `validation`: a tenth of `train`. Without `test`: the
    published validation is the test, as for ImageNet, and a tenth of `train` validates.

    Args:
        config: of the run.
        resources: where data are.
        image_size: side of drawn images in pixels.

    Raises:
        InputError: data that are not there, unlabelled images, classes that differ between splits, or classes without
            training images.
    """
    published = _published(config, resources, image_size)
    for images in published.values():
        _check_labels(images)
    parts = {}
    for split, images in _three(published, config.data_seed).items():
        if config.limit is None or len(images) <= config.limit:
            parts[split] = images
        elif any(images is one for one in published.values()):
            # As everyone else opens it: of drawn data, fewer are drawn.
            parts[split] = _opened(config, resources, image_size, images.split, config.limit)
        else:
            rows = stratified_subset(images.labels, config.limit, config.data_seed)
            parts[split] = images.subset(rows, limit=config.limit, subset_seed=config.data_seed)
    splits = Splits(**parts)
    _check_classes(splits)
    return splits


def few_shot_rows(images: ImageSet, shots: int, seed: int) -> Int[np.ndarray, "chosen"]:
    """Places of `shots` samples of each class, ascending; drawn without replacement.

    Args:
        images: with a label each.
        shots: how many of each class.
        seed: decides which.

    Raises:
        InputError: classes with fewer samples; the message names them.
    """
    labels = images.labels
    counts = np.bincount(labels, minlength=len(images.classes))
    few = [f"{images.classes[label]} ({counts[label]})" for label in np.flatnonzero(counts < shots)]
    if few:
        raise InputError(
            f"shots={shots} needs as many training images of each class; {images.name} has fewer of {named(few)}."
        )
    generator = np.random.default_rng(seed)
    chosen = [generator.choice(np.flatnonzero(labels == label), shots, replace=False) for label in range(len(counts))]
    return np.sort(np.concatenate(chosen))


def _published(config: RunConfig, resources: Resources, image_size: int) -> dict[Split, ImageSet]:
    """The splits that there are."""
    found: dict[Split, ImageSet] = {}
    for split in SPLITS:
        if config.data.startswith(FOLDER_PREFIX) and not _has_folder(config.data, split):
            continue
        try:
            found[split] = _opened(config, resources, image_size, split, None)
        except MissingSplitError:
            # Of a repository, that a split does not exist is known only once it is asked for.
            if not (found and config.data.startswith(HUGGING_FACE_PREFIX)):
                raise
    return found


def _has_folder(data: str, split: Split) -> bool:
    """Whether a folder has a split of its own; "train" is also what a folder without splits is."""
    path = Path(data.removeprefix(FOLDER_PREFIX)).expanduser()
    return split == "train" or any((path / name).is_dir() for name in SPLIT_FOLDERS[split])


def _opened(config: RunConfig, resources: Resources, image_size: int, split: Split, limit: int | None) -> ImageSet:
    return open_images(
        config.data,
        split=split,
        root=resources.root,
        download=resources.download,
        seed=config.data_seed,
        limit=limit,
        image_size=image_size,
        image_column=config.image_column,
        label_column=config.label_column,
    )


def _three(published: dict[Split, ImageSet], seed: int) -> dict[Split, ImageSet]:
    """Three splits of what there is."""
    train = published["train"]
    if len(published) == 1:
        rows = split_three_ways(train.labels, seed)
        return {split: _part(train, getattr(rows, split), split, seed) for split in SPLITS}
    if "test" in published and "validation" in published:
        return published
    kept, validation = carve_validation(train.labels, VALIDATION_SHARE, seed)
    return {
        "train": _part(train, kept, "train", seed),
        "validation": _part(train, validation, "validation", seed),
        "test": published.get("test", published.get("validation", train)),
    }


def _part(images: ImageSet, rows: Int[np.ndarray, "chosen"], split: Split, seed: int) -> ImageSet:
    return images.subset(rows, part=split, part_seed=seed)


def _check_labels(images: ImageSet) -> None:
    labels = images.labels
    if len(labels) == 0:
        raise InputError(f"{_called(images)} is empty: it has no images to train or test on.")
    if len(images.classes) < 2 or (labels < 0).any():
        raise InputError(
            f"{_called(images)} has {int((labels < 0).sum())} of {len(labels)} images without a label, "
            f"{len(images.classes)} classes: training needs labelled images of at least two classes."
        )


def _check_classes(splits: Splits) -> None:
    train, classes = splits.train, splits.classes
    for images in (splits.validation, splits.test):
        if images.classes != classes:
            raise InputError(
                f"{_called(images)} has the classes {named(images.classes)}, the training split {named(classes)}: give "
                "all splits the same."
            )
    missing = [classes[label] for label in sorted(set(range(len(classes))) - set(train.labels.tolist()))]
    if missing:
        raise InputError(
            f"{_called(train)} has no images of {len(missing)} of {len(classes)} classes: {named(missing)}. Add "
            "images, or raise the limit."
        )


def _called(images: ImageSet) -> str:
    return f"{images.name}/{images.split}"
