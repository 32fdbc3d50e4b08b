"""Dictionaries in one safetensors file each, whose metadata vouches for its contents."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from residual_lens.errors import InputError
from residual_lens.files import write_atomically

KIND = "residual_lens.Dictionary"
FORMAT_VERSION = 1


def write_dictionary(
    path: Path, texts: Sequence[str], embeddings: Float[Tensor, "atom d_out"], provenance: Mapping[str, Any]
) -> None:
    """Write texts, embeddings and provenance.

    Raises:
        InputError: provenance that JSON cannot hold.
    """
    about = {"texts": list(texts), "provenance": dict(provenance)}
    exact = embeddings.detach().float().cpu().contiguous()
    try:
        header = json.dumps({"format": FORMAT_VERSION, "sha256": _digest(about, exact), **about}, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"The provenance of this dictionary cannot be written as JSON: {error}.") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    # One entry, because safetensors writes several in any order: the same dictionary is the same file.
    write_atomically(path, save({"embeddings": exact}, metadata={KIND: header}))


def read_dictionary(path: Path) -> tuple[tuple[str, ...], Float[Tensor, "atom d_out"], dict[str, Any]]:
    """What `write_dictionary` wrote.

    Raises:
        InputError: see `Dictionary.load`.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}: give one that Dictionary.save wrote.")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(KIND, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{path} is no safetensors file, cut short or changed: {error}.") from error
    header = header if isinstance(header, dict) else {}
    if header.get("format") != FORMAT_VERSION:
        raise InputError(
            f"{path} holds no {KIND} of format {FORMAT_VERSION}, which this version of residual_lens reads, but "
            f"format {header.get('format')!r} and {', '.join(tensors) or 'nothing'}."
        )
    about = {name: header.get(name) for name in ("texts", "provenance")}
    if set(tensors) != {"embeddings"} or header.get("sha256") != _digest(about, tensors["embeddings"]):
        raise InputError(f"{path} was changed since it was saved: its checksum differs. Save it again.")
    return tuple(header["texts"]), tensors["embeddings"], header["provenance"]


def _digest(about: Mapping[str, Any], embeddings: Float[Tensor, "atom d_out"]) -> str:
    digest = hashlib.sha256(json.dumps(about, ensure_ascii=False, allow_nan=False).encode())
    digest.update(f"{tuple(embeddings.shape)}:{embeddings.dtype}".encode())
    digest.update(embeddings.contiguous().numpy().data)
    return digest.hexdigest()
