"""Data sets of the Hugging Face hub by id, and what the `datasets` library saved to a folder."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast, final

import numpy as np
from jaxtyping import Int
from PIL import Image

from residual_lens.data.images.class_words import as_words
from residual_lens.data.images.decoding import CorruptImageError, decode_image, read_image
from residual_lens.data.images.image_set import UNLABELLED, ImageSet, ImageSource, Split
from residual_lens.data.images.paper_splits import THREE_WAY, split_three_ways
from residual_lens.data.images.sources import numbered
from residual_lens.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset


MOST_CLASSES = 1_000_000
"""Integers beyond are taken for ids, not for classes."""


class MissingSplitError(InputError):
    """A repository does not have a split."""


class Repository(NamedTuple):
    """Where a data set lies on the hub."""

    path: str
    config: str | None = None
    revision: str | None = None


HUGGING_FACE: dict[str, Repository] = {
    "resisc45": Repository("timm/resisc45"),
    # Published as a script, which `datasets` 4 does not run any more: the hub's own conversion is read.
    "imagenet-sketch": Repository("songweig/imagenet_sketch", revision="refs/convert/parquet"),
    "pacs": Repository("flwrlabs/pacs"),
}
"""Short names, and the repositories that the paper's code loads for them."""

SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test",),
}
"""What repositories call the splits."""


def open_hugging_face(
    name: str,
    split: Split,
    *,
    root: Path | None,
    download: bool,
    seed: int,
    image_column: str | None,
    label_column: str | None,
) -> ImageSet:
    """One split of a data set that the `datasets` library reads.

    The image column is the only one of type `Image`, the label column the only `ClassLabel`; without one, images are
    unlabelled. Splits are the repository's; PACS and ImageNet-Sketch, which have only one, are split 80/10/10.

    Args:
        name: a key of `HUGGING_FACE`, a repository (`ORG/REPO` or `ORG/REPO@CONFIG`), or a folder that `save_to_disk`
            wrote.
        split: which split. A folder with a single `Dataset` is all "train".
        root: cache folder of `datasets`; its own by default.
        download: fetch the data if they are not in the cache.
        seed: of the 80/10/10 split.
        image_column: which column holds the images, where there are several.
        label_column: which column holds the labels, where there are several; integers will do as well.

    Raises:
        MissingSplitError: the split does not exist.
        InputError: the data are not there or cannot be fetched, or the columns are not clear.
    """
    on_disk = Path(name).expanduser()
    if name not in HUGGING_FACE and on_disk.is_dir():
        loaded, called = _from_disk(on_disk), f"hf:{on_disk.absolute().name}"
    else:
        path, _, config = name.partition("@")
        repository = HUGGING_FACE.get(name, Repository(path, config or None))
        loaded, called = _from_hub(repository, root, download), name if name in HUGGING_FACE else f"hf:{name}"
    part = "train" if name in THREE_WAY else _part_called(split, tuple(loaded), called)
    chosen = loaded[part].with_format(None)
    images = _image_set(chosen, part, called, split, image_column, label_column)
    if name in THREE_WAY:
        return images.subset(getattr(split_three_ways(images.labels, seed), split))
    return images


@final
class HuggingFaceSource(ImageSource):
    """The image column of a `datasets.Dataset`, decoded here so that damaged images are reported like any other."""

    def __init__(self, rows: "Dataset", column: str, part: str, called: str) -> None:
        from datasets import Image as ImageFeature

        self._rows = rows.select_columns([column]).cast_column(column, ImageFeature(decode=False))
        self._column = column
        self._part = part
        self._called = called

    def image(self, index: int) -> Image.Image:
        stored = self._rows[index][self._column]
        called = f"{self._called}, {self.sample_id(index)}"
        if stored is None:
            raise CorruptImageError(f"{called}: the row has no image.")
        if stored["bytes"] is None:
            return read_image(Path(stored["path"]))
        return decode_image(stored["bytes"], f"{called} ({stored['path']})" if stored["path"] else called)

    def sample_id(self, index: int) -> str:
        return numbered(self._part, index)


