"""A run that is stopped at any moment goes on where it was, and ends in the same file as one that was not."""

import errno
import os
import random

import pytest
import torch

from residual_lens.activations import Store, encode, extraction
from residual_lens.activations.blocks import BlockFile
from residual_lens.activations.hdf5 import CHECKSUMS, MARKS
from residual_lens.activations.writer import partial_of
from residual_lens.errors import StoreError
from tests.activations.disk import BATCH, BLOCK_ROWS, IMAGES, failing, full_after, in_a_process
from tests.activations.stores import encoded, image_set, source_of, wrapped


@pytest.fixture
def hvit():
    return wrapped("ViT-B-16")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(extraction, "BLOCK_ROWS", BLOCK_ROWS)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Bytes of a file whose run was not disturbed, and the calls to the system that made it."""
    path = tmp_path_factory.mktemp("undisturbed") / "a.h5"
    code, calls = in_a_process(path)
    assert code == 0
    assert sorted(file.name for file in path.parent.iterdir()) == ["a.h5", "durable", "ready", "stderr"]
    return path.read_bytes(), calls


def moments(calls: list[str], n: int) -> list[int]:
    """Every call that is no write of data, and some of those; 1 is the first."""
    telling = {place for place, name in enumerate(calls, 1) if name != "pwrite"}
    # The last writes before a wait for the disk: checksums, and mark.
    telling |= {place - 1 for place in telling if calls[place - 1] == "fsync"} - {0}
    others = sorted(set(range(1, len(calls) + 1)) - telling)
    return sorted(telling | set(random.Random(42).sample(others, n)))  # noqa: S311 - seeded, no secret


def assert_resumes(hvit, path, undisturbed, *, was_durable) -> None:
    """The file that is there, completed, is that of the undisturbed run; what was called durable is not done again."""
    images = image_set(IMAGES, (32, 32))
    encoded(hvit, images, path, batch_size=BATCH).close()
    assert path.read_bytes() == undisturbed
    assert not partial_of(path).exists()
    again = {row // BLOCK_ROWS for row in source_of(images).asked}
    assert not again & was_durable


@pytest.mark.slow
@pytest.mark.parametrize("power_cut", [False, True], ids=["killed", "power cut"])
def test_a_run_that_ends_at_any_call_to_the_system_is_resumed(hvit, tmp_path, undisturbed, power_cut):
    whole, calls = undisturbed
    # A kill leaves every write: there is less to tell apart.
    for moment in moments(calls, 12)[:: 1 if power_cut else 3]:
        path = tmp_path / f"{moment}" / "a.h5"
        code, _ = in_a_process(path, moment, power_cut=power_cut)
        assert code == -9, f"call {moment} of {len(calls)}: exit code {code}"
        notes = path.with_name("durable")
        noted = {int(line) for line in notes.read_text().split()} if notes.exists() else set()
        if not path.exists() and partial_of(path).exists():
            file = BlockFile(partial_of(path))
            assert file.committed[sorted(noted)].all()
            file.close()
        assert_resumes(hvit, path, whole, was_durable=noted)


@pytest.mark.slow
def test_shards_are_presented_after_a_power_cut_on_the_way(tmp_path):
    whole = tmp_path / "whole" / "a.h5"
    _, calls = in_a_process(whole, shard_count=2)
    with Store(whole) as store:
        expected = store.decompose().values
    last = len(calls) - calls[::-1].index("pwrite")
    assert "write_index" in calls[last:]
    for moment in range(last, len(calls) + 1):
        path = tmp_path / f"{moment}" / "a.h5"
        assert in_a_process(path, moment, power_cut=True, shard_count=2)[0] == -9
        code, _ = in_a_process(path, shard_count=2)
        assert code == 0, path.with_name("stderr").read_text()
        with Store(path) as store:
            assert torch.equal(store.decompose().values, expected)


def test_marks_that_only_memory_holds_are_made_durable_before_they_count(hvit, tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full_after(4567))
        with pytest.raises(StoreError, match="No space"):
            encode(hvit, image_set(IMAGES, (32, 32)), path, batch_size=BATCH)
    order = []
    fsync, pread = os.fsync, os.pread
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("fsync"), fsync(fd)))
    monkeypatch.setattr(os, "pread", lambda *a: (order.append("pread"), pread(*a))[1])
    file = BlockFile(partial_of(path), writable=True)
    assert file.rows_committed() > 0
    assert order[0] == "fsync"
    file.close()


@pytest.mark.parametrize("room", [0, 1, 3456, 4567])
def test_a_disk_that_fills_up_leaves_what_was_written(hvit, tmp_path, monkeypatch, undisturbed, room, caplog):
    path, images = tmp_path / "a.h5", image_set(IMAGES, (32, 32))
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full_after(room))
        with pytest.raises(StoreError, match=r"a\.h5\.partial could not be written: No space .* of 10 rows are safe"):
            encode(hvit, images, path, batch_size=BATCH)
    assert not path.exists()
    assert "rows are safe; run the same command again to go on" in caplog.text
    assert_resumes(hvit, path, undisturbed[0], was_durable=set())


def test_short_writes_are_completed(hvit, tmp_path, monkeypatch, undisturbed):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, raw, offset: pwrite(fd, bytes(raw)[:7], offset))
    assert_resumes(hvit, tmp_path / "a.h5", undisturbed[0], was_durable=set())


@pytest.mark.parametrize("call", ["os.posix_fallocate", "h5py.Group.create_dataset"])
def test_no_room_at_the_beginning_is_said_before_the_model_runs(hvit, tmp_path, monkeypatch, undisturbed, call):
    path, images = tmp_path / "a.h5", image_set(IMAGES, (32, 32))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(call, full)
        with pytest.raises(StoreError, match=r"GiB could not be made: .*No space left.*Nothing was written"):
            encode(hvit, images, path, batch_size=BATCH)
    assert not source_of(images).asked
    assert not list(tmp_path.glob("*.h5*"))
    assert_resumes(hvit, path, undisturbed[0], was_durable=set())


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_that_cannot_promise_space_will_do(hvit, tmp_path, monkeypatch, undisturbed, code):
    def refuses(*_):
        raise OSError(code, "not here")

    monkeypatch.setattr(os, "posix_fallocate", refuses)
    assert_resumes(hvit, tmp_path / "a.h5", undisturbed[0], was_durable=set())


# The file and its folder come first, then data and mark of each block.
@pytest.mark.parametrize(("time", "safe"), [(4, 0), (5, 0), (6, 4), (7, 4)])
def test_what_the_disk_did_not_keep_is_written_again(hvit, tmp_path, monkeypatch, undisturbed, time, safe):
    path, images = tmp_path / "a.h5", image_set(IMAGES, (32, 32))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing(time, os.fsync))
        with pytest.raises(StoreError, match=f"Input/output error. {safe} of 10 rows are safe"):
            encode(hvit, images, path, batch_size=BATCH)
    # Memory may still hold a mark that the disk refused.
    file = BlockFile(partial_of(path))
    assert file.rows_committed() == safe
    file.close()
    assert_resumes(hvit, path, undisturbed[0], was_durable=set())


@pytest.fixture
def interrupted(hvit, tmp_path, monkeypatch):
    """A store whose second block was computed when Ctrl-C came."""
    path, images = tmp_path / "a.h5", image_set(IMAGES, (32, 32))
    image = type(source_of(images)).image

    def pressed(source, index):
        if index == 2 * BLOCK_ROWS:
            raise KeyboardInterrupt
        return image(source, index)

    with monkeypatch.context() as patched:
        patched.setattr(type(source_of(images)), "image", pressed)
        with pytest.raises(KeyboardInterrupt):
            encode(hvit, images, path, batch_size=BATCH)
    return path


def test_an_interruption_says_what_is_safe_and_how_to_go_on(hvit, interrupted, undisturbed, caplog):
    (warned,) = [record.getMessage() for record in caplog.get_records("setup")]
    assert warned.endswith("a.h5.partial: 8 of 10 rows are safe; run the same command again to go on.")
    with pytest.raises(StoreError, match=r"not finished: 8 of 10 rows are written. Run the same encode command again"):
        Store(interrupted)
    assert_resumes(hvit, interrupted, undisturbed[0], was_durable={0, 1})


@pytest.mark.parametrize("array", [MARKS, CHECKSUMS])
def test_a_block_whose_mark_or_checksums_are_torn_is_written_again(hvit, interrupted, undisturbed, array):
    file = BlockFile(partial_of(interrupted), writable=True)
    os.pwrite(file._open_fd, b"\x55\x55", file._offsets[array] + 2)
    file.close()
    file = BlockFile(partial_of(interrupted))
    assert file.committed.tolist() == [False, True, False]
    file.close()
    assert_resumes(hvit, interrupted, undisturbed[0], was_durable={1})


def test_what_was_begun_and_is_damaged_is_not_gone_on_with(hvit, interrupted):
    file = BlockFile(partial_of(interrupted))
    weights = file.constant("weights/maps").tobytes()
    file.close()
    partial = partial_of(interrupted)
    raw = bytearray(partial.read_bytes())
    raw[raw.index(weights) + 5] ^= 1
    partial.write_bytes(raw)
    with pytest.raises(StoreError, match=r"a\.h5\.partial is damaged: weights/maps"):
        encode(hvit, image_set(IMAGES, (32, 32)), interrupted, batch_size=BATCH)


def test_a_killed_run_leaves_no_lock_even_while_its_workers_live_on(hvit, tmp_path, undisturbed):
    whole, calls = undisturbed
    path = tmp_path / "a.h5"
    code, _ = in_a_process(path, len(calls) - 3, workers=2)
    assert code == -9
    assert_resumes(hvit, path, whole, was_durable={0, 1})
