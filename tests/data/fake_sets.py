"""Tiny data sets on disk, each in its real format: what torchvision reads, with a few images a class."""

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from residual_lens.data.images.class_words import GTSRB


def picture(seed: int, side: int = 12) -> Image.Image:
    """A colour image of its own for every seed."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(path)


def class_folders(root: Path, classes: list[str], n: int, suffix: str = ".png") -> None:
    for label, name in enumerate(classes):
        for index in range(n):
            write(root / name / f"{name}_{index:02d}{suffix}", 100 * label + index)


def cifar(root: Path, monkeypatch: pytest.MonkeyPatch, *, n: int, hundred: bool = False) -> None:
    """Python batches; the checksums of the real files cannot hold."""
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: Path(path).is_file())
    classes = [f"kind_{i}" for i in range(100)] if hundred else [f"kind{i}" for i in range(10)]
    folder = root / ("cifar-100-python" if hundred else "cifar-10-batches-py")
    folder.mkdir(parents=True)
    key = "fine_labels" if hundred else "labels"
    batches = ["train", "test"] if hundred else [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for seed, batch in enumerate(batches):
        pixels = np.random.default_rng(seed).integers(0, 256, (n, 3072), dtype=np.uint8)
        (folder / batch).write_bytes(pickle.dumps({"data": pixels, key: [i % len(classes) for i in range(n)]}))
    meta = ("meta", "fine_label_names") if hundred else ("batches.meta", "label_names")
    (folder / meta[0]).write_bytes(pickle.dumps({meta[1]: classes}))


def mnist(root: Path, *, n: int) -> None:
    """IDX files."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for seed, part in enumerate(("train", "t10k")):
        pixels = np.random.default_rng(seed).integers(0, 256, (n, 28, 28), dtype=np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">iiii", 2051, n, 28, 28) + pixels.tobytes())
        labels = bytes(i % 10 for i in range(n))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 2049, n) + labels)


def svhn(root: Path, monkeypatch: pytest.MonkeyPatch, *, n: int) -> None:
    """MATLAB files, in which the digit 0 has the label 10."""
    monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda path, md5=None: Path(path).is_file())
    root.mkdir(parents=True)
    for seed, part in enumerate(("train", "test")):
        pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3, n), dtype=np.uint8)
        labels = (np.arange(n) % 10 + 1).astype(np.uint8)[:, None]
        scipy.io.savemat(root / f"{part}_32x32.mat", {"X": pixels, "y": labels})


def eurosat(root: Path, *, n: int) -> None:
    class_folders(root / "eurosat" / "2750", ["AnnualCrop", "Forest", "SeaLake"], n, ".jpg")


def sun397(root: Path, *, n: int) -> None:
    classes = ["a/abbey", "a/apartment_building/outdoor", "b/bakery/shop"]
    for label, name in enumerate(classes):
        for index in range(n):
            write(root / "SUN397" / name / f"sun_{label}{index:03d}.jpg", 100 * label + index)
    (root / "SUN397" / "ClassName.txt").write_text("".join(f"/{name}\n" for name in classes))


def dtd(root: Path, *, n: int) -> None:
    """Lists of images for train, val and test, `n` of each class in each."""
    classes = ["banded", "dotted", "zigzagged"]
    base = root / "dtd" / "dtd"
    class_folders(base / "images", classes, 3 * n, ".jpg")
    (base / "labels").mkdir()
    for part, name in enumerate(("train", "val", "test")):
        lines = [f"{c}/{c}_{part * n + index:02d}.jpg\n" for c in classes for index in range(n)]
        (base / "labels" / f"{name}1.txt").write_text("".join(lines))


def gtsrb(root: Path, *, n: int) -> None:
    base = root / "gtsrb"
    for label in range(len(GTSRB)):
        for index in range(n):
            write(base / "GTSRB" / "Training" / f"{label:05d}" / f"{index:05d}.ppm", 100 * label + index)
    rows = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for index, label in enumerate((16, 1, 38)):
        write(base / "GTSRB" / "Final_Test" / "Images" / f"{index:05d}.ppm", 9000 + index)
        rows.append(f"{index:05d}.ppm;53;54;6;5;48;49;{label}")
    (base / "GT-final_test.csv").write_text("\n".join(rows) + "\n")


def stanford_cars(root: Path, *, n: int) -> None:
    base = root / "stanford_cars"
    classes = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]
    (base / "devkit").mkdir(parents=True)
    names = np.array(classes, dtype=object)
    scipy.io.savemat(base / "devkit" / "cars_meta.mat", {"class_names": names})
    kind = np.dtype([("class", object), ("fname", object)])
    for part, file in (
        ("train", base / "devkit" / "cars_train_annos.mat"),
        ("test", base / "cars_test_annos_withlabels.mat"),
    ):
        annotations = np.array([(np.uint8(i % 2 + 1), f"{i:05d}.jpg") for i in range(n)], dtype=kind)
        for index in range(n):
            write(base / f"cars_{part}" / f"{index:05d}.jpg", index)
        scipy.io.savemat(file, {"annotations": annotations})


def imagenet(root: Path, *, n: int) -> None:
    """All 1,000 synsets with `n` training images each, and validation images of two of them."""
    content = Path(root / "one.JPEG")
    root.mkdir(parents=True, exist_ok=True)
    picture(0).save(content)
    for label in range(1000):
        for part, count in (("train", n), ("val", 1)):
            folder = root / part / f"n{label:08d}"
            folder.mkdir(parents=True)
            for index in range(count):
                (folder / f"{part}_{index}.JPEG").hardlink_to(content)


def imagenet_meta(root: Path) -> None:
    """What torchvision writes when it unpacks the development kit."""
    root.mkdir(parents=True, exist_ok=True)
    torch.save(({"n00000000": ("tench", "Tinca tinca")}, ["n00000000"]), root / "meta.bin")
