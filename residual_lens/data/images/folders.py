"""A folder of images, one subfolder a class, as torchvision's `ImageFolder` reads it."""

from pathlib import Path

import numpy as np

from residual_lens.data.images.class_words import as_words
from residual_lens.data.images.image_set import UNLABELLED, ImageSet, Split
from residual_lens.data.images.sources import FileSource
from residual_lens.errors import InputError

SPLIT_FOLDERS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation", "val", "valid"),
    "test": ("test",),
}


def open_folder(path: Path, split: Split) -> ImageSet:
    """Images below a folder on this machine.

    * `path/train/<class>/…`, `path/val/<class>/…`, `path/test/<class>/…`: the split's own folder is read.
    * `path/<class>/…`: all images are the split "train".
    * `path/…` without subfolders: the same, unlabelled.

    The name is `folder:` and the folder's own name, so that the fingerprint does not depend on where it lies.

    Args:
        path: the folder.
        split: which split.

    Raises:
        InputError: there is no such folder or split, or no image in it, or a class without images.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension, make_dataset

    path = path.expanduser().absolute()
    if not path.is_dir():
        raise InputError(f"got folder {path}, which is not there; expected a folder with one subfolder a class.")
    root = _split_folder(path, split)
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    if classes:
        try:
            found = make_dataset(root, {name: i for i, name in enumerate(classes)}, extensions=IMG_EXTENSIONS)
        except FileNotFoundError as error:
            raise InputError(f"{root}: {error}") from None
        samples = sorted((Path(file).relative_to(root).as_posix(), label) for file, label in found)
    else:
        files = (entry.name for entry in root.iterdir() if has_file_allowed_extension(entry.name, IMG_EXTENSIONS))
        samples = [(name, UNLABELLED) for name in sorted(files)]
    if not samples:
        raise InputError(f"got {root}, which holds no image; expected files ending in {', '.join(IMG_EXTENSIONS)}.")
    return ImageSet(
        name=f"folder:{path.name}",
        split=split,
        classes=tuple(as_words(name) for name in classes),
        source=FileSource(root, [name for name, _ in samples]),
        labels=np.array([label for _, label in samples]),
    )


def _split_folder(path: Path, split: Split) -> Path:
    """The folder of a split. A class may be called "train", but then its folder holds images and no folders."""
    train = path / "train"
    if not (train.is_dir() and any(entry.is_dir() for entry in train.iterdir())):
        if split != "train":
            raise InputError(
                f"got split={split!r}, but {path} has no train, validation and test folders: all of it is 'train'. To "
                "encode a part of it, name its folder."
            )
        return path
    for name in SPLIT_FOLDERS[split]:
        if (path / name).is_dir():
            return path / name
    there = ", ".join(sorted(entry.name for entry in path.iterdir() if entry.is_dir()))
    raise InputError(
        f"got split={split!r}, expected a folder {' or '.join(SPLIT_FOLDERS[split])} in {path}: has {there}."
    )
