"""Filling a store: one writer at a time, from where the last one stopped."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from jaxtyping import Shaped

from residual_lens.activations.blocks import Arrays, BlockFile, PieceKey
from residual_lens.activations.hdf5 import Header, create
from residual_lens.errors import MismatchError, ResidualLensError, StoreError

logger = logging.getLogger(__name__)


class StoreWriter:
    """Writes the blocks of a file that bears its name once it is whole.

    Until then it is called `<name>.partial`. Use `opened`, which takes the lock and gives it back.
    """

    def __init__(self, path: Path, file: BlockFile) -> None:
        self.path = path
        self.file = file
        # One block is written while the next one is computed.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._pending: Future[None] | None = None

    @classmethod
    @contextmanager
    def opened(
        cls, path: Path, header: Header, constants: Mapping[str, Shaped[np.ndarray, "..."]]
    ) -> Iterator["StoreWriter"]:
        """A writer for a new file, or for one that was begun with the same provenance.

        Args:
            path: what the file is called in the end.
            header: layout, and what the rows are made from.
            constants: arrays that do not grow.

        Raises:
            StoreError: another process writes this file, there is no room for it, or what was begun is damaged.
            MismatchError: what was begun, or is there already, was made from something else.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_of(path)
        with alone_with(path):
            if path.exists():
                raise StoreError(f"{path} is there already, and whole.")
            if not partial.exists():
                temporary = path.with_name(f"{path.name}.new")
                try:
                    create(temporary, header, constants)
                    temporary.replace(partial)
                    sync_folder(path.parent)
                finally:
                    temporary.unlink(missing_ok=True)
            writer = cls(path, _begun(partial, header, constants))
            file = writer.file
            try:
                yield writer
            finally:
                writer.close()
                if partial.exists():
                    logger.warning(
                        "%s: %s of %s rows are safe; run the same command again to go on.",
                        partial,
                        f"{file.rows_committed():,}",
                        f"{file.layout.n_rows:,}",
                    )

    @property
    def missing(self) -> tuple[int, ...]:
        """Blocks that are not written yet."""
        return tuple(int(block) for block in np.flatnonzero(~self.file.committed))

    def write(self, block: int, contents: Mapping[PieceKey, Arrays]) -> None:
        """Write a block in the background, once the one before is durable.

        Raises:
            StoreError: the one before could not be written.
        """
        self.flush()
        self._pending = self._thread.submit(self.file.write, block, contents)

    def flush(self) -> None:
        """Wait until everything given to `write` is durable.

        Raises:
            StoreError: it could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def finish(self) -> None:
        """Give the file its name, now that every block is there."""
        self.flush()
        if self.missing:
            raise StoreError(f"{self.file.path} lacks {len(self.missing)} blocks.")
        self.file.path.replace(self.path)
        sync_folder(self.path.parent)

    def close(self) -> None:
        """End the thread, after what it is writing, and let go of the file."""
        self._thread.shutdown(wait=True)
        self.file.close()


def partial_of(path: Path) -> Path:
    """What a store is called while it is being written."""
    return path.with_name(f"{path.name}.partial")


def _begun(partial: Path, header: Header, constants: Iterable[str]) -> BlockFile:
    """What was begun, if it is what was asked for and sound."""
    file = BlockFile(partial, writable=True)
    try:
        require_same(partial, file.header, header)
        for name in constants:
            file.constant(name)
    except ResidualLensError:
        file.close()
        raise
    return file


def require_same(path: Path, found: Header, wanted: Header) -> None:
    """Refuse a file that was made from something else.

    Raises:
        MismatchError: with the fields that differ.
    """
    found.provenance.require(
        wanted.provenance,
        f"{path} was begun with something else",
        "Give the same arguments to go on, or another file, or delete it to begin again.",
    )
    if (found.layout, found.first_row) != (wanted.layout, wanted.first_row):
        raise MismatchError(f"{path} holds other rows of these data. Give another file, or delete it.")


@contextmanager
def alone_with(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Alone with a file, until the context or the process ends.

    Args:
        path: the file; nothing is done to it.
        wait: for another process to be done with it.

    Raises:
        StoreError: another process is at it.
    """
    lock = FileLock(path.with_name(f"{path.name}.lock"), blocking=wait)
    try:
        lock.acquire()
    except Timeout:
        raise StoreError(
            f"Another process is writing {path}: wait until it has finished, or give another file."
        ) from None
    try:
        yield
    finally:
        # While it is still held: whoever opened it meanwhile notices that it is gone, and makes another.
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def sync_folder(folder: Path) -> None:
    """Make a change of names durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
