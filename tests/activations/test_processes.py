"""Several processes write what one would have written."""

import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch

from residual_lens.activations import Store, encode, extraction
from residual_lens.activations.shards import present, shard_blocks, shard_path
from residual_lens.activations.writer import alone_with, partial_of
from residual_lens.errors import StoreError
from tests.activations.disk import full_after
from tests.activations.stores import encoded, image_set, source_of, wrapped

IMAGES = 18


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(extraction, "BLOCK_ROWS", 4)


def encode_part(path, process, n_processes, images=None, **arguments):
    images = images or image_set(IMAGES)
    return encode(wrapped(), images, path, batch_size=4, process=process, n_processes=n_processes, **arguments)


def arrays(path):
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, node: found.update({name: node[()]}) if isinstance(node, h5py.Dataset) else None)
    return found


def assert_equal_to_one_process(path, tmp_path):
    one = tmp_path / "one.h5"
    with encoded(wrapped(), image_set(IMAGES), one) as expected, Store(path) as store:
        assert torch.equal(store.decompose().values, expected.decompose().values)
        assert torch.equal(store.embeddings(), expected.embeddings())
        assert torch.equal(store.labels, expected.labels)
        assert store.sample_ids == expected.sample_ids
        assert store.layout == expected.layout
        assert [places.tolist() for places in store.blocks()] == [places.tolist() for places in expected.blocks()]
        store.check()
    plain = arrays(one)
    del plain["header"]
    presented = arrays(path)
    assert presented.keys() == plain.keys()
    for name, values in plain.items():
        assert np.array_equal(presented[name], values), name


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (2, 0, 1)])
def test_shards_are_one_store_in_whatever_order_they_are_written(tmp_path, order):
    path = tmp_path / "a.h5"
    *first, last = order
    for process in first:
        assert encode_part(path, process, len(order)) is None
        with pytest.raises(StoreError, match="is not finished: of"):
            Store(path)
    store = encode_part(path, last, len(order))
    assert store is not None
    store.close()
    assert_equal_to_one_process(path, tmp_path)
    images = image_set(IMAGES)
    assert encode_part(path, 0, len(order), images) is not None
    assert len(encoded(wrapped(), images, path)) == IMAGES
    assert not source_of(images).asked


def test_the_folder_can_be_moved(tmp_path):
    folder = tmp_path / "there"
    for process in (0, 1):
        encode_part(folder / "a.h5", process, 2)
    folder.rename(tmp_path / "elsewhere")
    assert_equal_to_one_process(tmp_path / "elsewhere" / "a.h5", tmp_path)


def test_a_shard_that_was_stopped_goes_on(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    with monkeypatch.context() as patched:
        patched.setattr("os.pwrite", full_after(5_000))
        with pytest.raises(StoreError, match="No space"):
            encode_part(path, 1, 2)
    assert partial_of(shard_path(path, 1, 2)).exists()
    encode_part(path, 0, 2)
    assert not path.exists()
    encode_part(path, 1, 2)
    assert_equal_to_one_process(path, tmp_path)


@pytest.mark.parametrize("name", ["a.h5", "best-of-3.h5", "a.shard-1-of-2[x].h5", "no suffix"])
def test_another_number_of_processes_is_refused(tmp_path, name):
    path = tmp_path / name
    encode_part(path, 0, 2)
    for count in (1, 3):
        with pytest.raises(StoreError, match="was begun by 2 processes: go on with as many, or delete its shards"):
            encode_part(path, 0, count)
    assert encode_part(path, 1, 2) is not None


def test_what_one_process_began_is_not_gone_on_with_by_two(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    with monkeypatch.context() as patched:
        patched.setattr("os.pwrite", full_after(5_000))
        with pytest.raises(StoreError, match="No space"):
            encode_part(path, 0, 1)
    with pytest.raises(StoreError, match="was begun by one process: go on with one"):
        encode_part(path, 0, 2)


def test_locks_left_by_a_kill_do_not_count_as_shards(tmp_path):
    (tmp_path / "a.shard-1-of-3.h5.lock").touch()
    encode_part(tmp_path / "a.h5", 0, 1)


def test_presenting_what_is_presented_changes_nothing(tmp_path):
    path = tmp_path / "a.h5"
    for process in (0, 1):
        encode_part(path, process, 2)
    before = path.stat().st_mtime_ns
    present(path, [shard_path(path, process, 2) for process in (0, 1)])
    assert path.stat().st_mtime_ns == before
    with alone_with(path):
        pass
    assert {file.suffix for file in tmp_path.iterdir()} == {".h5"}


@pytest.mark.parametrize("n_blocks", [1, 2, 7, 79])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_block_has_one_writer(n_blocks, count):
    parts = [shard_blocks(n_blocks, index, count) for index in range(count)]
    assert [block for part in parts for block in part] == list(range(n_blocks))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.slow
def test_two_processes_that_accelerate_starts(tmp_path):
    command = ["encode", "--model", "attribute-clip", "--data", "digits", "--limit", "96", "--device", "cpu", "--out"]
    library = [sys.executable, "-m", "residual_lens"]
    # That many processes, on whatever device; with --cpu accelerate starts one.
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--module"]
    for start, name in ((library, "one.h5"), ([*launch, "residual_lens"], "two.h5")):
        subprocess.run([*start, *command, str(tmp_path / name)], check=True, capture_output=True, timeout=300)  # noqa: S603 - our own command
    assert shard_path(tmp_path / "two.h5", 1, 2).exists()
    with Store(tmp_path / "one.h5") as one, Store(tmp_path / "two.h5") as two:
        assert torch.equal(one.decompose().values, two.decompose().values)
        assert one.sample_ids == two.sample_ids
