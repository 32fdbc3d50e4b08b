"""A store's images are found again as encode and train open them, and refused where they are others."""

import shutil

import numpy as np
import pytest
from PIL import Image

from residual_lens.atlas.images import images_of
from residual_lens.data.images import ImageSet, open_images
from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT
from residual_lens.training.runs import Resources, RunConfig
from residual_lens.training.runs.data import open_splits
from tests.activations.stores import encoded


@pytest.fixture(scope="module")
def hvit() -> HookedViT:
    return HookedViT.from_pretrained("attribute-clip")


@pytest.fixture
def folder(tmp_path):
    """Two classes of six pictures, without splits."""
    for label, name in enumerate(("ants", "bees")):
        (tmp_path / "insects" / name).mkdir(parents=True)
        for index in range(6):
            pixels = np.random.default_rng(10 * label + index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "insects" / name / f"{index}.png")
    return tmp_path / "insects"


def found_for(hvit: HookedViT, images: ImageSet, path, **arguments) -> ImageSet:
    with encoded(hvit, images, path / "a.h5") as store:
        return images_of(store, hvit.cfg.image_size[0], **arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("digits", {"split": "test"}),
        ("digits", {"limit": 20}),
        ("attributes", {"limit": 12}),
        ("attributes:shape@sketch", {"limit": 16, "split": "validation"}),
    ],
)
def test_drawn_images_are_drawn_again(hvit, tmp_path, name, arguments):
    images = open_images(name, image_size=32, **arguments)
    found = found_for(hvit, images, tmp_path)
    assert found.fingerprint() == images.fingerprint()


def test_splits_of_runs_are_found(hvit, tmp_path, folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Both are parts of the training split, which is all that there is.
    splits = open_splits(RunConfig("attribute-clip", f"folder:{folder}", "linear"), Resources(), 32)
    for part, images in (("test", splits.test), ("validation", splits.validation)):
        (tmp_path / part).mkdir()
        found = found_for(hvit, images, tmp_path / part)
        assert found.fingerprint() == images.fingerprint()


def test_the_seed_decides(hvit, tmp_path):
    images = open_images("attributes:shape", limit=12, seed=5, image_size=32)
    with encoded(hvit, images, tmp_path / "a.h5") as store:
        with pytest.raises(InputError, match=r"12 images of attributes:shape/train, .* not found: .*with seed 42\. "):
            images_of(store, 32)
        assert images_of(store, 32, seed=5).fingerprint() == images.fingerprint()


def test_images_that_moved_are_known_by_names_and_labels(hvit, tmp_path, folder):
    images = open_images(f"folder:{folder}")
    with encoded(hvit, images, tmp_path / "a.h5") as store:
        moved = folder.rename(tmp_path / "elsewhere")
        with pytest.raises(InputError, match=r"not found: .*insects, which is not there.* Give --data with the place"):
            images_of(store, 32)
        found = images_of(store, 32, data=f"folder:{moved}")
        assert [found.sample_id(row) for row in range(12)] == list(store.sample_ids)
        # Of other labels, and with one missing.
        shutil.move(moved / "ants" / "0.png", tmp_path / "0.png")
        with pytest.raises(InputError, match=r"has other images"):
            images_of(store, 32, data=f"folder:{moved}")


def test_images_of_nobody_are_not_found(hvit, tmp_path):
    digits = open_images("digits", limit=20)
    own = ImageSet(name="mine", split="train", classes=("a",), source=digits._source, labels=np.zeros(20, int))
    with encoded(hvit, own, tmp_path / "a.h5") as store, pytest.raises(InputError, match=r"got data set 'mine'"):
        images_of(store, 32)
