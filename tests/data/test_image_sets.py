"""What every image set promises: order, labels, ids, a cheap fingerprint, workers; and the sets that are drawn."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.transforms.v2.functional import pil_to_tensor

from residual_lens.data import CorruptImageError, ImageSet, image_set_names, load_task, open_images, task_names
from residual_lens.data.attribute_world import ATTRIBUTES, SHIFTS
from residual_lens.data.images.drawn import BLOCK_PIXELS
from residual_lens.data.images.image_set import SPLITS, ImageSource
from residual_lens.data.images.sources import ArraySource
from residual_lens.errors import InputError
from tests.data.fake_sets import class_folders

DRAWN = ["random", "digits", "attributes", "attributes@sketch", "attributes:shape", "attributes:digit@clutter"]


def pixels(images: ImageSet, rows: list[int] | range) -> torch.Tensor:
    return torch.stack([pil_to_tensor(images[row][0]) for row in rows])


def small(name: str, split: str = "train", seed: int = 42) -> ImageSet:
    return open_images(name, split=split, limit=30, image_size=32, seed=seed)


def test_names_cover_every_source():
    names = image_set_names()
    assert len(names) == len(set(names))
    assert {"cifar10", "cifar100", "mnist", "svhn", "eurosat", "gtsrb", "dtd", "sun397", "stanford_cars"} < set(names)
    assert {"imagenet", "resisc45", "imagenet-sketch", "pacs", "random", "attributes"} < set(names)
    assert set(task_names()) < set(names)
    assert {f"attributes@{shift}" for shift in SHIFTS} < set(names)


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_sets_are_rgb_and_as_many_as_asked_for(name: str):
    images = small(name)
    assert (images.name, images.split, len(images)) == (name, "train", 30)
    image, label = images[7]
    assert (image.mode, image.size) == ("RGB", (32, 32))
    assert label == images.labels[7]
    assert images.labels.dtype == np.int64
    assert len({images.sample_id(row) for row in range(30)}) == 30


@pytest.mark.parametrize("name", DRAWN)
def test_any_row_can_be_drawn_alone_and_is_always_the_same(name: str):
    images, again = small(name), small(name)
    backwards = pixels(images, range(29, -1, -1)).flip(0)
    assert torch.equal(backwards, pixels(again, range(30)))
    assert torch.equal(pixels(small(name), [17]), backwards[17:18])


@pytest.mark.parametrize("name", DRAWN)
def test_splits_and_seeds_share_no_image(name: str):
    sets = [small(name, split) for split in SPLITS]
    if name != "digits":
        sets.append(small(name, seed=43))
    every = torch.cat([pixels(images, range(30)) for images in sets])
    assert len(every.flatten(1).unique(dim=0)) == len(every)


@pytest.mark.parametrize("name", DRAWN)
def test_fingerprints_tell_splits_seeds_sizes_and_limits_apart(name: str):
    variants = [
        small(name),
        small(name, "test"),
        small(name, seed=43),
        open_images(name, limit=30, image_size=48),
        open_images(name, limit=31, image_size=32),
        small("attributes:size"),
    ]
    prints = {images.fingerprint() for images in variants}
    assert len(prints) == len(variants)
    assert small(name).fingerprint() == variants[0].fingerprint()
    assert all(len(value) == 64 for value in prints)


def test_a_fingerprint_reads_no_pixel_and_sees_ids_labels_and_words():
    class Named(ImageSource):
        def __init__(self, prefix: str) -> None:
            self.prefix = prefix

        def image(self, index: int):
            raise AssertionError("decoded")

        def sample_id(self, index: int) -> str:
            return f"{self.prefix}{index}"

    def made(prefix: str = "a", name: str = "x", classes: tuple[str, ...] = ("p", "q"), label: int = 0) -> str:
        labels = np.array([label, 1])
        images = ImageSet(name=name, split="train", classes=classes, source=Named(prefix), labels=labels)
        return images.fingerprint()

    changed = [made(), made(prefix="b"), made(name="y"), made(classes=("p", "r")), made(label=1), made(label=-1)]
    assert len(set(changed)) == len(changed)


def test_subsets_keep_images_labels_and_ids_together():
    images = open_images("attributes:shape", limit=40)
    rows = np.array([31, 2, 17])
    chosen = images.subset(rows)
    assert torch.equal(pixels(chosen, range(3)), pixels(images, rows.tolist()))
    assert np.array_equal(chosen.labels, images.labels[rows])
    assert [chosen.sample_id(row) for row in range(3)] == [images.sample_id(row) for row in rows.tolist()]
    again = chosen.subset(np.array([2]))
    assert again.sample_id(0) == images.sample_id(17)
    assert len({images.fingerprint(), chosen.fingerprint(), again.fingerprint()}) == 3


def test_rows_out_of_range_end_a_loop():
    images = open_images("attributes", limit=5)
    assert len(list(images)) == 5
    for row in (-1, 5):
        with pytest.raises(IndexError, match=rf"got row {row}, expected 0 to 4"):
            images[row]
        with pytest.raises(IndexError, match=rf"got row {row}"):
            images.sample_id(row)


def test_labels_that_no_class_has_are_refused():
    source = ArraySource("train", np.zeros((2, 4, 4), np.uint8))
    for labels in (np.array([0, 2]), np.array([-2, 0])):
        with pytest.raises(InputError, match=r"got label -?2 in x/train, expected -1 to 1"):
            ImageSet(name="x", split="train", classes=("p", "q"), source=source, labels=labels)


def test_handed_out_labels_are_a_copy():
    images = open_images("digits", limit=20)
    images.labels[:] = -1
    assert images.labels.min() >= 0


class Loaded(torch.utils.data.Dataset[tuple[int, int] | str]):
    """First pixel and label, or the error's message, as an encoder's loader does it."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[int, int] | str:
        try:
            image, label = self.images[row]
        except CorruptImageError as error:
            return str(error)
        return int(np.asarray(image).astype(int).sum()), label


