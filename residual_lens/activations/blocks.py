"""A file of blocks: an HDF5 file laid out whole before the first row, then filled with plain writes.

HDF5 keeps what it knows of a file in memory and writes it at its own time: a process that is killed while it has the
file open for writing may leave it unreadable. Here the library writes an empty file of the final size and closes it.
From then on nothing of HDF5's own bookkeeping changes. A block's values are written to where its arrays lie and made
durable, then its checksums, then a mark that holds a checksum of these: a block is written once its mark is right.
"""

import errno
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from jaxtyping import Shaped, UInt32

from residual_lens.activations.layout import Array, Layout
from residual_lens.errors import StoreError

FORMAT = "residual_lens activation store"
FORMAT_VERSION = 1
CHECKSUMS, MARKS = "blocks/checksums", "blocks/committed"

PieceKey = tuple[str, int | None]
Arrays = tuple[Shaped[np.ndarray, "..."], ...]


UNREADABLE = (OSError, KeyError, ValueError, TypeError, RuntimeError)
"""What h5py raises on files that are damaged."""


class Header(NamedTuple):
    """What a file says of itself, but for its arrays."""

    layout: Layout
    """Of this file's rows."""
    about: Mapping[str, Any]
    """Anything JSON can hold."""


def create(path: Path, header: Header, constants: Mapping[str, Shaped[np.ndarray, "..."]]) -> None:
    """An empty file of its final size, its space on disk reserved.

    Args:
        path: file to make; one that is there is overwritten.
        header: layout, and whatever else is to be read back.
        constants: arrays that do not grow, by path in the file.

    Raises:
        StoreError: not enough space.
    """
    try:
        _lay_out(path, header, constants)
        with path.open("r+b") as opened:
            _take_space(opened.fileno(), path.stat().st_size)
            os.fsync(opened.fileno())
    except (OSError, RuntimeError) as error:
        # HDF5 closes a file that it could not write with a RuntimeError.
        size = sum(np.prod(shape) * dtype.itemsize for _, shape, dtype in _growing(header.layout))
        raise StoreError(
            f"{path} of {size / 2**30:.2f} GiB could not be made: {error}. Nothing was written."
        ) from error


def _take_space(descriptor: int, size: int) -> None:
    """Have the disk full at once or not at all, where the file system can promise that."""
    if not hasattr(os, "posix_fallocate"):  # macOS: a full disk is met while writing.
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise


def _lay_out(path: Path, header: Header, constants: Mapping[str, Shaped[np.ndarray, "..."]]) -> None:
    """What HDF5 writes: the constants, and where all else will lie."""
    layout = header.layout
    text = json.dumps({"layout": asdict(layout), "about": header.about})
    # From version 1.10 on, HDF5 checksums its own bookkeeping.
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        # Of fixed length: what varies in length lies where HDF5 keeps no checksums.
        mark_kind(file)
        for name, values in {"header": np.frombuffer(text.encode(), np.uint8), **constants}.items():
            file.create_dataset(name, data=values, track_times=False).attrs["crc32"] = zlib.crc32(_raw(values))
        for name, shape, dtype in _growing(layout):
            _reserve(file, name, shape, dtype)


