"""Where commands write: refused before any work."""

from pathlib import Path

from residual_lens.errors import InputError


def require_files(**places: Path | None) -> None:
    """Refuse options that are to name files and cannot.

    Args:
        places: by option.

    Raises:
        InputError: a folder, or a file where a folder on the way would have to be; the message names the option.

    >>> require_files(out=Path("."))
    Traceback (most recent call last):
    residual_lens.errors.InputError: --out is a file to write, and . is a folder: give a file's name as well.
    """
    for name, place in places.items():
        if place is not None and place.is_dir():
            raise InputError(f"--{name} is a file to write, and {place} is a folder: give a file's name as well.")
        _require_way(f"--{name}", place and place.parent)


def require_folders(**places: Path | None) -> None:
    """Refuse options that are to name folders and cannot.

    Args:
        places: by option.

    Raises:
        InputError: a file, or a file where a folder on the way would have to be; the message names the option.
    """
    for name, place in places.items():
        _require_way(f"--{name}", place)


def file_in_the_way(folder: Path) -> Path | None:
    """What stands where the folder, or one that it lies in, would have to be."""
    places = (folder.expanduser(), *folder.expanduser().parents)
    return next((place for place in places if place.exists() and not place.is_dir()), None)


def _require_way(option: str, folder: Path | None) -> None:
    if folder is not None and (found := file_in_the_way(folder)):
        raise InputError(f"{option}: {found} is a file, expected a folder to write to: give another place.")
