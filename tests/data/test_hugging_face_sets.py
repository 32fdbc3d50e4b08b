"""Hugging Face data sets without a network: saved to disk, and a builder that stands in for the hub."""

import io
import pickle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

from residual_lens.data import CorruptImageError, open_images
from residual_lens.data.images.hugging_face import HUGGING_FACE
from residual_lens.errors import InputError
from tests.data.fake_sets import picture

FEATURES = Features({"image": Image(), "label": ClassLabel(names=["art_painting", "photo"]), "domain": Value("string")})


def png(seed: int) -> dict[str, Any]:
    stream = io.BytesIO()
    picture(seed).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": f"{seed}.png"}


def rows(n: int, start: int = 0, **columns: list[Any]) -> Dataset:
    values = {
        "image": [png(start + index) for index in range(n)],
        "label": [index % 2 for index in range(n)],
        "domain": ["x"] * n,
    }
    return Dataset.from_dict({**values, **columns}, features=FEATURES)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    DatasetDict({"train": rows(6), "val": rows(4, 100), "test": rows(2, 200)}).save_to_disk(tmp_path / "paintings")
    return tmp_path / "paintings"


def test_a_saved_data_set(saved: Path):
    sets = [open_images(f"hf:{saved}", split=split) for split in ("train", "validation", "test")]
    assert [len(images) for images in sets] == [6, 4, 2]
    assert sets[1].name == "hf:paintings"
    assert sets[1].classes == ("art painting", "photo")
    assert sets[1].labels.tolist() == [0, 1, 0, 1]
    assert sets[1].sample_id(3) == "val/00003"
    assert sets[1][3][1] == 1
    assert np.array_equal(np.asarray(sets[1][3][0]), np.asarray(picture(103)))
    assert pickle.loads(pickle.dumps(sets[2])).fingerprint() == sets[2].fingerprint()  # noqa: S301


def test_rows_that_were_filtered_or_formatted_stay_in_step(tmp_path: Path):
    chosen = rows(10).select([7, 2, 4]).with_format("numpy")
    chosen.save_to_disk(tmp_path / "few")
    images = open_images(f"hf:{tmp_path}/few")
    assert images.labels.tolist() == [1, 0, 0]
    assert np.array_equal(np.asarray(images[0][0]), np.asarray(picture(7)))


def test_a_single_dataset_is_all_train(tmp_path: Path):
    rows(3).save_to_disk(tmp_path / "one")
    assert len(open_images(f"hf:{tmp_path}/one")) == 3
    with pytest.raises(InputError, match=r"got split='test', which hf:one does not have; it has train"):
        open_images(f"hf:{tmp_path}/one", split="test")


def test_ambiguous_columns_are_an_error_that_lists_them(tmp_path: Path):
    features = Features(
        {"img": Image(), "thumb": Image(), "fine": ClassLabel(names=["a", "b"]), "coarse": ClassLabel(names=["c"])}
    )
    values = {"img": [png(0), png(1)], "thumb": [png(2), png(3)], "fine": [1, 0], "coarse": [0, 0]}
    Dataset.from_dict(values, features=features).save_to_disk(tmp_path / "both")
    name = f"hf:{tmp_path}/both"
    with pytest.raises(InputError, match=r"2 columns of type Image: say image_column=img or thumb"):
        open_images(name)
    with pytest.raises(InputError, match=r"2 columns of type ClassLabel: say label_column=fine or coarse"):
        open_images(name, image_column="img")
    with pytest.raises(InputError, match=r"got label_column='medium', expected a column of .*img, thumb, fine, coarse"):
        open_images(name, image_column="img", label_column="medium")
    images = open_images(name, image_column="thumb", label_column="fine")
    assert images.classes == ("a", "b")
    assert np.array_equal(np.asarray(images[1][0]), np.asarray(picture(3)))


def test_without_a_class_column_images_are_unlabelled_unless_one_is_named(tmp_path: Path):
    features = Features({"image": Image(), "digit": Value("int64"), "note": Value("string")})
    values = {"image": [png(0), png(1)], "digit": [2, 0], "note": ["x", "y"]}
    Dataset.from_dict(values, features=features).save_to_disk(tmp_path / "plain")
    name = f"hf:{tmp_path}/plain"
    assert open_images(name).labels.tolist() == [-1, -1]
    numbered = open_images(name, label_column="digit")
    assert (numbered.classes, numbered.labels.tolist()) == (("0", "1", "2"), [2, 0])
    with pytest.raises(InputError, match=r"label_column='note' .*expected ClassLabel or integers"):
        open_images(name, label_column="note")
    Dataset.from_dict({"text": ["x"]}).save_to_disk(tmp_path / "text")
    with pytest.raises(InputError, match=r"no column of type Image; its columns are {'text': 'Value'}"):
        open_images(f"hf:{tmp_path}/text")


