"""One file, or the files of several processes, as one run of blocks."""

import json
import os
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import h5py
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from residual_lens.activations.blocks import Arrays, BlockFile, PieceKey
from residual_lens.activations.hdf5 import (
    CHECKSUMS,
    MARKS,
    UNREADABLE,
    check_kind,
    dataset_of,
    mark_kind,
    unreadable,
)
from residual_lens.activations.layout import Layout
from residual_lens.activations.writer import alone_with, partial_of, sync_folder
from residual_lens.errors import ResidualLensError, StoreError

SHARDS = "shards"
"""Attribute of a file that presents others: their names."""
SEAL_BYTES = 512
"""Least that HDF5 leaves to others at the head of a file."""


@dataclass(frozen=True, eq=False)
class StoredWeights:
    """The parts of a model that turn what is stored into direct contributions, float32."""

    output_weights: Float[Tensor, "layer head d_head d_model"]
    """`W_O`, LayerScale folded in."""
    output_biases: Float[Tensor, "layer d_model"]
    """`b_O`, likewise."""
    maps: Float[Tensor, "route d_model d_out"]
    """The readout's."""
    constant_rows: Float[Tensor, "constant d_out"]
    """The readout's."""
    term_gains: Float[Tensor, "d"]
    """What `terms/values` were multiplied by (see `Layout`)."""

    def as_constants(self) -> dict[str, np.ndarray]:
        """By path in the file."""
        return {f"weights/{name}": value.detach().float().cpu().numpy() for name, value in vars(self).items()}


