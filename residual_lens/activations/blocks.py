"""The blocks of a file that HDF5 has laid out, read and written without it.

A block's values are written to where its arrays lie and made durable together with its checksums, then a mark that
holds a checksum of these: a block is written once its mark is right.
"""

import os
import weakref
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt32

from residual_lens.activations.hdf5 import CHECKSUMS, MARKS, growing, raw_of, read_constant, read_header
from residual_lens.activations.layout import Array
from residual_lens.errors import StoreError

PieceKey = tuple[str, int | None]
Arrays = tuple[Shaped[np.ndarray, "..."], ...]


class BlockFile:
    """The blocks of one file.

    Args:
        path: a file that `create` made.
        writable: whether blocks can be written.

    Raises:
        StoreError: missing, damaged, or of another format.
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        self.path = path
        self.header, self._offsets = read_header(path)
        self.layout = self.header.layout
        self.pieces = self.layout.pieces()
        self._places = {key: place for place, key in enumerate(self.pieces)}
        self._fd: int | None = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
        self._let_go = weakref.finalize(self, os.close, self._fd)
        try:
            if writable:
                # Marks of a process that was killed may be in memory only; they count once they are on disk.
                os.fsync(self._fd)
            self._checksums: UInt32[np.ndarray, "block piece"] = self._array(CHECKSUMS)
            marks = self._array(MARKS)
        except OSError as error:
            self.close()
            raise StoreError(f"{path} cannot be read: {error.strerror}.") from error
        self.committed = np.array([mark == _mark(row)[0] for mark, row in zip(marks, self._checksums, strict=True)])

    def constant(self, name: str) -> Shaped[np.ndarray, "..."]:
        """An array that does not grow.

        Raises:
            StoreError: damaged.
        """
        return read_constant(self.path, name)

    def read(self, key: PieceKey, block: int) -> Arrays:
        """A piece of a block, checked.

        Args:
            key: which piece.
            block: of which block.

        Raises:
            StoreError: not written yet, or damaged.
        """
        rows = len(self.layout.rows_of(block))
        arrays = tuple(np.empty((rows, *array.row), array.dtype) for array in self.pieces[key].arrays)
        self.read_run(key, range(block, block + 1), arrays)
        return arrays

    def read_run(self, key: PieceKey, blocks: range, into: Arrays) -> None:
        """A piece of blocks that follow one another, each checked; their rows lie together in the file.

        Args:
            key: which piece.
            blocks: of which blocks.
            into: contiguous arrays for their rows.

        Raises:
            StoreError: not written yet, or damaged.
        """
        piece, n_rows = self.pieces[key], self.layout.block_rows
        for block in blocks:
            if not self.committed[block]:
                rows = self.layout.rows_of(block)
                raise StoreError(
                    f"{self.path}: rows {rows.start} to {rows.stop - 1} were not written, or their mark is damaged."
                )
        raws = []
        for array, values in zip(piece.arrays, into, strict=True):
            # A file that was cut off since it was opened gives fewer bytes, and another checksum.
            raw = self._fill(raw_of(values), self._offset(array, piece.unit, blocks.start * n_rows))
            raws.append((raw, n_rows * array.row_bytes))
        checksums = self._checksums[blocks.start : blocks.stop, self._places[key]].tolist()
        for i, expected in enumerate(checksums):
            checksum = 0
            for raw, size in raws:
                checksum = zlib.crc32(raw[i * size : (i + 1) * size], checksum)
            if checksum != expected:
                rows, unit = self.layout.rows_of(blocks[i]), "" if piece.unit is None else f"[{piece.unit}]"
                raise StoreError(
                    f"{self.path} is damaged: {piece.arrays[0].name}{unit}, rows {rows.start} to {rows.stop - 1}, is "
                    "not what was written. `residual-lens check` lists all damage; encode these data again."
                )

    def write(self, block: int, contents: Mapping[PieceKey, Arrays]) -> None:
        """A whole block: durable when this returns, and not there at all if it does not.

        Args:
            block: which.
            contents: every piece, each array `[row ...]`.

        Raises:
            StoreError: the disk is full or fails. Blocks written before are safe.
        """
        rows = self.layout.rows_of(block)
        checksums = np.zeros(len(self.pieces), dtype=np.uint32)
        try:
            for key, piece in self.pieces.items():
                checksum = 0
                for array, values in zip(piece.arrays, contents[key], strict=True):
                    raw = raw_of(values)
                    checksum = zlib.crc32(raw, checksum)
                    self._write(raw, self._offset(array, piece.unit, rows.start))
                checksums[self._places[key]] = checksum
            self._write(raw_of(checksums), self._offsets[CHECKSUMS] + block * checksums.nbytes)
            os.fsync(self._open_fd)
            self._write(raw_of(_mark(checksums)), self._offsets[MARKS] + block * 4)
            os.fsync(self._open_fd)
        except OSError as error:
            self._unmark(block)
            raise StoreError(
                f"{self.path} could not be written: {error.strerror}. {self.rows_committed():,} of "
                f"{self.layout.n_rows:,} rows are safe; make room and run the same command again to go on."
            ) from error
        self._checksums[block] = checksums
        self.committed[block] = True

    def _unmark(self, block: int) -> None:
        """After a failure, that what the disk refused is not taken for written: memory may still hold the mark."""
        with suppress(OSError):
            self._write(raw_of(np.zeros(1, np.uint32)), self._offsets[MARKS] + block * 4)

    def rows_committed(self) -> int:
        """Rows of blocks that are written."""
        return sum(len(self.layout.rows_of(int(block))) for block in np.flatnonzero(self.committed))

    def close(self) -> None:
        """Let go of the file."""
        self._let_go()
        self._fd = None

    @property
    def _open_fd(self) -> int:
        if self._fd is None:
            raise StoreError(f"{self.path} was closed: open it again.")
        return self._fd

    def _offset(self, array: Array, unit: int | None, row: int) -> int:
        return self._offsets[array.name] + ((unit or 0) * self.layout.n_rows + row) * array.row_bytes

    def _array(self, name: str) -> UInt32[np.ndarray, "block *piece"]:
        """A whole bookkeeping array, as it is."""
        shape, dtype = growing(self.layout)[name]
        raw = os.pread(self._open_fd, int(np.prod(shape)) * dtype.itemsize, self._offsets[name])
        return np.frombuffer(raw, dtype).reshape(shape).copy()

    def _fill(self, raw: memoryview, offset: int) -> memoryview:
        """As much of `raw` as the file has bytes for; the system gives 2 GiB at a time at most."""
        done = 0
        try:
            while done < len(raw) and (more := os.preadv(self._open_fd, [raw[done:]], offset + done)):
                done += more
        except OSError as error:
            raise StoreError(f"{self.path} cannot be read: {error.strerror}.") from error
        return raw[:done]

    def _write(self, raw: memoryview, offset: int) -> None:
        while raw:
            done = os.pwrite(self._open_fd, raw, offset)
            raw, offset = raw[done:], offset + done


def _mark(checksums: UInt32[np.ndarray, "piece"]) -> UInt32[np.ndarray, "1"]:
    """Checksum of a block's checksums; never the 0 of a block that was not written."""
    return np.array([zlib.crc32(raw_of(checksums)) or 1], dtype=np.uint32)
