"""Tasks by name: splits are deterministic, disjoint and balanced; bad requests are refused with what is known."""

import pytest
import torch

from residual_lens.data import ImageSplit, Task, load_task, task_names
from residual_lens.data.attribute_world import ATTRIBUTES, SHIFTS
from residual_lens.errors import InputError

SMALL = {"n_train": 60, "n_validation": 30, "n_test": 45}


def splits(task: Task) -> list[ImageSplit]:
    return [task.train, task.validation, task.test]


def test_names_cover_every_attribute_and_shift():
    names = task_names()
    assert names[0] == "digits"
    assert len(names) == len(set(names)) == 1 + len(ATTRIBUTES) * (1 + len(SHIFTS)) - 1
    assert "attributes:shape@sketch" in names
    assert "attributes:texture@sketch" not in names


@pytest.mark.parametrize("name", ["digits", "attributes:shape", "attributes:digit@clutter", "attributes:position"])
def test_splits_are_as_asked_for_and_balanced(name: str):
    task = load_task(name, image_size=32, **SMALL)
    assert [len(split) for split in splits(task)] == list(SMALL.values())
    for split in splits(task):
        assert split.images.shape == (len(split), 3, 32, 32)
        assert split.images.min() >= 0
        assert split.images.max() <= 1
        counts = torch.bincount(split.labels, minlength=len(task.classes))
        assert counts.max() - counts.min() <= (2 if name == "digits" else 1)
    assert all(template.count("{}") == 1 for template in task.templates)


@pytest.mark.parametrize("name", ["digits", "attributes:texture"])
def test_the_seed_decides_everything(name: str):
    first, again = load_task(name, image_size=32, seed=3, **SMALL), load_task(name, image_size=32, seed=3, **SMALL)
    other = load_task(name, image_size=32, seed=4, **SMALL)
    for mine, same, different in zip(splits(first), splits(again), splits(other), strict=True):
        assert torch.equal(mine.images, same.images)
        assert torch.equal(mine.labels, same.labels)
        assert not torch.equal(mine.images, different.images)


@pytest.mark.parametrize("name", ["digits", "attributes:colour"])
def test_splits_share_no_image(name: str):
    task = load_task(name, image_size=32, **SMALL)
    images = torch.cat([split.images.flatten(1) for split in splits(task)])
    assert len(images.unique(dim=0)) == sum(SMALL.values())


def test_attributes_and_seeds_do_not_share_scenes():
    images = [
        load_task(name, image_size=32, seed=seed, **SMALL).train.images
        for name in ("attributes:size", "attributes:position")
        for seed in (0, 1)
    ]
    assert len(torch.cat(images).flatten(1).unique(dim=0)) == 4 * SMALL["n_train"]


def test_a_shift_shows_the_same_scenes():
    plain, inverted = (load_task(f"attributes:shape{shift}", image_size=32, **SMALL) for shift in ("", "@inverted"))
    assert torch.equal(plain.test.labels, inverted.test.labels)
    assert torch.allclose(plain.test.images, 1 - inverted.test.images, atol=1e-6)


def test_all_scans_are_used_at_most_once():
    task = load_task("digits", image_size=32, n_train=1000, n_validation=297, n_test=500)
    assert sum(len(split) for split in splits(task)) == 1797


def test_digits_are_white_on_black_in_the_middle():
    images = load_task("digits", image_size=32, **SMALL).train.images
    assert torch.equal(images[:, 0], images[:, 1])
    assert images[:, :, :2].max() == 0
    assert images[:, :, -2:].max() == 0
    assert images.amax((1, 2, 3)).min() > 0.8


@pytest.mark.parametrize(
    "name", ["mnist", "attributes:mood", "attributes:shape@oil", "attributes:texture@sketch", "shape"]
)
def test_unknown_names_list_what_is_known(name: str):
    with pytest.raises(InputError, match=r"'digits' or 'attributes:.*colour.*sketch"):
        load_task(name, image_size=32)


def test_empty_and_oversized_splits_are_refused():
    with pytest.raises(InputError, match=r"n_validation=0.*at least 1"):
        load_task("attributes:shape", image_size=32, n_validation=0)
    with pytest.raises(InputError, match=r"= 2250 images, expected at most 1797"):
        load_task("digits", image_size=32, n_train=1500)
    with pytest.raises(InputError, match=r"image_size=4.*at least 8"):
        load_task("digits", image_size=4)