def _reserve(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """A contiguous array whose place in the file is fixed at once."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(dtype), space, properties, links)


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
        self.header, self._offsets = _read_header(path)
        self.layout = self.header.layout
        self.pieces = self.layout.pieces()
        self._places = {key: place for place, key in enumerate(self.pieces)}
        self._fd: int | None = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
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
        return _constant(self.path, name)

    def read(self, key: PieceKey, block: int) -> Arrays:
        """A piece of a block, checked.

        Raises:
            StoreError: not written yet, or damaged.
        """
        piece, rows = self.pieces[key], self.layout.rows_of(block)
        if not self.committed[block]:
            raise StoreError(
                f"{self.path}: rows {rows.start} to {rows.stop - 1} were not written, or their mark is damaged."
            )
        # A file that was cut off since it was opened gives fewer bytes, and another checksum.
        arrays, checksum = [], 0
        for array in piece.arrays:
            values = np.empty((len(rows), *array.row), array.dtype)
            raw = _raw(values)
            try:
                done = os.preadv(self._open_fd, [raw], self._offset(array, piece.unit, rows.start))
            except OSError as error:
                raise StoreError(f"{self.path} cannot be read: {error.strerror}.") from error
            checksum = zlib.crc32(raw[:done], checksum)
            arrays.append(values)
        if checksum != self._checksums[block, self._places[key]]:
            unit = "" if piece.unit is None else f"[{piece.unit}]"
            raise StoreError(
                f"{self.path} is damaged: {piece.arrays[0].name}{unit}, rows {rows.start} to {rows.stop - 1}, is not "
                "what was written. `residual-lens check` lists all damage; encode these data again."
            )
        return tuple(arrays)

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
                    raw = _raw(values)
                    checksum = zlib.crc32(raw, checksum)
                    self._write(raw, self._offset(array, piece.unit, rows.start))
                checksums[self._places[key]] = checksum
            self._write(_raw(checksums), self._offsets[CHECKSUMS] + block * checksums.nbytes)
            os.fsync(self._open_fd)
            self._write(_raw(_mark(checksums)), self._offsets[MARKS] + block * 4)
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
            self._write(_raw(np.zeros(1, np.uint32)), self._offsets[MARKS] + block * 4)

    def rows_committed(self) -> int:
        """Rows of blocks that are written."""
        return sum(len(self.layout.rows_of(int(block))) for block in np.flatnonzero(self.committed))

    def close(self) -> None:
        """Let go of the file."""
        if self._fd is not None:
            os.close(self._fd)
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
        shape, dtype = next((shape, dtype) for one, shape, dtype in _growing(self.layout) if one == name)
        raw = os.pread(self._open_fd, int(np.prod(shape)) * dtype.itemsize, self._offsets[name])
        return np.frombuffer(raw, dtype).reshape(shape).copy()

    def _write(self, raw: memoryview, offset: int) -> None:
        while raw:
            done = os.pwrite(self._open_fd, raw, offset)
            raw, offset = raw[done:], offset + done


def _read_header(path: Path) -> tuple[Header, dict[str, int]]:
    """Header and the offset of every array that grows."""
    if not path.is_file():
        raise StoreError(f"There is no file {path}.")
    try:
        with h5py.File(path, "r") as file:
            check_kind(path, file)
            saved = json.loads(_checked(path, file, "header").tobytes())
            header = Header(Layout(**saved["layout"]), saved["about"])
            offsets = {name: _place(file, name, shape, dtype) for name, shape, dtype in _growing(header.layout)}
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    return header, offsets


def mark_kind(file: h5py.File) -> None:
    """Say in a file what it is."""
    file.attrs["format"] = np.bytes_(FORMAT)
    file.attrs["format_version"] = FORMAT_VERSION


def check_kind(path: Path, file: h5py.File) -> None:
    """Refuse files of another kind or version.

    Raises:
        StoreError: with what it is.
    """
    kind, version = file.attrs.get("format"), file.attrs.get("format_version")
    if kind != np.bytes_(FORMAT):
        raise StoreError(f"{path} is an HDF5 file, but no activation store: it has format={kind!r}.")
    if version != FORMAT_VERSION:
        raise StoreError(
            f"{path} has format version {version}, this library reads {FORMAT_VERSION}: use the version of "
            "residual_lens that wrote it, or encode again."
        )


def unreadable(path: Path, error: Exception) -> StoreError:
    """What to raise where h5py gives up."""
    return StoreError(f"{path} cannot be read as an activation store, it is damaged, cut off or none at all: {error}.")


def _growing(layout: Layout) -> Iterable[tuple[str, tuple[int, ...], np.dtype]]:
    for array in layout.arrays():
        yield array.name, array.shape(layout.n_rows), array.dtype
    yield CHECKSUMS, (layout.n_blocks, len(layout.pieces())), np.dtype(np.uint32)
    yield MARKS, (layout.n_blocks,), np.dtype(np.uint32)


def _place(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype) -> int:
    dataset = dataset_of(file, name)
    offset = dataset.id.get_offset()
    if offset is None or dataset.shape != shape or dataset.dtype != dtype:
        raise ValueError(f"{name} is not {dtype} {list(shape)} in one run of bytes")
    return offset


def _constant(path: Path, name: str) -> Shaped[np.ndarray, "..."]:
    try:
        with h5py.File(path, "r") as file:
            return _checked(path, file, name)
    except UNREADABLE as error:
        raise unreadable(path, error) from error


def _checked(path: Path, file: h5py.File, name: str) -> Shaped[np.ndarray, "..."]:
    dataset = dataset_of(file, name)
    values = dataset[()]
    if zlib.crc32(_raw(values)) != dataset.attrs["crc32"]:
        raise StoreError(f"{path} is damaged: {name} is not what was written.")
    return values


def dataset_of(file: h5py.File, name: str) -> h5py.Dataset:
    """A data set by its path.

    Raises:
        KeyError: there is none.
    """
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise KeyError(f"{name} is no data set")
    return found


def _mark(checksums: UInt32[np.ndarray, "piece"]) -> UInt32[np.ndarray, "1"]:
    """Checksum of a block's checksums; never the 0 of a block that was not written."""
    return np.array([zlib.crc32(_raw(checksums)) or 1], dtype=np.uint32)


def _raw(values: Shaped[np.ndarray, "..."]) -> memoryview:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
