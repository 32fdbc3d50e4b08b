"""A folder with `config.json` and `model.safetensors`: written atomically, read with checks, no pickle."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from residual_lens.errors import InputError
from residual_lens.files import write_atomically

FORMAT_VERSION = 1
Config = TypeVar("Config")


def save_folder(folder: str | Path, *, kind: str, config: Any, tensors: Mapping[str, Tensor]) -> None:
    """Write a configuration (a dataclass) and tensors.

    The configuration is written last and holds the digest of the tensors, so an interrupted save is noticed on loading.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    data = tensors_to_bytes({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    header = {"format": FORMAT_VERSION, "kind": kind, "sha256": hashlib.sha256(data).hexdigest()}
    text = json.dumps({**header, "config": asdict(config)}, indent=2, ensure_ascii=False)
    write_atomically(folder / "model.safetensors", data)
    write_atomically(folder / "config.json", f"{text}\n".encode())


def load_folder(folder: str | Path, *, kind: str, config_type: type[Config]) -> tuple[Config, dict[str, Tensor]]:
    """Read what `save_folder` wrote.

    Raises:
        InputError: missing, of another kind or format, or damaged; the message says which.
    """
    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise InputError(f"{folder} has no {name}: give a folder that {kind}.save wrote.")
    try:
        saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{folder / 'config.json'} is not JSON: {error}.") from error
    header = saved if isinstance(saved, dict) else {}
    if header.get("kind") != kind or header.get("format") != FORMAT_VERSION:
        raise InputError(
            f"{folder} holds kind={header.get('kind')!r}, format={header.get('format')!r}; expected kind={kind!r}, "
            f"format={FORMAT_VERSION}."
        )
    data = (folder / "model.safetensors").read_bytes()
    if hashlib.sha256(data).hexdigest() != header.get("sha256"):
        raise InputError(
            f"{folder / 'model.safetensors'} is not the file that config.json describes: the save was interrupted or a "
            "file was changed. Save again."
        )
    try:
        return _config(config_type, header.get("config")), load_tensors(data)
    except (TypeError, SafetensorError) as error:
        raise InputError(f"{folder} cannot be read: {error}.") from error


def _config(config_type: type[Config], values: Any) -> Config:
    names = {field.name for field in fields(config_type)}  # pyright: ignore[reportArgumentType] - a dataclass
    if not isinstance(values, dict) or set(values) != names:
        raise TypeError(
            f"config has fields {sorted(values) if isinstance(values, dict) else values}, not {sorted(names)}"
        )
    return config_type(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})
