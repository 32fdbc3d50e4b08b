"""Splits of a run: published ones as they are, others made by us; few shots; refusals."""

from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image

from residual_lens.data.images import open_images
from residual_lens.errors import InputError
from residual_lens.training.runs import Resources, RunConfig
from residual_lens.training.runs.data import Splits, few_shot_rows, open_splits
from tests.data import fake_sets
from tests.data.test_hugging_face_sets import png
from tests.training.runs.places import write_tree

FEATURES = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})


def opened(data: str, root: Path | None = None, **settings: object) -> Splits:
    config = RunConfig("attribute-clip", data, "zero-shot", **settings)  # pyright: ignore
    return open_splits(config, Resources(root=root), 32)


def ids(images) -> set[str]:
    return {images.sample_id(row) for row in range(len(images))}


def sizes(splits: Splits) -> tuple[int, int, int]:
    return len(splits.train), len(splits.validation), len(splits.test)


def test_drawn_and_published_splits_are_those_of_open_images(tmp_path):
    digits = opened("digits")
    assert sizes(digits) == (1437, 180, 180)
    assert digits.train.fingerprint() == open_images("digits", image_size=32).fingerprint()
    fake_sets.eurosat(tmp_path, n=20)
    euro = opened("eurosat", tmp_path, data_seed=1)
    assert sizes(euro) == (48, 6, 6)
    assert ids(euro.test) == ids(open_images("eurosat", split="test", root=tmp_path, seed=1))


def test_the_limit_holds_for_each_split_with_every_class_in_proportion():
    splits = opened("digits", limit=100)
    assert sizes(splits) == (100, 100, 100)
    assert np.bincount(splits.train.labels).tolist() == [10] * 10
    assert sizes(opened("digits", limit=1000)) == (1000, 180, 180)
    assert ids(splits.train) != ids(opened("digits", limit=100, data_seed=1).train)
    drawn = opened("attributes:shape", limit=16)
    assert drawn.train.fingerprint() == open_images("attributes:shape", limit=16, image_size=32).fingerprint()


def test_the_limit_holds_for_splits_made_by_us(tmp_path):
    splits = opened(f"folder:{write_tree(tmp_path, {'': 20})}", limit=30)
    assert sizes(splits) == (30, 6, 6)
    assert np.bincount(splits.train.labels).tolist() == [10] * 3


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        ({"": 20}, (48, 6, 6)),
        ({"train": 20}, (48, 6, 6)),
        ({"train": 20, "val": 5}, (54, 6, 15)),
        ({"train": 20, "test": 5}, (54, 6, 15)),
        ({"train": 10, "valid": 3, "test": 5}, (30, 9, 15)),
    ],
)
def test_what_a_folder_lacks_is_taken_from_its_training_images(tmp_path, published, expected):
    data = f"folder:{write_tree(tmp_path / 'tree', published)}"
    splits = opened(data)
    parts = [splits.train, splits.validation, splits.test]
    assert sizes(splits) == expected
    assert len(set.union(*map(ids, parts))) == sum(expected)
    assert all(len(set(np.bincount(images.labels).tolist())) == 1 for images in parts)
    assert len({images.fingerprint() for images in parts}) == 3
    again = opened(data)
    assert [images.fingerprint() for images in (again.train, again.test)] == [
        images.fingerprint() for images in (splits.train, splits.test)
    ]


def saved(folder: Path, **splits: int) -> str:
    rows = {
        name: Dataset.from_dict(
            {"image": [png(100 * place + i) for i in range(n)], "label": [i % 2 for i in range(n)]}, features=FEATURES
        )
        for place, (name, n) in enumerate(splits.items())
    }
    DatasetDict(rows).save_to_disk(folder)
    return f"hf:{folder}"


@pytest.mark.parametrize(
    ("published", "expected"),
    [({"train": 40}, (32, 4, 4)), ({"train": 40, "val": 10}, (36, 4, 10)), ({"train": 40, "test": 10}, (36, 4, 10))],
)
def test_what_a_repository_lacks_is_taken_from_its_training_images(tmp_path, published, expected):
    assert sizes(opened(saved(tmp_path / "set", **published))) == expected


