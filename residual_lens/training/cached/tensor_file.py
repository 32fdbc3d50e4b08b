"""One safetensors file written piece by piece and read through a memory map, for tensors larger than memory."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from torch import Tensor

from residual_lens.errors import InputError, MismatchError
from residual_lens.files import replacing

NAMES = {torch.float32: "F32", torch.float64: "F64", torch.bfloat16: "BF16", torch.int64: "I64"}

Write = Callable[[str, int, Shaped[Tensor, "row *rest"]], None]
"""Puts rows into the tensor of a name, from a row on."""


@contextmanager
def writing(path: Path, shapes: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], digest: str) -> Iterator[Write]:
    """A file that is there, under its name, only once the block has ended well.

    The format (https://github.com/huggingface/safetensors, "Format") is the length of the header as eight bytes, the
    header as JSON, then the tensors. Rows go to their places by ordinary writes: a full disk is then an error, where
    a write to a memory map would end the process.

    Args:
        path: where.
        shapes: by name, the tensors' dtypes and shapes. Every row must be written.
        digest: of what they are computed from.
    """
    starts, end = {}, 0
    header: dict[str, Any] = {"__metadata__": {"digest": digest}}
    for name, (dtype, shape) in shapes.items():
        starts[name], end = end, end + dtype.itemsize * prod(shape)
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [starts[name], end]}
    text = json.dumps(header).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)

        def write(name: str, row: int, rows: Shaped[Tensor, "row *rest"]) -> None:
            dtype, shape = shapes[name]
            file.seek(8 + len(text) + starts[name] + row * dtype.itemsize * prod(shape[1:]))
            file.write(rows.to(dtype).contiguous().view(torch.uint8).numpy().data)

        yield write


def mapped(path: Path, digest: str) -> dict[str, Tensor]:
    """The tensors of a file, read from disk when they are used.

    Raises:
        InputError: not a file of `writing`, or cut short.
        MismatchError: computed from something else.
    """
    try:
        with safe_open(path, "pt") as file:
            found = (file.metadata() or {}).get("digest")
            if found != digest:
                raise MismatchError(
                    f"{path} holds coordinates with digest {str(found)[:12]}, not {digest[:12]}: of another adapter, "
                    "source, choice of rows, labels or dtype. Delete it, or give another file."
                )
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise InputError(f"{path} is no file of coordinates, or damaged: {error}. Delete it.") from error