def _image_set(
    rows: "Dataset", part: str, called: str, split: Split, image_column: str | None, label_column: str | None
) -> ImageSet:
    from datasets import ClassLabel
    from datasets import Image as ImageFeature

    columns = {column: type(feature).__name__ for column, feature in rows.features.items()}
    image_column = _column(rows, ImageFeature, image_column, "image_column", called)
    if image_column is None:
        raise InputError(f"got {called}, which has no column of type Image; its columns are {columns}.")
    label_column = _column(rows, ClassLabel, label_column, "label_column", called)
    classes, labels = _labels(rows, label_column, called)
    return ImageSet(
        name=called,
        split=split,
        classes=classes,
        source=HuggingFaceSource(rows, image_column, part, called),
        labels=labels,
        # Of the table behind the rows: two folders may bear one name.
        parameters={"rows": rows._fingerprint},
    )


def _labels(rows: "Dataset", column: str | None, called: str) -> tuple[tuple[str, ...], Int[np.ndarray, "sample"]]:
    """Words of the classes, and each row's class; integers without words are called by their number."""
    from datasets import ClassLabel

    if column is None:
        return (), np.full(len(rows), UNLABELLED)
    values = [UNLABELLED if value is None else value for value in rows.select_columns([column])[:][column]]
    feature = rows.features[column]
    if isinstance(feature, ClassLabel):
        return tuple(map(as_words, feature.names)), np.array(values, dtype=np.int64)
    if not all(isinstance(value, int) for value in values):
        raise InputError(f"got label_column={column!r} of {called} with {feature}, expected ClassLabel or integers.")
    highest = max(values, default=UNLABELLED)
    if highest > MOST_CLASSES:
        raise InputError(f"got label_column={column!r} of {called} with numbers up to {highest}: these are no classes.")
    return tuple(map(str, range(highest + 1))), np.array(values, dtype=np.int64)


def _column(rows: "Dataset", kind: type, asked: str | None, argument: str, called: str) -> str | None:
    """The column that was asked for, or the only one of its kind, or None if there is none."""
    if asked is not None:
        if asked not in rows.features:
            raise InputError(f"got {argument}={asked!r}, expected a column of {called}: {', '.join(rows.features)}.")
        return asked
    found = [column for column, feature in rows.features.items() if isinstance(feature, kind)]
    if len(found) > 1:
        raise InputError(
            f"{called} has {len(found)} columns of type {kind.__name__}: say {argument}={' or '.join(found)}."
        )
    return found[0] if found else None


def _from_disk(path: Path) -> "dict[str, Dataset]":
    from datasets import Dataset, load_from_disk

    try:
        loaded = load_from_disk(path)
    except FileNotFoundError as error:
        raise InputError(f"got folder {path}, expected one that datasets' save_to_disk wrote ({error}).") from None
    return {"train": loaded} if isinstance(loaded, Dataset) else {str(part): rows for part, rows in loaded.items()}


def _from_hub(repository: Repository, root: Path | None, download: bool) -> "dict[str, Dataset]":
    from datasets import DatasetDict, load_dataset_builder
    from datasets.exceptions import DatasetsError

    try:
        builder = load_dataset_builder(
            repository.path,
            repository.config,
            revision=repository.revision,
            cache_dir=None if root is None else str(root.expanduser()),
        )
        if download:
            builder.download_and_prepare()
        loaded = cast(DatasetDict, builder.as_dataset())
    # What `datasets` raises on names, configurations, networks and files that are not there.
    except (OSError, RuntimeError, ValueError, DatasetsError) as error:
        advice = "Is the name right, and the hub within reach?" if download else "Pass download=True to fetch it."
        raise InputError(f"{repository.path} cannot be opened from Hugging Face ({error}). {advice}") from error
    return {str(part): rows for part, rows in loaded.items()}


def _part_called(split: Split, there: tuple[str, ...], called: str) -> str:
    for name in SPLIT_NAMES[split]:
        if name in there:
            return name
    raise MissingSplitError(f"got split={split!r}, which {called} does not have; it has {', '.join(there)}.")
