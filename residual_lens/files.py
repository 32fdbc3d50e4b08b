"""Files that are replaced whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".partial"
"""Behind the name of a file that is being written."""


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write, which takes its name, and an older one's place, only once it is whole and on the disk.

    Folders on the way to it are made.

    Args:
        path: what it is called in the end.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "runs" / "notes.txt"
        ...     with replacing(path) as file:
        ...         _ = file.write(b"whole")
        ...         path.exists()
        ...     path.read_bytes()
        False
        b'whole'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own for each process: several may write the same file, and the last one stays.
    temporary = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: str | Path, data: bytes) -> None:
    """Replace a file whole or not at all (see `replacing`)."""
    with replacing(path) as file:
        file.write(data)


def remove_leftovers(*folders: Path) -> None:
    """Delete what processes that were killed while they wrote have left in folders that no other process writes to."""
    for folder in folders:
        for path in folder.glob(f"*.[0-9]*{PARTIAL}"):
            path.unlink(missing_ok=True)


@contextmanager
def made_while_needed(folder: Path) -> Iterator[None]:
    """A folder, and those on the way to it, that are gone after the block if they were made for it and are empty."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for each in made:
            with suppress(OSError):
                each.rmdir()