def test_other_failures_of_a_repository_are_not_taken_for_a_missing_split(tmp_path, monkeypatch):
    data = saved(tmp_path / "set", train=40, validation=10, test=10)
    assert sizes(opened(data)) == (40, 10, 10)
    load, calls = datasets.load_from_disk, []

    def fails_later(path):
        calls.append(path)
        if len(calls) > 1:
            raise FileNotFoundError("the disk does not have it")
        return load(path)

    monkeypatch.setattr(datasets, "load_from_disk", fails_later)
    with pytest.raises(InputError, match="the disk does not have it"):
        opened(data)


def test_few_shots_are_so_many_of_each_class_by_seed():
    images = opened("digits").train
    rows = few_shot_rows(images, 4, 0)
    assert np.bincount(images.labels[rows]).tolist() == [4] * 10
    assert len(set(rows)) == 40
    assert rows.tolist() == sorted(rows)
    assert rows.tolist() == few_shot_rows(images, 4, 0).tolist()
    assert rows.tolist() != few_shot_rows(images, 4, 1).tolist()


def test_more_shots_than_images_are_refused(tmp_path):
    write_tree(tmp_path, {"": 15})
    write_tree(tmp_path, {"": 4}, ["three"])
    images = open_images(f"folder:{tmp_path}")
    assert len(few_shot_rows(images, 4, 0)) == 16
    with pytest.raises(InputError, match=r"shots=5 .* fewer of 'three \(4\)'"):
        few_shot_rows(images, 5, 0)


def test_unlabelled_images_are_refused(tmp_path):
    for name in ("train", "test"):
        fake_sets.write(tmp_path / "flat" / f"{name}.png", 0)
    with pytest.raises(InputError, match=r"flat/train has 2 of 2 images without a label, 0 classes"):
        opened(f"folder:{tmp_path / 'flat'}", limit=2)
    with pytest.raises(InputError, match="attributes/train has 20000 of 20000 images without a label"):
        opened("attributes", limit=20)


def test_a_single_class_is_refused(tmp_path):
    tree = write_tree(tmp_path / "tree", {"": 10}, ["one"])
    with pytest.raises(InputError, match="at least two classes"):
        opened(f"folder:{tree}")


def test_classes_without_training_images_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"digits/train has no images of 5 of 10 classes: .*raise the limit"):
        opened("digits", limit=5)
    tree = write_tree(tmp_path / "tree", {"train": 5, "val": 2, "test": 2})
    (tree / "train" / "nine").mkdir()
    with pytest.raises(InputError, match="nine"):
        opened(f"folder:{tree}")


def test_splits_of_other_classes_are_refused(tmp_path):
    tree = write_tree(tmp_path / "tree", {"train": 5, "val": 2, "test": 2})
    (tree / "test" / "two").rename(tree / "test" / "three")
    with pytest.raises(InputError, match=r"tree/test has the classes .*'three'.*, the training split .*'two'"):
        opened(f"folder:{tree}")


@pytest.mark.parametrize("data", ["digit", "folder:nowhere", "eurosat"])
def test_data_that_are_not_there_are_refused(tmp_path, data):
    with pytest.raises(InputError):
        opened(data, tmp_path)


def test_columns_and_seed_reach_open_images(tmp_path, monkeypatch):
    from residual_lens.training.runs import data as module

    calls = []
    real = module.open_images
    monkeypatch.setattr(module, "open_images", lambda name, **given: calls.append(given) or real("digits"))
    config = RunConfig("attribute-clip", "hf:org/set", "zero-shot", image_column="image", label_column="kind")
    open_splits(replace(config, data_seed=7), Resources(root=tmp_path, download=True), 24)
    expected = {"root": tmp_path, "download": True, "seed": 7, "image_size": 24}
    expected |= {"image_column": "image", "label_column": "kind"}
    assert all(expected.items() <= given.items() for given in calls)
    assert [given["split"] for given in calls] == ["train", "validation", "test"]
