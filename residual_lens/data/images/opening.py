"""Image data sets by name."""

from pathlib import Path
from typing import cast

from residual_lens.data.images.drawn import drawn_names, open_drawn
from residual_lens.data.images.folders import open_folder
from residual_lens.data.images.hugging_face import HUGGING_FACE, open_hugging_face
from residual_lens.data.images.image_set import SPLITS, ImageSet, Split
from residual_lens.data.images.paper_splits import stratified_subset
from residual_lens.data.images.torchvision_sets import TORCHVISION, open_torchvision
from residual_lens.errors import InputError, did_you_mean

FOLDER_PREFIX = "folder:"
HUGGING_FACE_PREFIX = "hf:"


def image_set_names() -> tuple[str, ...]:
    """Every data set that has a name of its own; `open_images` also takes `folder:PATH` and `hf:ORG/REPO`.

    >>> [name for name in image_set_names() if name.startswith(("cifar", "imagenet"))]
    ['cifar10', 'cifar100', 'imagenet', 'imagenet-sketch']
    """
    return (*TORCHVISION, *HUGGING_FACE, *drawn_names())


def open_images(
    name: str,
    *,
    split: str = "train",
    root: str | Path | None = None,
    download: bool = False,
    seed: int = 42,
    limit: int | None = None,
    image_size: int | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> ImageSet:
    """Opens one split of an image data set; the same arguments give the same images in the same order.

    Splits are the paper's (arXiv 2411.00246; see `paper_splits`) where it says one; RESISC45 has its own, and a folder
    and a Hugging Face repository are taken as they are.

    Args:
        name: one of `image_set_names()`, `folder:PATH` (one subfolder a class), `hf:ORG/REPO`, `hf:ORG/REPO@CONFIG`, or
            `hf:PATH` for what `datasets` saved to a folder.
        split: "train", "validation" or "test".
        root: folder of a torchvision data set, laid out as torchvision does; cache folder of a Hugging Face one. By
            default `~/.cache/residual_lens/data/<name>`, and Hugging Face's own cache.
        download: fetch what is not there yet; otherwise missing data are an error.
        seed: of the splits, of `limit`, and of what is drawn.
        limit: only so many images: stratified by class, in the data set's order; of drawn sets, how many are drawn.
        image_size: side in pixels of what is drawn (`random` 224, digits and scenes 32 by default); files keep theirs.
        image_column: of a Hugging Face data set with several image columns.
        label_column: of a Hugging Face data set with several label columns.

    Raises:
        InputError: an unknown name or split, data that are not there (the message says how to get them), a limit that
            is more than there is, or columns for what is no Hugging Face data set. Other arguments that mean nothing
            for a data set are ignored.

    >>> scenes = open_images("attributes:shape@sketch", limit=16)
    >>> len(scenes), scenes.classes[:3], scenes[0][0].size
    (16, ('square', 'triangle', 'star'), (32, 32))
    """
    if split not in SPLITS:
        raise InputError(f"got split={split!r}, expected one of {', '.join(SPLITS)}.")
    part, root = cast(Split, split), None if root is None else Path(root)
    if limit is not None and limit < 1:
        raise InputError(f"got limit={limit}, expected at least 1 image, or None for all.")
    folder, repository = name.startswith(FOLDER_PREFIX), name.startswith(HUGGING_FACE_PREFIX) or name in HUGGING_FACE
    if not repository and (image_column is not None or label_column is not None):
        raise InputError(f"got a column for {name!r}, expected one only for Hugging Face data sets.")
    if name in drawn_names():
        n_images = None if name == "digits" else limit
        images = open_drawn(name, part, seed=seed, n_images=n_images, image_size=image_size)
    elif name in TORCHVISION:
        images = open_torchvision(name, part, root=root, download=download, seed=seed)
    elif folder:
        images = open_folder(Path(name.removeprefix(FOLDER_PREFIX)), part)
    elif repository:
        images = open_hugging_face(
            name.removeprefix(HUGGING_FACE_PREFIX),
            part,
            root=root,
            download=download,
            seed=seed,
            image_column=image_column,
            label_column=label_column,
        )
    else:
        raise InputError(_unknown(name))
    if limit is None or len(images) == limit:
        return images
    return images.subset(stratified_subset(images.labels, limit, seed), limit=limit, subset_seed=seed)


def _unknown(name: str) -> str:
    return (
        f"got data set {name!r}, expected one of {', '.join((*TORCHVISION, *HUGGING_FACE))}, random, digits, "
        "attributes, attributes:<attribute>[@<shift>], folder:PATH or hf:ORG/REPO; image_set_names() lists all."
        f"{did_you_mean(name, image_set_names())}"
    )