def test_workers_give_what_the_main_process_gives(tmp_path: Path):
    class_folders(tmp_path, ["cat", "dog"], 4)
    (tmp_path / "dog" / "dog_01.png").write_bytes(b"")
    loading = Loaded(open_images(f"folder:{tmp_path}"))
    loader = DataLoader(loading, batch_size=3, num_workers=1, collate_fn=list)
    assert [sample for batch in loader for sample in batch] == [loading[row] for row in range(len(loading))]
    assert loading[5] == f"{tmp_path}/dog/dog_01.png: the file is empty (0 bytes)."


@pytest.mark.parametrize("name", DRAWN)
def test_sets_can_be_pickled(name: str):
    images = small(name)
    images[3]
    again = pickle.loads(pickle.dumps(images))  # noqa: S301
    assert again.fingerprint() == images.fingerprint()
    assert torch.equal(pixels(again, range(4)), pixels(images, range(4)))


def test_a_corrupt_image_ends_a_loader_with_its_path(tmp_path: Path):
    class_folders(tmp_path, ["cat"], 2)
    (tmp_path / "cat" / "cat_01.png").write_bytes(b"?")
    loader = DataLoader(open_images(f"folder:{tmp_path}"), batch_size=2, num_workers=1, collate_fn=list)
    with pytest.raises(CorruptImageError, match=r"cat_01.png: no image"):
        list(loader)


def test_limits_are_stratified_and_seeded(tmp_path: Path):
    class_folders(tmp_path, ["cat", "dog", "owl"], 6)
    images = open_images(f"folder:{tmp_path}", limit=6)
    assert np.bincount(images.labels).tolist() == [2, 2, 2]
    names = [images.sample_id(row) for row in range(6)]
    assert names == sorted(names)
    other = open_images(f"folder:{tmp_path}", limit=6, seed=1)
    assert names != [other.sample_id(row) for row in range(6)]
    with pytest.raises(InputError, match=r"subset of 19 images, expected between 1 and the 18"):
        open_images(f"folder:{tmp_path}", limit=19)


def unwrapped(levels: torch.Tensor, around: float) -> torch.Tensor:
    """Bytes that stand for numbers modulo 256, as those nearest to a middle."""
    return (levels.float() - around + 128) % 256 - 128 + around


