"""Real signals to real processes at moments of their own, and several processes at once."""

import errno
import os
import random
import signal
import subprocess
import time

import pytest
import torch

from residual_lens.activations import Store, encode, extraction
from residual_lens.activations.blocks import BlockFile
from residual_lens.activations.writer import partial_of
from residual_lens.errors import StoreError
from tests.activations.disk import BLOCK_ROWS, IMAGES, a_process, in_a_process, wait_for
from tests.activations.stores import encoded, image_set, wrapped

KILLS = 20


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(extraction, "BLOCK_ROWS", BLOCK_ROWS)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Bytes of a file whose run was not disturbed, and the seconds that it took."""
    path = tmp_path_factory.mktemp("undisturbed") / "a.h5"
    in_a_process(path.with_name("warm.h5"))
    with a_process(path) as (process, _):
        wait_for(path.with_name("ready").exists)
        start = time.monotonic()
        process.join()
        seconds = time.monotonic() - start
    return path.read_bytes(), seconds


def killed_after(path, seconds: float) -> bool:
    """Go on with a store and kill it after some time; whether it was still at work."""
    with a_process(path) as (process, _):
        wait_for(path.with_name("ready").exists)
        time.sleep(seconds)
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), path.with_name("stderr").read_text()
        return process.exitcode != 0


def test_runs_that_are_killed_at_any_time_end_in_the_same_file(tmp_path, undisturbed):
    whole, seconds = undisturbed
    draw = random.Random(11)  # noqa: S311 - seeded, no secret
    # Over the whole length of a run, the making of the file included.
    delays = [seconds * (kill + draw.random()) / KILLS for kill in range(KILLS)]
    draw.shuffle(delays)
    kills, stores = 0, 0
    path = tmp_path / "0" / "a.h5"
    while kills < KILLS:
        if killed_after(path, delays[kills % KILLS] * draw.uniform(0.5, 1)):
            kills += 1
        if path.exists():
            assert path.read_bytes() == whole
            stores += 1
            path = tmp_path / f"{stores}" / "a.h5"
        elif partial_of(path).exists():
            BlockFile(partial_of(path)).close()
    assert in_a_process(path)[0] == 0
    assert path.read_bytes() == whole
    assert sorted(file.name for file in path.parent.glob("a.h5*")) == ["a.h5"]


def begun(path) -> bool:
    """Whether a block of a running encode is durable."""
    return path.with_name("durable").exists()


def test_an_interrupted_run_says_what_is_safe_and_goes_on(tmp_path, undisturbed):
    path = tmp_path / "a.h5"
    with a_process(path) as (process, _):
        wait_for(lambda: begun(path))
        os.kill(process.pid, signal.SIGINT)
        process.join()
        assert process.exitcode == 1
    file = BlockFile(partial_of(path))
    safe = file.rows_committed()
    file.close()
    said = path.with_name("stderr").read_text()
    assert 0 < safe <= IMAGES
    assert f"a.h5.partial: {safe} of {IMAGES} rows are safe; run the same command again to go on." in said
    assert "KeyboardInterrupt" in said
    assert not path.with_name("a.h5.lock").exists()
    assert in_a_process(path)[0] == 0
    assert path.read_bytes() == undisturbed[0]


def stopped_in_the_middle(path, process) -> None:
    """Hold a process where it has written one block at least, and is not done."""
    wait_for(lambda: begun(path))
    os.kill(process.pid, signal.SIGSTOP)
    assert partial_of(path).exists()


def test_the_second_of_two_runs_at_once_is_refused(tmp_path, undisturbed):
    path = tmp_path / "a.h5"
    with a_process(path) as (first, _):
        stopped_in_the_middle(path, first)
        code, _ = in_a_process(path)
        said = path.with_name("stderr").read_text()
        os.kill(first.pid, signal.SIGCONT)
        first.join()
        assert first.exitcode == 0
    assert code == 1
    assert "StoreError: Another process is writing" in said
    assert path.read_bytes() == undisturbed[0]


def test_a_store_is_read_while_another_one_is_written(tmp_path):
    encoded(wrapped(), image_set(IMAGES), tmp_path / "a.h5").close()
    with Store(tmp_path / "a.h5") as store:
        before = store.decompose().values
        with a_process(tmp_path / "b.h5") as (process, _):
            stopped_in_the_middle(tmp_path / "b.h5", process)
            store.check()
            with Store(tmp_path / "a.h5") as again:
                assert torch.equal(again.decompose().values, before)
            os.kill(process.pid, signal.SIGCONT)
            assert torch.equal(store.decompose().values, before)
            process.join()
            assert process.exitcode == 0
    Store(tmp_path / "b.h5").close()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)  # noqa: S603 - our own command
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip(f"mounting needs privileges: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S603, S607 - our own command


def filled(folder, free: int):
    """A file that leaves some bytes of a disk."""
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        status = os.statvfs(folder)
        file.write(bytes(status.f_bavail * status.f_frsize - free))
    return ballast


LARGE = {"batch_size": 100, "value_format": "float32"}
"""Of 400 images: four blocks that lie on pages of their own."""


def test_a_full_disk_refuses_before_anything_is_written(small_disk):
    hvit, images, path = wrapped("ViT-B-16"), image_set(400, (32, 32)), small_disk / "a.h5"
    ballast = filled(small_disk, 64 << 10)
    with pytest.raises(StoreError, match=r"a\.h5\.new of .* could not be made: .*No space left.* Nothing was written"):
        encode(hvit, images, path, **LARGE)
    assert [file.name for file in small_disk.iterdir()] == ["ballast"]
    ballast.unlink()
    encoded(hvit, images, path, **LARGE).close()


def test_a_disk_that_fills_up_on_the_way_says_what_is_safe(small_disk, tmp_path, monkeypatch):
    def refuses(*_):
        raise OSError(errno.EOPNOTSUPP, "not here")

    # So that the space is not taken at the beginning.
    monkeypatch.setattr(os, "posix_fallocate", refuses)
    hvit, images, path = wrapped("ViT-B-16"), image_set(400, (32, 32)), small_disk / "a.h5"
    encoded(hvit, images, tmp_path / "b.h5", **LARGE).close()
    whole = (tmp_path / "b.h5").read_bytes()
    ballast = filled(small_disk, len(whole) * 3 // 4)
    said = r"a\.h5\.partial could not be written: No space left on device\. [12]00 of 400 rows are safe; make room"
    with pytest.raises(StoreError, match=said):
        encode(hvit, images, path, **LARGE)
    ballast.unlink()
    encoded(hvit, images, path, **LARGE).close()
    assert path.read_bytes() == whole
