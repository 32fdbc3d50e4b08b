"""Bases in one HDF5 file whose first bytes vouch for all others.

HDF5 leaves the first 512 bytes of a file to its user. There lies, as JSON, the kind, format, length and SHA-256 of the
rest, so that damage is found before anything is parsed, while every HDF5 reader opens the file as usual.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import h5py
import torch

from residual_lens.errors import InputError
from residual_lens.files import write_atomically

KIND = "residual_lens.Bases"
FORMAT_VERSION = 1
HEADER_BYTES = 512
TENSORS = ("mean", "components", "variances")


def write_bases(path: Path, about: Mapping[str, Any], by_unit: Mapping[str, Mapping[str, Any]]) -> None:
    """Write JSON values and the units' tensors, those of one shape as one data set."""
    try:
        text = json.dumps(about, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"The provenance of these bases cannot be written as JSON: {error}.") from error
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, basis in by_unit.items():
        groups.setdefault(tuple(basis["components"].shape), []).append(name)
    file = io.BytesIO()
    with h5py.File(file, "w", userblock_size=HEADER_BYTES) as out:
        # An attribute holds 64 kB at most, and a data set's fingerprints may be many.
        out["about"] = text
        for (components, d_out), names in groups.items():
            group = out.create_group(f"{components}x{d_out}")
            group["units"] = names
            for key in TENSORS:
                group[key] = torch.stack([by_unit[name][key].detach().cpu() for name in names]).numpy()
            group["total_variance"] = [by_unit[name]["total_variance"] for name in names]
    body = file.getvalue()[HEADER_BYTES:]
    write_atomically(path, _header(body) + body)


def read_bases(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What `write_bases` wrote: the JSON values, and by unit its tensors and total variance.

    Raises:
        InputError: see `Bases.load`.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}: give one that Bases.save wrote.")
    data = path.read_bytes()
    _check(path, data)
    by_unit: dict[str, dict[str, Any]] = {}
    with h5py.File(io.BytesIO(data), "r") as file:
        about = json.loads(_read(file, "about"))
        for shape in set(file) - {"about"}:
            stacked = {key: torch.from_numpy(_read(file, f"{shape}/{key}")) for key in TENSORS}
            totals = _read(file, f"{shape}/total_variance").tolist()
            for i, unit in enumerate(_read(file, f"{shape}/units")):
                by_unit[unit.decode()] = {key: stacked[key][i] for key in TENSORS} | {"total_variance": totals[i]}
    return about, by_unit


def _read(file: h5py.File, name: str) -> Any:
    return cast(h5py.Dataset, file[name])[()]


def _header(body: bytes) -> bytes:
    values = {"kind": KIND, "format": FORMAT_VERSION, "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    return json.dumps(values).encode().ljust(HEADER_BYTES, b"\0")


def _check(path: Path, data: bytes) -> None:
    start, body = data[:HEADER_BYTES], data[HEADER_BYTES:]
    try:
        header = json.loads(start.rstrip(b"\0"))
    except ValueError:
        header = None
    if not isinstance(header, dict) or not {"kind", "format", "bytes", "sha256"} <= set(header):
        raise InputError(f"{path} does not begin as Bases.save begins a file: it is of another kind, or damaged.")
    if header["kind"] != KIND or header["format"] != FORMAT_VERSION:
        raise InputError(
            f"{path} holds kind={header['kind']!r}, format={header['format']!r}; this version of residual_lens reads "
            f"kind={KIND!r}, format={FORMAT_VERSION}."
        )
    if header["bytes"] != len(body):
        raise InputError(
            f"{path} is cut short or was added to: {len(body)} bytes after its header, {header['bytes']} "
            "were written. Save it again."
        )
    if start != _header(body):
        raise InputError(f"{path} was changed since it was saved: its checksum differs. Save it again.")
