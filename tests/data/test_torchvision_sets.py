"""torchvision's data sets on tiny fakes in the real formats: pixels, labels, words, ids, and the paper's splits."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from residual_lens.data import ImageSet, open_images
from residual_lens.data.images import paper_splits
from residual_lens.data.images.class_words import GTSRB
from residual_lens.data.images.torchvision_sets import TORCHVISION
from residual_lens.errors import InputError
from tests.data import fake_sets

SPLITS = ("train", "validation", "test")


def open_all(name: str, root: Path) -> list[ImageSet]:
    return [open_images(name, split=split, root=root) for split in SPLITS]


def ids(images: ImageSet) -> list[str]:
    return [images.sample_id(row) for row in range(len(images))]


def check(sets: list[ImageSet], sizes: list[int], classes: tuple[str, ...]) -> None:
    """Sizes and words as expected, splits disjoint, every class in proportion, every image readable as RGB."""
    assert [len(images) for images in sets] == sizes
    every = [name for images in sets for name in ids(images)]
    assert len(every) == len(set(every)) == sum(sizes)
    for images in sets:
        assert images.classes == classes
        assert images[0][0].mode == "RGB"
        assert [images[row][1] for row in range(len(images))] == images.labels.tolist()
    counts = np.bincount(sets[1].labels, minlength=len(classes))
    assert counts.max() - counts.min() <= 1


def same_pixels(image: Image.Image, expected: np.ndarray) -> bool:
    return np.array_equal(np.asarray(image), expected)


@pytest.mark.parametrize(("name", "n_classes", "n_train"), [("cifar10", 10, 200), ("cifar100", 100, 500)])
def test_cifar(name: str, n_classes: int, n_train: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    n = n_train if name == "cifar100" else n_train // 5
    fake_sets.cifar(tmp_path, monkeypatch, n=n, hundred=name == "cifar100")
    sets = open_all(name, tmp_path)
    word = "kind {}" if name == "cifar100" else "kind{}"
    check(sets, [n_train * 9 // 10, n_train // 10, n], tuple(word.format(i) for i in range(n_classes)))
    pixels = np.random.default_rng(0).integers(0, 256, (n, 3072), dtype=np.uint8).reshape(n, 3, 32, 32)
    image, label = sets[0][0]
    number = int(sets[0].sample_id(0).removeprefix("train/"))
    assert label == number % n_classes
    assert same_pixels(image, pixels[number].transpose(1, 2, 0))
    assert sets[2].sample_id(3) == "test/00003"


def test_mnist(tmp_path: Path):
    fake_sets.mnist(tmp_path, n=100)
    sets = open_all("mnist", tmp_path)
    digits = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    check(sets, [90, 10, 100], digits)
    grey = np.random.default_rng(1).integers(0, 256, (100, 28, 28), dtype=np.uint8)[7]
    assert same_pixels(sets[2][7][0], np.stack([grey] * 3, axis=-1))
    assert sets[2][7][1] == 7


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake_sets.svhn(tmp_path / "svhn", monkeypatch, n=50)
    sets = open_all("svhn", tmp_path / "svhn")
    assert sets[0].classes[0] == "zero"
    check(sets, [40, 10, 50], sets[0].classes)
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3, 50), dtype=np.uint8)
    assert same_pixels(sets[2][9][0], pixels[..., 9])
    assert sets[2][9][1] == 0
    assert sets[2][0][1] == 1


def test_eurosat(tmp_path: Path):
    fake_sets.eurosat(tmp_path, n=10)
    sets = open_all("eurosat", tmp_path)
    check(sets, [24, 3, 3], ("annual crop", "forest", "sea lake"))
    assert ids(sets[0])[:2] == sorted(ids(sets[0]))[:2]
    assert ids(sets[2])[0].startswith("AnnualCrop/AnnualCrop_0")


def test_sun397_is_in_the_order_of_its_paths(tmp_path: Path):
    fake_sets.sun397(tmp_path, n=10)
    sets = open_all("sun397", tmp_path)
    check(sets, [24, 3, 3], ("abbey", "apartment building outdoor", "bakery shop"))
    for images in sets:
        assert ids(images) == sorted(ids(images))
        assert np.array_equal(images.labels, np.sort(images.labels))


def test_dtd_carves_from_its_published_train_and_validation_parts(tmp_path: Path):
    fake_sets.dtd(tmp_path, n=5)
    sets = open_all("dtd", tmp_path)
    check(sets, [24, 6, 15], ("banded", "dotted", "zigzagged"))
    assert {name[-6:-4] for name in ids(sets[2])} == {f"{i:02d}" for i in range(10, 15)}


def test_gtsrb(tmp_path: Path):
    fake_sets.gtsrb(tmp_path, n=10)
    sets = open_all("gtsrb", tmp_path)
    check(sets, [387, 43, 3], GTSRB)
    assert len(set(GTSRB)) == 43
    assert [sets[2].classes[sets[2][row][1]] for row in range(3)] == [
        "no heavy vehicles",
        "speed limit 30 km/h",
        "keep right",
    ]
    assert same_pixels(sets[2][1][0], np.asarray(fake_sets.picture(9001)))
    assert sets[2].sample_id(1) == "Final_Test/Images/00001.ppm"


def test_stanford_cars(tmp_path: Path):
    fake_sets.stanford_cars(tmp_path, n=10)
    sets = open_all("stanford_cars", tmp_path)
    check(sets, [8, 2, 10], ("AM General Hummer SUV 2000", "Acura RL Sedan 2012"))
    assert [sets[2][row][1] for row in range(3)] == [0, 1, 0]


def test_imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(paper_splits.CARVED, "imagenet", 1000)
    fake_sets.imagenet(tmp_path, n=3)
    train, validation, test = open_all("imagenet", tmp_path)
    assert [len(train), len(validation), len(test)] == [2000, 1000, 1000]
    assert len({*ids(train), *ids(validation), *ids(test)}) == 4000
    assert np.array_equal(np.bincount(validation.labels), np.ones(1000))
    assert len(set(train.classes)) == 1000
    assert train.classes[0] == "tench"
    assert train.sample_id(0).startswith("train/n00000000/train_")
    assert test.sample_id(999) == "val/n00000999/val_0.JPEG"
    assert test[0][0].size == (12, 12)
    few = open_images("imagenet", root=tmp_path, limit=1000)
    assert np.array_equal(np.bincount(few.labels), np.ones(1000))


def test_a_part_of_imagenet_is_refused(tmp_path: Path):
    fake_sets.class_folders(tmp_path / "train", ["n01440764", "n01443537"], 2)
    with pytest.raises(InputError, match=r"2 class folders, expected 1000; .*'folder:PATH'"):
        open_images("imagenet", root=tmp_path)


@pytest.mark.parametrize("name", sorted(TORCHVISION))
def test_missing_data_say_where_they_were_looked_for_and_how_to_get_them(name: str, tmp_path: Path):
    how = {"imagenet": "image-net.org", "stanford_cars": "source is gone"}.get(name, "download=True")
    with pytest.raises(InputError, match=rf"{name} was looked for in .*{tmp_path.name}/data.*{how}"):
        open_images(name, root=tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_failed_download_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(self: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.EuroSAT.download", fail)
    with pytest.raises(InputError, match=r"eurosat was looked for in .* \(no route to host\)"):
        open_images("eurosat", root=tmp_path, download=True)


def test_imagenet_is_unpacked_only_on_request(tmp_path: Path):
    fake_sets.imagenet_meta(tmp_path)
    with pytest.raises(InputError, match=r"ILSVRC2012_img_val.tar is not present"):
        open_images("imagenet", split="test", root=tmp_path, download=True)
    with pytest.raises(InputError, match=r"No such file or directory: '.*/val'"):
        open_images("imagenet", split="test", root=tmp_path)


def test_the_default_place_is_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fake_sets.eurosat(tmp_path / ".cache/residual_lens/data/eurosat", n=10)
    assert len(open_images("eurosat", split="test")) == 3
