"""What HDF5 does for a store: it lays out a file that is empty and of its final size, and says where its arrays lie.

HDF5 keeps what it knows of a file in memory and writes it at its own time: a process that is killed while it has the
file open for writing may leave it unreadable. Here the library closes the file before the first row is written. From
then on nothing of HDF5's own bookkeeping changes (see `blocks`).
"""

import errno
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from jaxtyping import Shaped

from residual_lens.activations.layout import Layout
from residual_lens.activations.provenance import Provenance
from residual_lens.errors import StoreError

FORMAT = "residual_lens activation store"
FORMAT_VERSION = 1
CHECKSUMS, MARKS = "blocks/checksums", "blocks/committed"

UNREADABLE = (OSError, KeyError, ValueError, TypeError, RuntimeError)
"""What h5py raises on files that are damaged."""


class Header(NamedTuple):
    """What a file says of itself, but for its arrays."""

    layout: Layout
    """Of this file's rows."""
    provenance: Provenance
    """Of the whole run."""
    first_row: int
    """Sample of the run that is this file's first row."""


def create(path: Path, header: Header, constants: Mapping[str, Shaped[np.ndarray, "..."]]) -> None:
    """An empty file of its final size, its space on disk reserved.

    Args:
        path: file to make; one that is there is overwritten.
        header: layout, and what the rows are made from.
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
        size = sum(np.prod(shape) * dtype.itemsize for shape, dtype in growing(header.layout).values())
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
    about = {"provenance": header.provenance.as_json(), "first_row": header.first_row}
    text = json.dumps({"layout": asdict(header.layout), "about": about})
    # From version 1.10 on, HDF5 checksums its own bookkeeping.
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        # Of fixed length: what varies in length lies where HDF5 keeps no checksums.
        mark_kind(file)
        for name, values in {"header": np.frombuffer(text.encode(), np.uint8), **constants}.items():
            file.create_dataset(name, data=values, track_times=False).attrs["crc32"] = zlib.crc32(raw_of(values))
        for name, (shape, dtype) in growing(header.layout).items():
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


def read_header(path: Path) -> tuple[Header, dict[str, int]]:
    """What a file says of itself, and the offset of every array that grows.

    Raises:
        StoreError: missing, damaged, or of another format or version.
    """
    if not path.is_file():
        raise StoreError(f"There is no file {path}.")
    try:
        with h5py.File(path, "r") as file:
            check_kind(path, file)
            saved = json.loads(_checked(path, file, "header").tobytes())
            layout, about = saved["layout"], saved["about"]
            provenance = about["provenance"]
            _require_fields(path, Layout, layout)
            _require_fields(path, Provenance, provenance)
            header = Header(Layout(**layout), Provenance.of_json(provenance), about["first_row"])
            offsets = {name: _place(file, name, *kind) for name, kind in growing(header.layout).items()}
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    return header, offsets


def _require_fields(path: Path, kind: type[Layout | Provenance], saved: Mapping[str, Any]) -> None:
    known = {field.name for field in fields(kind)}
    if known != saved.keys():
        unknown, missing = (
            ", ".join(sorted(names)) or "nothing" for names in (saved.keys() - known, known - saved.keys())
        )
        raise StoreError(
            f"{path} was written by another version of residual_lens: its {kind.__name__.lower()} has {unknown} that "
            f"this one does not know and lacks {missing}. Use that version, or encode again."
        )


def read_constant(path: Path, name: str) -> Shaped[np.ndarray, "..."]:
    """An array that does not grow.

    Raises:
        StoreError: damaged.
    """
    try:
        with h5py.File(path, "r") as file:
            return _checked(path, file, name)
    except UNREADABLE as error:
        raise unreadable(path, error) from error


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


def growing(layout: Layout) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and element type of every array that is written block by block, by path in the file."""
    found = {array.name: (array.shape(layout.n_rows), array.dtype) for array in layout.arrays()}
    checksum = np.dtype(np.uint32)
    return found | {
        CHECKSUMS: ((layout.n_blocks, len(layout.pieces())), checksum),
        MARKS: ((layout.n_blocks,), checksum),
    }


def dataset_of(file: h5py.File, name: str) -> h5py.Dataset:
    """A data set by its path.

    Raises:
        KeyError: there is none.
    """
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise KeyError(f"{name} is no data set")
    return found


def raw_of(values: Shaped[np.ndarray, "..."]) -> memoryview:
    """The bytes of an array."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def _place(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype) -> int:
    dataset = dataset_of(file, name)
    offset = dataset.id.get_offset()
    if offset is None or dataset.shape != shape or dataset.dtype != dtype:
        raise ValueError(f"{name} is not {dtype} {list(shape)} in one run of bytes")
    return offset


def _checked(path: Path, file: h5py.File, name: str) -> Shaped[np.ndarray, "..."]:
    dataset = dataset_of(file, name)
    values = dataset[()]
    if zlib.crc32(raw_of(values)) != dataset.attrs["crc32"]:
        raise StoreError(f"{path} is damaged: {name} is not what was written.")
    return values
