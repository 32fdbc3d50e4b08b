"""A disk that fails: processes that die in the middle of a run, with or without what the disk had not yet kept."""

import errno
import multiprocessing
import os
import signal
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from residual_lens.activations import blocks, encode, extraction, hdf5, shards
from tests.activations.stores import image_set, wrapped

IMAGES, BLOCK_ROWS = 10, 4
"""Three blocks, the last one shorter, each two batches."""
BATCH = 2


@dataclass
class Disk:
    """Stands between a process and its disk, and ends the process at the `last`-th call.

    Writes go through, so that a kill leaves all of them. A power cut leaves what was made durable and, drawn by lot,
    parts of the rest: each write of which nothing, half or all is left, names that may have their old meaning, and of
    a file that was never made durable any length.
    """

    last: int
    power_cut: bool
    seed: int = 0
    calls: list[str] = field(default_factory=list)
    unsynced: list[tuple[int, int, bytes]] = field(default_factory=list)
    renames: list[tuple[str, str]] = field(default_factory=list)
    durable: set[int] = field(default_factory=set)

    def install(self) -> None:
        for name in ("pwrite", "fsync", "replace", "posix_fallocate", "unlink"):
            setattr(os, name, self._guarded(name, getattr(os, name), getattr(self, f"_{name}", None)))
        # What HDF5 writes is not seen: a call of its own.
        hdf5._lay_out = self._guarded("lay_out", hdf5._lay_out, None)
        shards._write_index = self._guarded("write_index", shards._write_index, None)

    def _guarded(self, name: str, real: Callable[..., Any], instead: Callable[..., Any] | None) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append(name)
            if len(self.calls) == self.last:
                if name == "pwrite":
                    # In the middle of the write.
                    descriptor, raw, offset = arguments
                    self._pwrite(real, descriptor, bytes(raw)[: len(raw) // 2], offset)
                self._die()
            return real(*arguments, **options) if instead is None else instead(real, *arguments, **options)

        return call

    def _pwrite(self, real: Callable[..., int], descriptor: int, raw: bytes, offset: int) -> int:
        before = os.pread(descriptor, len(raw), offset)
        self.unsynced.append((descriptor, offset, before))
        return real(descriptor, raw, offset)

    def _fsync(self, real: Callable[..., None], descriptor: int) -> None:
        real(descriptor)
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            # No name may last longer than what it names.
            assert all(os.stat(new).st_ino in self.durable for _, new in self.renames)
            self.renames.clear()
        else:
            self.durable.add(status.st_ino)
            self.unsynced = [one for one in self.unsynced if os.fstat(one[0]).st_ino != status.st_ino]

    def _replace(self, real: Callable[..., None], old: Any, new: Any) -> None:
        real(old, new)
        self.renames.append((str(old), str(new)))

    def _die(self) -> None:
        if self.power_cut:
            lots = np.random.default_rng(self.seed)
            # Of writes that wait for the disk together it may have taken the last two first: checksums and mark, say.
            last_first = self.calls[-1] == "fsync"
            for descriptor, offset, before in self.unsynced[:-2] if last_first else self.unsynced:
                lost = before if last_first else before[: len(before) * int(lots.integers(3)) // 2]
                REAL_PWRITE(descriptor, lost, offset)
            for old, new in reversed(self.renames):
                if os.stat(new).st_ino not in self.durable:
                    os.truncate(new, int(lots.integers(os.stat(new).st_size)))
                if lots.integers(2):
                    REAL_REPLACE(new, old)
        os.kill(os.getpid(), signal.SIGKILL)


REAL_PWRITE, REAL_REPLACE = os.pwrite, os.replace


def run(
    path: Path, last: int = -1, *, power_cut: bool = False, workers: int = 0, images: int = IMAGES, shard_count: int = 1
) -> list[str]:
    """Encode on a disk that ends the process at its `last`-th call; gives the names of all calls.

    Blocks that `BlockFile.write` said to be durable are noted beside the store. What is left in memory only at the end
    is an error.
    """
    extraction.BLOCK_ROWS = BLOCK_ROWS
    disk = Disk(last, power_cut, seed=last)
    disk.install()
    write = blocks.BlockFile.write

    def noted(file: blocks.BlockFile, block: int, contents: Any) -> None:
        write(file, block, contents)
        with path.with_name("durable").open("a") as notes:
            notes.write(f"{block}\n")

    blocks.BlockFile.write = noted
    hvit, data = wrapped("ViT-B-16"), image_set(images, (32, 32))
    path.with_name("ready").touch()
    for index in range(shard_count):
        made = encode(hvit, data, path, batch_size=BATCH, workers=workers, process=index, n_processes=shard_count)
        if made is not None:
            made.close()
        assert not disk.unsynced
        assert not disk.renames
    return disk.calls


def _reported(results: Any, folder: Path, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    import torch

    torch.set_num_threads(1)
    # The loaders' processes are forked, as on any Linux; from here they would import the library once more.
    multiprocessing.set_start_method("fork", force=True)
    # Those of a shell's background job ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "stderr").open("w") as said:
        os.dup2(said.fileno(), 2)
    results.put(run(*arguments, **options))


def in_a_process(*arguments: Any, **options: Any) -> tuple[int, list[str]]:
    """`run` in a process of its own: its exit code and, if it came to its end, the calls.

    What it says is written beside the store, to `stderr`.
    """
    with a_process(*arguments, **options) as (process, results):
        process.join()
        calls = results.get() if process.exitcode == 0 else []
        assert process.exitcode is not None
        return process.exitcode, calls


@contextmanager
def a_process(path: Path, *arguments: Any, **options: Any) -> Iterator[tuple[Any, Any]]:
    """`run` as it runs in a process of its own, and the queue of its results.

    It is forked from a process that has the library loaded and does nothing else.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    results = context.SimpleQueue()
    process = context.Process(target=_reported, args=(results, path.parent, (path, *arguments), options))
    path.with_name("ready").unlink(missing_ok=True)
    process.start()
    try:
        yield process, results
    finally:
        process.kill()
        process.join()


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until another process has done something; an error after a minute."""
    stop = time.monotonic() + 60
    while not condition():
        if time.monotonic() > stop:
            raise TimeoutError
        time.sleep(0.001)


def full_after(n_bytes: int) -> Callable[..., int]:
    """`os.pwrite` on a disk with so much room: it writes what fits, then fails."""
    room = n_bytes

    def pwrite(descriptor: int, raw: Any, offset: int) -> int:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = REAL_PWRITE(descriptor, bytes(raw)[:room], offset)
        room -= done
        return done

    return pwrite


def failing(times: int, real: Callable[..., Any]) -> Callable[..., Any]:
    """A call to the system that fails with an input/output error at the `times`-th time."""
    count = 0

    def call(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == times:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*arguments)

    return call