def test_random_images_have_the_papers_distribution():
    images = open_images("random", limit=40, image_size=64)
    assert images.classes == tuple(f"noise {i}" for i in range(10))
    assert images.labels.tolist() == [row % 10 for row in range(40)]
    # Unwrapped, levels of class c have mean (c/9 − 1/2)·0.4·255 and variance 255²·(0.05² + 0.1²).
    for label in range(10):
        expected = (label / 9 - 0.5) * 0.4 * 255
        levels = unwrapped(pixels(images, range(label, 40, 10)), expected)
        assert levels.mean().item() == pytest.approx(expected, abs=1.5)
        assert levels.std().item() == pytest.approx(255 * (0.05**2 + 0.1**2) ** 0.5, rel=0.03)
        # What images of one class share is their centre.
        shared = torch.corrcoef(levels.flatten(1))[0, 1].item()
        assert shared == pytest.approx(0.05**2 / (0.05**2 + 0.1**2), abs=0.05)
    first_of_test = open_images("random", split="test", limit=1, image_size=64)
    levels = unwrapped(torch.cat([pixels(images, [0]), pixels(first_of_test, [0])]), -51.0)
    assert torch.corrcoef(levels.flatten(1))[0, 1].item() == pytest.approx(0.2, abs=0.05)


def test_default_sizes_of_random_images_are_the_papers():
    sets = [open_images("random", split=split) for split in SPLITS]
    assert [len(images) for images in sets] == [8000, 1000, 1000]
    assert sets[2][0][0].size == (224, 224)


def test_digits_are_the_scans_as_tasks_show_them():
    sets = [open_images("digits", split=split, seed=5) for split in SPLITS]
    assert [len(images) for images in sets] == [1437, 180, 180]
    assert sets[0].classes[3] == "three"
    task = load_task("digits", image_size=32, seed=5, n_train=1437, n_validation=180, n_test=180)
    for images, split in zip(sets, (task.train, task.validation, task.test), strict=True):
        assert images.labels.tolist() == split.labels.tolist()
        assert torch.equal(pixels(images, range(0, 180, 9)), (255 * split.images[:180:9]).round().byte())


def test_scenes_know_their_attribute_and_ignore_the_shift():
    plain, inverted = (open_images(f"attributes:shape{shift}", limit=200) for shift in ("", "@inverted"))
    assert plain.classes == ATTRIBUTES["shape"]
    assert np.bincount(plain.labels).tolist() == [25] * 8
    assert np.array_equal(plain.labels, inverted.labels)
    difference = pixels(plain, range(8)).float() - (255 - pixels(inverted, range(8)).float())
    assert difference.abs().max() <= 1


def test_the_mix_is_unlabelled_and_shows_everything():
    images = open_images("attributes", limit=64)
    assert images.classes == ()
    assert set(images.labels.tolist()) == {-1}
    assert len(pixels(images, range(64)).flatten(1).unique(dim=0)) == 64


def test_scenes_do_not_depend_on_the_blocks_they_are_drawn_in():
    one_by_one = open_images("attributes:colour", limit=70)
    last_block = BLOCK_PIXELS // 32**2
    assert torch.equal(pixels(one_by_one, [69, 0, last_block]), pixels(one_by_one, range(70))[[69, 0, last_block]])
    large = open_images("attributes:colour", limit=2, image_size=300)
    assert large[1][0].size == (300, 300)


@pytest.mark.parametrize(
    "name", ["imagenett", "attributes:mood", "attributes:texture@sketch", "attributes@oil", "shape"]
)
def test_unknown_names_list_what_is_known(name: str):
    with pytest.raises(
        InputError, match=rf"got data set '{name}', expected one of cifar10.*pacs.*folder:PATH or hf:ORG/REPO"
    ):
        open_images(name)


def test_bad_arguments_are_refused():
    with pytest.raises(InputError, match=r"got split='val', expected one of train, validation, test"):
        open_images("digits", split="val")
    with pytest.raises(InputError, match=r"got limit=0, expected at least 1"):
        open_images("digits", limit=0)
    with pytest.raises(InputError, match=r"subset of 2000 images, expected between 1 and the 1437"):
        open_images("digits", limit=2000)
    with pytest.raises(InputError, match=r"got image_size=4, expected at least 8"):
        open_images("random", image_size=4)
    with pytest.raises(InputError, match=r"got a column for 'digits'"):
        open_images("digits", label_column="fine")
