"""Folders of images: one subfolder a class, split folders, or no labels at all."""

from pathlib import Path

import pytest

from residual_lens.data import ImageSet, open_images
from residual_lens.errors import InputError
from tests.data.fake_sets import class_folders, write


def ids(images: ImageSet) -> list[str]:
    return [images.sample_id(row) for row in range(len(images))]


def test_a_folder_a_class(tmp_path: Path):
    class_folders(tmp_path / "pets", ["dog", "tabby_cat"], 2)
    (tmp_path / "pets" / "dog" / "notes.txt").write_text("no image")
    images = open_images(f"folder:{tmp_path}/pets")
    assert images.name == "folder:pets"
    assert images.classes == ("dog", "tabby cat")
    assert ids(images) == [
        "dog/dog_00.png",
        "dog/dog_01.png",
        "tabby_cat/tabby_cat_00.png",
        "tabby_cat/tabby_cat_01.png",
    ]
    assert images.labels.tolist() == [0, 0, 1, 1]


def test_the_fingerprint_does_not_depend_on_where_the_folder_lies(tmp_path: Path):
    for place in ("here", "there"):
        class_folders(tmp_path / place / "pets", ["dog", "cat"], 2)
    here, there = (open_images(f"folder:{tmp_path}/{place}/pets") for place in ("here", "there"))
    assert here.fingerprint() == there.fingerprint()
    write(tmp_path / "there" / "pets" / "cat" / "another.png", 5)
    assert open_images(f"folder:{tmp_path}/there/pets").fingerprint() != here.fingerprint()


@pytest.mark.parametrize("called", ["val", "valid", "validation"])
def test_split_folders(called: str, tmp_path: Path):
    for part, n in (("train", 3), (called, 2), ("test", 1)):
        class_folders(tmp_path / part, ["cat", "dog"], n)
    sizes = [len(open_images(f"folder:{tmp_path}", split=split)) for split in ("train", "validation", "test")]
    assert sizes == [6, 4, 2]
    assert ids(open_images(f"folder:{tmp_path}", split="test")) == ["cat/cat_00.png", "dog/dog_00.png"]


def test_a_missing_split_folder_says_what_is_there(tmp_path: Path):
    class_folders(tmp_path / "train", ["cat"], 1)
    with pytest.raises(
        InputError, match=r"got split='validation', expected a folder validation or val or valid .*has train"
    ):
        open_images(f"folder:{tmp_path}", split="validation")


def test_a_class_may_be_called_train(tmp_path: Path):
    class_folders(tmp_path, ["plane", "train"], 2)
    assert open_images(f"folder:{tmp_path}").classes == ("plane", "train")


def test_a_folder_without_splits_is_all_train(tmp_path: Path):
    class_folders(tmp_path, ["cat", "dog"], 1)
    with pytest.raises(InputError, match=r"got split='test', but .* all of it is 'train'"):
        open_images(f"folder:{tmp_path}", split="test")


def test_a_folder_of_images_is_unlabelled(tmp_path: Path):
    for index in range(3):
        write(tmp_path / f"{2 - index}.jpg", index)
    (tmp_path / "readme.md").write_text("no image")
    images = open_images(f"folder:{tmp_path}")
    assert images.classes == ()
    assert ids(images) == ["0.jpg", "1.jpg", "2.jpg"]
    assert images[0][1] == -1


def test_folders_that_cannot_be_read_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"got folder .*nowhere, which is not there"):
        open_images(f"folder:{tmp_path}/nowhere")
    with pytest.raises(InputError, match=r"holds no image; expected files ending in .jpg"):
        open_images(f"folder:{tmp_path}")
    class_folders(tmp_path, ["cat"], 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no valid file for the classes empty"):
        open_images(f"folder:{tmp_path}")