class Shards:
    """The blocks of a store, wherever they lie."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file() and partial_of(path).is_file():
            file = BlockFile(partial_of(path))
            file.close()
            raise StoreError(
                f"{path} is not finished: {file.rows_committed():,} of {file.layout.n_rows:,} rows are written. Run "
                "the same encode command again to go on."
            )
        if not path.is_file() and (begun := shards_begun(path)):
            raise StoreError(
                f"{path} is not finished: of {max(begun.values())} processes, {len(begun)} have begun a shard. "
                "Run the same encode command again, on as many, to go on."
            )
        self._files: list[BlockFile] = []
        try:
            for shard in _shard_paths(path):
                self._files.append(BlockFile(shard))
            self.provenance = self._files[0].header.provenance
            self.layout = self._joined_layout()
        except ResidualLensError:
            self.close()
            raise
        self._block_stops = np.cumsum([file.layout.n_blocks for file in self._files])

    def _joined_layout(self) -> Layout:
        """Of all rows, if the files are those of one run."""
        first = self._files[0]
        for file in self._files[1:]:
            file.header.provenance.require(
                self.provenance, f"{file.path} and {first.path} are not of one run", "Encode again."
            )
        stops = np.cumsum([file.layout.n_rows for file in self._files])
        starts = [file.header.first_row for file in self._files]
        layouts = {replace(file.layout, n_rows=int(stops[-1])) for file in self._files}
        if starts != [0, *stops[:-1]] or stops[-1] != self.provenance.n_samples or len(layouts) > 1:
            raise StoreError(f"{self.path}: its shards do not follow one another; encode again.")
        return layouts.pop()

    def read(self, key: PieceKey, block: int) -> Arrays:
        """A piece of a block, checked (see `BlockFile.read`)."""
        place = int(np.searchsorted(self._block_stops, block, side="right"))
        file = self._files[place]
        return file.read(key, block - int(self._block_stops[place]) + file.layout.n_blocks)

    def read_run(self, key: PieceKey, blocks: range, into: Arrays) -> None:
        """A piece of blocks that follow one another, checked (see `BlockFile.read_run`)."""
        for file, stop in zip(self._files, self._block_stops.tolist(), strict=True):
            start = stop - file.layout.n_blocks
            own = range(max(blocks.start, start), min(blocks.stop, stop))
            if own:
                n_rows = self.layout.block_rows
                rows = slice((own.start - blocks.start) * n_rows, (own.stop - blocks.start) * n_rows)
                file.read_run(key, range(own.start - start, own.stop - start), tuple(each[rows] for each in into))

    @cached_property
    def weights(self) -> StoredWeights:
        """What contributions are rebuilt with."""
        names = StoredWeights.__dataclass_fields__
        return StoredWeights(**{name: torch.from_numpy(self._files[0].constant(f"weights/{name}")) for name in names})

    def sample_ids(self) -> list[str]:
        """Of every row."""
        return [os.fsdecode(name) for file in self._files for name in file.constant("samples/id")]

    def check(self, *, progress: bool = False) -> None:
        """Read everything once.

        Raises:
            StoreError: with a line for each damaged piece.
        """
        constants = [f"weights/{name}" for name in StoredWeights.__dataclass_fields__]
        reads: list[Callable[[], object]] = [
            partial(file.constant, name) for file in self._files for name in (*constants, "samples/id")
        ]
        keys = list(self.layout.pieces())
        reads += [partial(self.read, key, block) for block in range(self.layout.n_blocks) for key in keys]
        damage = []
        for read in tqdm(reads, desc=self.path.name, unit="piece", disable=not progress):
            try:
                read()
            except StoreError as error:
                damage.append(str(error))
        if damage:
            # Of a block whose mark is damaged, every piece says so.
            raise StoreError("\n".join(dict.fromkeys(damage)))

    def close(self) -> None:
        """Let go of all files."""
        for file in self._files:
            file.close()


def shard_path(path: Path, index: int, count: int) -> Path:
    """Where one of several processes writes; the store itself if there is one process."""
    return path if count == 1 else path.with_name(f"{path.stem}.shard-{index + 1}-of-{count}{path.suffix}")


def shards_begun(path: Path) -> dict[Path, int]:
    """Shards of this store that are there, finished or not, with the number of processes that each is one of."""
    pattern = re.compile(rf"{re.escape(path.stem)}\.shard-\d+-of-(\d+){re.escape(path.suffix)}(\.partial)?")
    found = {} if not path.parent.is_dir() else {file: pattern.fullmatch(file.name) for file in path.parent.iterdir()}
    return {file: int(match[1]) for file, match in found.items() if match}


def shard_blocks(n_blocks: int, index: int, count: int) -> range:
    """Blocks that one of several processes writes: runs that follow one another and differ by one at most."""
    return range(n_blocks * index // count, n_blocks * (index + 1) // count)


def present(path: Path, shards: Sequence[Path]) -> None:
    """Write a file in which the arrays of finished shards are one, as HDF5 virtual data sets.

    Shards are named relative to the file, so that a folder with all of them can be moved. HDF5 keeps those names where
    it has no checksums, so that the file bears one of the whole.

    Raises:
        StoreError: a shard is damaged, or the disk is full.
        MismatchError: they are not of one run.
    """
    temporary = path.with_name(f"{path.name}.new")
    # Processes that finish at the same time wait for each other; the first one does it.
    with alone_with(path, wait=True):
        if path.exists():
            return
        try:
            _write_index(temporary, shards)
            # Whoever finds the file finds one that can be opened.
            Shards(temporary).close()
            temporary.replace(path)
            sync_folder(path.parent)
        except (OSError, RuntimeError) as error:
            raise StoreError(f"{path} could not be written: {error}. Its shards are safe; run this again.") from error
        finally:
            temporary.unlink(missing_ok=True)


def _write_index(path: Path, shards: Sequence[Path]) -> None:
    first = BlockFile(shards[0])
    first.close()
    with h5py.File(path, "w", libver=("v110", "v110"), userblock_size=SEAL_BYTES) as index:
        mark_kind(index)
        index.attrs[SHARDS] = np.bytes_(json.dumps([shard.name for shard in shards]))
        for array in first.layout.arrays():
            _join(index, array.name, shards, axis=0 if array.units is None else 1)
        for name in ("samples/id", CHECKSUMS, MARKS):
            _join(index, name, shards, axis=0)
        for name in StoredWeights.__dataclass_fields__:
            _join(index, f"weights/{name}", shards[:1], axis=0)
    with path.open("r+b") as opened:
        opened.write(_seal(path))
        opened.flush()
        os.fsync(opened.fileno())


def _seal(path: Path) -> bytes:
    """Checksum of an index, for the first bytes of the file, which HDF5 leaves alone."""
    return f"crc32 {zlib.crc32(path.read_bytes()[SEAL_BYTES:]):08x}".encode().ljust(SEAL_BYTES, b"\0")


def _join(index: h5py.File, name: str, shards: Sequence[Path], *, axis: int) -> None:
    shapes, dtype = [], None
    for shard in shards:
        with h5py.File(shard, "r") as opened:
            dataset = dataset_of(opened, name)
            shapes.append(dataset.shape)
            dtype = dataset.dtype
    total = list(shapes[0])
    total[axis] = sum(shape[axis] for shape in shapes)
    layout = h5py.VirtualLayout(tuple(total), dtype)
    start = 0
    for shard, shape in zip(shards, shapes, strict=True):
        place = tuple(slice(start, start + shape[axis]) if i == axis else slice(None) for i in range(len(total)))
        layout[place] = h5py.VirtualSource(shard.name, name, shape, dtype)
        start += shape[axis]
    index.create_virtual_dataset(name, layout)


def _shard_paths(path: Path) -> list[Path]:
    """The files that hold the rows: the file itself, or those that it presents."""
    if not path.is_file():
        raise StoreError(f"There is no file {path}.")
    try:
        with h5py.File(path, "r") as file:
            check_kind(path, file)
            listed = file.attrs.get(SHARDS)
        if listed is None:
            return [path]
        if path.read_bytes()[:SEAL_BYTES] != _seal(path):
            raise StoreError(
                f"{path} is damaged: it is not what was written. Delete it and run the same encode command again: "
                "that presents its shards anew."
            )
        names = json.loads(np.asarray(listed).tobytes().rstrip(b"\0"))
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    for name in names:
        if Path(name).name != name:
            raise StoreError(f"{path} names a shard outside of its folder: {name!r}.")
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise StoreError(f"{path} presents {len(names)} shards; missing in its folder: {', '.join(missing)}.")
    return [path.parent / name for name in names]