def test_damaged_images_are_named(tmp_path: Path):
    whole = png(0)
    images = [{"bytes": whole["bytes"][:150], "path": "cut.png"}, {"bytes": b"?", "path": None}, None, whole]
    rows(4, image=images).save_to_disk(tmp_path / "damaged")
    opened = open_images(f"hf:{tmp_path}/damaged")
    for row, message in enumerate([r"train/00000 \(cut.png\): cannot be decoded", r"00001: no image", r"no image\."]):
        with pytest.raises(CorruptImageError, match=rf"hf:damaged, train/0000{row}"):
            opened[row]
        with pytest.raises(CorruptImageError, match=message):
            opened[row]
    assert opened[3][0].mode == "RGB"


def test_rows_that_only_point_at_files(tmp_path: Path):
    picture(5).save(tmp_path / "a.png")
    values = {"image": [str(tmp_path / "a.png"), str(tmp_path / "b.png")]}
    images = Dataset.from_dict(values, features=Features({"image": Image()}))
    # Saving would copy the files into the rows.
    from residual_lens.data.images.hugging_face import HuggingFaceSource

    source = HuggingFaceSource(images, "image", "train", "hf:files")
    assert np.array_equal(np.asarray(source.image(0)), np.asarray(picture(5)))
    with pytest.raises(CorruptImageError, match=r"b.png: no such file"):
        source.image(1)


class Hub:
    """Stands in for `load_dataset_builder`: serves parquet files from a folder and writes down what was asked."""

    def __init__(self, folder: Path, parts: dict[str, Dataset]) -> None:
        self.files = {part: str(folder / f"{part}.parquet") for part in parts}
        for part, content in parts.items():
            content.to_parquet(self.files[part])
        self.asked: list[tuple[str, str | None, str | None]] = []
        self.real = datasets.load_dataset_builder

    def __call__(self, path: str, name: str | None, *, revision: str | None, cache_dir: str | None) -> Any:
        self.asked.append((path, name, revision))
        return self.real("parquet", data_files=self.files, cache_dir=cache_dir)


@pytest.mark.parametrize("name", ["pacs", "imagenet-sketch"])
def test_published_as_one_and_split_three_ways(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hub = Hub(tmp_path, {"train": rows(40)})
    monkeypatch.setattr(datasets, "load_dataset_builder", hub)
    cache = tmp_path / "cache"
    sets = [open_images(name, split=s, root=cache, download=True) for s in ("train", "validation", "test")]
    assert hub.asked[0] == HUGGING_FACE[name]._replace()
    assert [len(images) for images in sets] == [32, 4, 4]
    assert all(images.name == name for images in sets)
    assert len({images.sample_id(row) for images in sets for row in range(len(images))}) == 40
    assert [np.bincount(images.labels).tolist() for images in sets] == [[16, 16], [2, 2], [2, 2]]


def test_repositories_keep_their_own_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hub = Hub(tmp_path, {"train": rows(6), "validation": rows(4), "test": rows(2)})
    monkeypatch.setattr(datasets, "load_dataset_builder", hub)
    cache = tmp_path / "cache"
    images = open_images("resisc45", split="validation", root=cache, download=True)
    assert (len(images), images.sample_id(0)) == (4, "validation/00000")
    assert open_images("hf:org/repo@large", split="test", root=cache).name == "hf:org/repo@large"
    assert hub.asked == [("timm/resisc45", None, None), ("org/repo", "large", None)]


def test_nothing_is_fetched_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets, "load_dataset_builder", Hub(tmp_path, {"train": rows(4)}))
    with pytest.raises(InputError, match=r"org/repo cannot be opened .*could not find data .*Pass download=True"):
        open_images("hf:org/repo", root=tmp_path / "cache")


@pytest.mark.parametrize("error", [ConnectionError("offline"), datasets.exceptions.DatasetNotFoundError("offline")])
def test_an_unreachable_hub_is_an_error_of_ours(error: Exception, monkeypatch: pytest.MonkeyPatch):
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset_builder", fail)
    with pytest.raises(
        InputError, match=r"org/repo cannot be opened from Hugging Face \(offline\)\. Is the name right"
    ):
        open_images("hf:org/repo", download=True)


def test_a_folder_that_was_not_saved_by_datasets_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"expected one that datasets' save_to_disk wrote"):
        open_images(f"hf:{tmp_path}")
