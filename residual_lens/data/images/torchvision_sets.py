"""Data sets that torchvision reads, with the paper's splits and words for their classes."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from residual_lens.data.attribute_world.vocabulary import DIGITS
from residual_lens.data.images.class_words import GTSRB, as_words
from residual_lens.data.images.image_set import ImageSet, ImageSource, Split
from residual_lens.data.images.paper_splits import CARVED, THREE_WAY, carve_validation, split_three_ways
from residual_lens.data.images.sources import ArraySource, FileSource
from residual_lens.errors import InputError

Part = Literal["train", "test"]
N_IMAGENET_CLASSES = 1000


class _Read(NamedTuple):
    """One published part of a data set."""

    classes: tuple[str, ...]
    source: ImageSource
    labels: Int[np.ndarray, "sample"]


def open_torchvision(name: str, split: Split, *, root: Path | None, download: bool, seed: int) -> ImageSet:
    """One split of a data set of torchvision, laid out in `root` as torchvision does.

    Args:
        name: one of `TORCHVISION`.
        split: which split; validation is carved from the published training images, except for data sets that are
            published as one, which are split 80/10/10.
        root: where the data are; `~/.cache/residual_lens/data/<name>` by default.
        download: fetch them if they are not there.
        seed: of the splits.

    Raises:
        InputError: the data are not there, damaged, or cannot be fetched.
    """
    root = (Path("~/.cache/residual_lens/data") / name if root is None else root).expanduser().absolute()
    read = _read(name, root, "test" if split == "test" else "train", download)
    if name in THREE_WAY:
        rows = getattr(split_three_ways(read.labels, seed), split)
    elif split == "test":
        rows = np.arange(len(read.labels))
    else:
        train, validation = carve_validation(read.labels, CARVED[name], seed)
        rows = train if split == "train" else validation
    return ImageSet(
        name=name, split=split, classes=read.classes, source=read.source, labels=read.labels[rows], rows=rows
    )


def _read(name: str, root: Path, part: Part, download: bool) -> _Read:
    if download:
        root.mkdir(parents=True, exist_ok=True)
    try:
        return TORCHVISION[name](root, part, download)
    # What torchvision's readers and downloads raise on missing, damaged or unreachable files.
    except (RuntimeError, OSError, ValueError, AssertionError) as error:
        raise InputError(
            f"{name} was looked for in {root} and cannot be opened ({error}). {_HOW_TO_GET.get(name, _DOWNLOAD)}"
        ) from error


def _cifar10(root: Path, part: Part, download: bool) -> _Read:
    from torchvision.datasets import CIFAR10

    data = CIFAR10(root, train=part == "train", download=download)
    return _Read(tuple(data.classes), ArraySource(part, data.data), np.array(data.targets))


def _cifar100(root: Path, part: Part, download: bool) -> _Read:
    from torchvision.datasets import CIFAR100

    data = CIFAR100(root, train=part == "train", download=download)
    return _Read(tuple(map(as_words, data.classes)), ArraySource(part, data.data), np.array(data.targets))


def _mnist(root: Path, part: Part, download: bool) -> _Read:
    from torchvision.datasets import MNIST

    data = MNIST(root, train=part == "train", download=download)
    return _Read(DIGITS, ArraySource(part, data.data.numpy()), data.targets.numpy())


def _svhn(root: Path, part: Part, download: bool) -> _Read:
    from torchvision.datasets import SVHN

    data = SVHN(root, split=part, download=download)
    return _Read(DIGITS, ArraySource(part, data.data.transpose(0, 2, 3, 1)), data.labels)


def _eurosat(root: Path, part: Part, download: bool) -> _Read:
    from torchvision.datasets import EuroSAT

    data = EuroSAT(root, download=download, loader=str)
    words = [as_words(name).lower() for name in data.classes]
    return _files(root / "eurosat" / "2750", map(data.__getitem__, range(len(data))), words)


def _sun397(root: Path, part: Part, download: bool) -> _Read:
    from torchvision.datasets import SUN397

    data = SUN397(root, download=download, loader=str)
    return _files(root / "SUN397", map(data.__getitem__, range(len(data))), list(map(as_words, data.classes)))


def _dtd(root: Path, part: Part, download: bool) -> _Read:
    """The published train and validation parts together are what the paper splits, as its copy of DTD has no third."""
    from torchvision.datasets import DTD

    parts = [
        DTD(root, split=s, download=download, loader=str) for s in (("train", "val") if part == "train" else ("test",))
    ]
    samples = [data[index] for data in parts for index in range(len(data))]
    return _files(root / "dtd" / "dtd" / "images", samples, parts[0].classes)


def _gtsrb(root: Path, part: Part, download: bool) -> _Read:
    from torchvision import datasets

    data = datasets.GTSRB(root, split=part, download=download)
    # This class has no `loader` that would let the paths through.
    return _files(root / "gtsrb" / "GTSRB", data._samples, GTSRB)


def _stanford_cars(root: Path, part: Part, download: bool) -> _Read:
    from torchvision.datasets import StanfordCars

    data = StanfordCars(root, split=part, loader=str)
    return _files(root / "stanford_cars", map(data.__getitem__, range(len(data))), data.classes)


def _imagenet(root: Path, part: Part, download: bool) -> _Read:
    """The published validation images are the test split: those of the test part have no public labels."""
    from torchvision.datasets import ImageNet
    from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset
    from torchvision.models import ResNet50_Weights

    folder = "train" if part == "train" else "val"
    if download and not (root / folder).is_dir():
        ImageNet(root, split=folder)
    if any((root / folder).glob("*.tar")):
        raise ValueError(
            f"{root / folder} holds archives, so that unpacking was interrupted: delete the folder and unpack it again"
        )
    synsets, index = find_classes(root / folder)
    if len(synsets) != N_IMAGENET_CLASSES:
        raise ValueError(
            f"{root / folder} has {len(synsets)} class folders, expected {N_IMAGENET_CLASSES}; a part of ImageNet "
            "opens as 'folder:PATH'"
        )
    words = ResNet50_Weights.DEFAULT.meta["categories"]
    return _files(root, make_dataset(root / folder, index, extensions=IMG_EXTENSIONS), words)


def _files(base: Path, samples: Iterable[tuple[str, int]], words: Sequence[str]) -> _Read:
    """Files in the order of their paths: some of torchvision's listings come in the order of the file system."""
    ordered = sorted((Path(file).relative_to(base).as_posix(), int(label)) for file, label in samples)
    source = FileSource(base, [path for path, _ in ordered])
    return _Read(tuple(words), source, np.array([label for _, label in ordered]))


TORCHVISION: dict[str, Callable[[Path, Part, bool], _Read]] = {
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "mnist": _mnist,
    "svhn": _svhn,
    "eurosat": _eurosat,
    "gtsrb": _gtsrb,
    "dtd": _dtd,
    "sun397": _sun397,
    "stanford_cars": _stanford_cars,
    "imagenet": _imagenet,
}
"""Reader of each data set."""

_DOWNLOAD = "Pass download=True to fetch it, or root=… where you have it."
_HOW_TO_GET = {
    "stanford_cars": (
        "Its original source is gone, so it cannot be fetched: put cars_train/, cars_test/, devkit/ (cars_meta.mat, "
        "cars_train_annos.mat) and cars_test_annos_withlabels.mat into stanford_cars/ there, or pass root=…."
    ),
    "imagenet": (
        "It needs an account at image-net.org: put train/<synset>/ and val/<synset>/ there, or "
        "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz and pass download=True to "
        "unpack them; or pass root=…."
    ),
}
"""What to do about the data sets that torchvision cannot fetch."""
