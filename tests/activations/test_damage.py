"""A file that is not what was written is named, and never gives other values."""

import json
import random
import shutil
import zlib

import h5py
import numpy as np
import pytest
import torch

from residual_lens.activations import Store, encode, extraction
from residual_lens.activations.blocks import BlockFile
from residual_lens.activations.hdf5 import CHECKSUMS, MARKS
from residual_lens.activations.shards import SHARDS, shard_path
from residual_lens.errors import MismatchError, StoreError
from tests.activations.stores import encoded, image_set, wrapped

IMAGES = 10
ARRAYS = ("heads/values", "heads/scales", "terms/values", "samples/status", "samples/label", "samples/embedding")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(extraction, "BLOCK_ROWS", 4)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A whole file, and the bytes of each of its arrays as a slice."""
    path = tmp_path_factory.mktemp("written") / "a.h5"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(extraction, "BLOCK_ROWS", 4)
        encoded(wrapped("ViT-B-16"), image_set(IMAGES, (32, 32)), path).close()
    places = {}
    with h5py.File(path) as file:

        def note(name, found):
            if isinstance(found, h5py.Dataset):
                places[name] = slice(found.id.get_offset(), found.id.get_offset() + found.nbytes)

        file.visititems(note)
    return path.read_bytes(), places


def everything(path) -> list[torch.Tensor | object]:
    with Store(path) as store:
        store.check()
        values = [store.decompose().values, store.embeddings(), store.labels, store.head_frames.mixing]
        return [*values, store.sample_ids, store.skipped_ids, store.provenance, store.layout]


def same(one, two) -> bool:
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(one, two, strict=True))


def test_a_flipped_bit_is_found_or_changes_nothing(written, tmp_path):
    whole, places = written
    path = tmp_path / "a.h5"
    path.write_bytes(whole)
    expected = everything(path)
    draw = random.Random(0)  # noqa: S311 - seeded, no secret
    data = {place for span in places.values() for place in range(span.start, span.stop)}
    bookkeeping = sorted(set(range(len(whole))) - data)
    named = refused = 0
    chosen = draw.sample(bookkeeping, 60) + [draw.randrange(s.start, s.stop) for s in places.values() for _ in range(3)]
    for place in [*range(0, 48, 3), *chosen]:
        raw = bytearray(whole)
        raw[place] ^= 1 << draw.randrange(8)
        path.write_bytes(raw)
        try:
            found = everything(path)
        except StoreError as error:
            named += "a.h5" in str(error)
            refused += 1
        else:
            assert place not in data, f"byte {place} of an array"
            assert same(found, expected), f"byte {place}"
    assert named == refused > 60


def test_a_file_that_was_cut_off_is_named(written, tmp_path):
    whole, _ = written
    path = tmp_path / "a.h5"
    for length in [0, 1, 100, *range(1000, len(whole), len(whole) // 15), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(StoreError, match=r"a\.h5 cannot be read as an activation store"):
            Store(path)


def test_a_file_that_is_cut_off_while_it_is_read_is_named(written, tmp_path):
    whole, places = written
    path = tmp_path / "a.h5"
    path.write_bytes(whole)
    with Store(path) as store:
        with path.open("r+b") as opened:
            opened.truncate(places["samples/embedding"].start + 10)
        with pytest.raises(StoreError, match=r"a\.h5 is damaged: samples/embedding, rows 0 to 3"):
            store.embeddings()


@pytest.fixture
def damaged(written, tmp_path):
    """Two pieces, a constant and the ids are not what was written."""
    whole, places = written
    raw = bytearray(whole)
    for name, place in (("heads/values", 0), ("terms/values", -1), ("weights/maps", 3), ("samples/id", 2)):
        raw[range(len(raw))[places[name]][place]] ^= 4
    path = tmp_path / "a.h5"
    path.write_bytes(raw)
    return path


def test_the_rest_of_a_damaged_file_can_be_read(damaged):
    with Store(damaged) as store:
        assert store.embeddings().isfinite().all()
        assert store.values("L0H0", rows=slice(4, 8)).isfinite().all()
        with pytest.raises(StoreError, match=r"heads/values\[0\], rows 0 to 3, is not what was written"):
            store.values("L0H0", rows=[1])


def test_a_check_lists_all_that_is_damaged(damaged):
    with Store(damaged) as store, pytest.raises(StoreError) as raised:
        store.check()
    lines = str(raised.value).splitlines()
    assert len(lines) == 4
    for name in ("weights/maps", "samples/id", "heads/values[0], rows 0 to 3", "terms/values[3], rows 8 to 9"):
        assert sum(name in line and "a.h5" in line for line in lines) == 1


@pytest.mark.parametrize("array", [MARKS, CHECKSUMS])
def test_damaged_bookkeeping_is_named_with_its_rows(written, tmp_path, array):
    whole, places = written
    raw = bytearray(whole)
    raw[places[array].start + 1] ^= 1
    path = tmp_path / "a.h5"
    path.write_bytes(raw)
    with pytest.raises(StoreError, match=r"a\.h5: rows 0 to 3 were not written, or their mark is damaged"):
        Store(path)


def other_hdf5(path):
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(3)
        file.attrs[SHARDS] = 5


def with_other_fields(part, **changes):
    """A whole file whose header has other fields, its checksum right."""

    def make(path):
        encoded(wrapped(), image_set(4), path).close()
        with h5py.File(path, "r+") as file:
            saved = json.loads(file["header"][()].tobytes())
            fields = saved["layout"] if part == "layout" else saved["about"][part]
            fields.update(changes)
            del fields["batch_size" if part == "provenance" else "n_heads"]
            del file["header"]
            raw = np.frombuffer(json.dumps(saved).encode(), np.uint8)
            file.create_dataset("header", data=raw).attrs["crc32"] = zlib.crc32(raw)

    return make


def of_another_version(path):
    encoded(wrapped(), image_set(4), path).close()
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 7


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "There is no file"),
        (lambda path: path.mkdir(), "There is no file"),
        (lambda path: path.write_bytes(b""), "cannot be read as an activation store"),
        (lambda path: path.write_text("layer,head\n" * 99), "cannot be read as an activation store"),
        (other_hdf5, "is an HDF5 file, but no activation store"),
        (of_another_version, "has format version 7, this library reads 1: use the version"),
        (
            with_other_fields("provenance", crop="centre", seed=1),
            "another version of residual_lens: its provenance has crop, seed that .* and lacks batch_size. Use that",
        ),
        (
            with_other_fields("layout"),
            "another version of residual_lens: its layout has nothing that .* and lacks n_heads. Use that",
        ),
    ],
    ids=["nothing", "folder", "empty", "text", "other HDF5", "version", "provenance", "layout"],
)
def test_what_is_no_store_is_refused(make, said, tmp_path):
    path = tmp_path / "a.h5"
    make(path)
    with pytest.raises(StoreError, match=rf"a\.h5.*{said}|{said}.*a\.h5"):
        Store(path)


@pytest.fixture
def sharded(tmp_path):
    """A store of two shards."""
    path = tmp_path / "a.h5"
    for process in (0, 1):
        encode(wrapped(), image_set(IMAGES), path, batch_size=4, process=process, n_processes=2)
    return path


def test_a_missing_shard_is_named(sharded):
    shard_path(sharded, 1, 2).unlink()
    with pytest.raises(StoreError, match=r"presents 2 shards; missing in its folder: a\.shard-2-of-2\.h5"):
        Store(sharded)


def test_a_damaged_index_is_named_and_can_be_made_anew(sharded):
    whole = sharded.read_bytes()
    expected = everything(sharded)
    draw = random.Random(1)  # noqa: S311 - seeded, no secret
    for place in [*range(0, 40, 5), *(draw.randrange(512, len(whole)) for _ in range(40)), len(whole) // 2]:
        raw = bytearray(whole)
        raw[place] ^= 1 << draw.randrange(8)
        sharded.write_bytes(raw)
        with pytest.raises(StoreError, match=r"a\.h5"):
            Store(sharded)
    sharded.unlink()
    images = image_set(IMAGES)
    encode(wrapped(), images, sharded, batch_size=4, process=1, n_processes=2)
    assert same(everything(sharded), expected)


def test_a_shard_of_another_run_is_refused(sharded, tmp_path):
    other = tmp_path / "other" / "a.h5"
    for process in (0, 1):
        encode(wrapped(), image_set(IMAGES, name="others"), other, batch_size=4, process=process, n_processes=2)
    shutil.copy(shard_path(other, 1, 2), shard_path(sharded, 1, 2))
    with pytest.raises(MismatchError, match="are not of one run: data is others, not noise"):
        Store(sharded)
    shutil.copy(shard_path(sharded, 0, 2), shard_path(sharded, 1, 2))
    with pytest.raises(StoreError, match="do not follow one another"):
        Store(sharded)


def test_a_finished_shard_of_another_run_is_not_taken_up(sharded):
    sharded.unlink()
    with pytest.raises(MismatchError, match=r"shard-1-of-2\.h5 was begun with something else: data is noise"):
        encode(wrapped(), image_set(IMAGES, name="others"), sharded, batch_size=4, process=0, n_processes=2)
    assert not sharded.exists()


def test_shards_outside_of_the_folder_are_refused(sharded, monkeypatch):
    names = json.dumps(["../a.shard-1-of-2.h5"])
    with h5py.File(sharded, "r+") as file:
        file.attrs[SHARDS] = np.bytes_(names)
    monkeypatch.setattr("residual_lens.activations.shards._seal", lambda path: path.read_bytes()[:512])
    with pytest.raises(StoreError, match="names a shard outside of its folder"):
        Store(sharded)


def test_a_disk_that_cannot_be_read_is_named(written, tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    path.write_bytes(written[0])
    with Store(path) as store:

        def fails(*_):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr("os.preadv", fails)
        monkeypatch.setattr("os.pread", fails)
        with pytest.raises(StoreError, match=r"a\.h5 cannot be read: Input/output error"):
            store.embeddings()
        with pytest.raises(StoreError, match=r"a\.h5 cannot be read: Input/output error"):
            BlockFile(path)
