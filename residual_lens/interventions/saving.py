"""A folder with `config.json` and `model.safetensors`, here or on the hub: written atomically, read with checks."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from inspect import formatannotation, isabstract
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from beartype import BeartypeConf
from beartype.door import is_bearable
from huggingface_hub import ModelCard, PyTorchModelHubMixin, snapshot_download
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from residual_lens.errors import InputError
from residual_lens.files import write_atomically

FORMAT_VERSION = 1
CONFIG, TENSORS, CARD = "config.json", "model.safetensors", "README.md"
NO_CARD = """---
library_name: residual_lens
tags: [residual_lens]
---
An adapter of residual_lens for a vision transformer. What it was trained on was not written down.
"""
NUMBERS = BeartypeConf(is_pep484_tower=True)
"""Of JSON: 1 is a float as well."""
Config = TypeVar("Config")
Found = TypeVar("Found", bound="HubAdapter")


class HubAdapter(PyTorchModelHubMixin):
    """`save_pretrained`, `push_to_hub` and `from_pretrained` for what has `save(folder)` and `load(folder, …)`.

    Nothing is ever unpickled, from the hub neither: what `load` does not read is not fetched.

    Example:
        >>> from residual_lens import ResiDual
        >>> residual.push_to_hub("me/residual-eurosat")  # doctest: +SKIP
        >>> residual = ResiDual.from_pretrained("me/residual-eurosat")  # doctest: +SKIP
    """

    save: Any
    """`save(folder)` writes the adapter, `config.json` included, in place of an older one."""
    load: Any
    """The class method `load(folder, …)` reads it, onto the CPU."""
    card: str = NO_CARD
    """The model card, Markdown behind a YAML head; it goes along when the adapter is saved, loaded and pushed."""

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride] - what it unpickles or ignores is left out
        cls: type[Found],
        where: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        **arguments: Any,
    ) -> Found:
        """Read an adapter from a folder or from the Hugging Face hub, onto the CPU.

        Args:
            where: a folder that `save_pretrained` wrote, or a repository, `ORG/REPO`.
            revision: branch, tag or commit of a repository.
            cache_dir: where downloads are kept.
            force_download: fetch what is there already as well.
            local_files_only: fetch nothing.
            token: for private repositories.
            arguments: what `load` takes besides the folder.

        Raises:
            InputError: no such folder or repository, not such an adapter, or asked of a class that has none of its own.
        """
        if isabstract(cls):
            raise InputError(
                f"{cls.__name__} stands for adapters of several kinds: call from_pretrained of what {where} holds, "
                "such as ResiDual, or load_adapter(folder, hvit) of residual_lens.training.methods, which takes any."
            )
        folder = Path(where)
        if not folder.is_dir():
            try:
                folder = Path(
                    snapshot_download(
                        str(where),
                        revision=revision,
                        cache_dir=cache_dir,
                        force_download=force_download,
                        local_files_only=local_files_only,
                        token=token,
                        allow_patterns=[CONFIG, TENSORS, CARD],
                    )
                )
            except (HFValidationError, OSError) as error:
                raise InputError(
                    f"{where} is no folder, and cannot be fetched from the Hugging Face hub: {error}"
                ) from error
        adapter = cls.load(folder, **arguments)
        if (folder / CARD).is_file():
            adapter.card = (folder / CARD).read_text(encoding="utf-8")
        return adapter

    def generate_model_card(self, *args: object, **kwargs: object) -> ModelCard:
        return ModelCard(self.card)

    def _save_pretrained(self, save_directory: Path) -> None:
        self.save(save_directory)
        # Written here, since the mixin leaves an older card as it is.
        write_atomically(save_directory / CARD, self.card.encode())


def save_folder(folder: str | Path, *, kind: str, config: Any, tensors: Mapping[str, Tensor]) -> None:
    """Write a configuration (a dataclass) and tensors.

    The configuration is written last and holds the digest of the tensors, so an interrupted save is noticed on loading.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    data = tensors_to_bytes({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    header = {"format": FORMAT_VERSION, "kind": kind, "sha256": hashlib.sha256(data).hexdigest()}
    text = json.dumps({**header, "config": asdict(config)}, indent=2, ensure_ascii=False)
    write_atomically(folder / TENSORS, data)
    write_atomically(folder / CONFIG, f"{text}\n".encode())


def load_folder(folder: str | Path, *, kind: str, config_type: type[Config]) -> tuple[Config, dict[str, Tensor]]:
    """Read what `save_folder` wrote.

    Raises:
        InputError: missing, of another kind or format, or damaged; the message says which.
    """
    folder = Path(folder)
    for name in (CONFIG, TENSORS):
        if not (folder / name).is_file():
            raise InputError(f"{folder} has no {name}: give a folder that {kind}.save wrote.")
    try:
        saved = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{folder / 'config.json'} is not JSON: {error}.") from error
    header = saved if isinstance(saved, dict) else {}
    if header.get("kind") != kind or header.get("format") != FORMAT_VERSION:
        raise InputError(
            f"{folder} holds kind={header.get('kind')!r}, format={header.get('format')!r}; expected kind={kind!r}, "
            f"format={FORMAT_VERSION}."
        )
    data = (folder / TENSORS).read_bytes()
    if hashlib.sha256(data).hexdigest() != header.get("sha256"):
        raise InputError(
            f"{folder / 'model.safetensors'} is not the file that config.json describes: the save was interrupted or a "
            "file was changed. Save again."
        )
    try:
        tensors = load_tensors(data)
        return _config(config_type, header.get("config"), tensors), tensors
    except (TypeError, SafetensorError) as error:
        raise InputError(f"{folder} cannot be read: {error}.") from error


def _config(config_type: type[Config], values: Any, tensors: Mapping[str, Tensor]) -> Config:
    names = {field.name for field in fields(config_type)}  # pyright: ignore[reportArgumentType] - a dataclass
    if not isinstance(values, dict) or set(values) != names:
        raise TypeError(
            f"config has fields {sorted(values) if isinstance(values, dict) else values}, not {sorted(names)}"
        )
    longest = max((side for tensor in tensors.values() for side in tensor.shape), default=0)
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    for name, hint in get_type_hints(config_type).items():
        value = given[name]
        # Whole numbers are sizes of tensors, in all configurations: larger ones would ask for room for nothing.
        numbers = [x for x in (value if isinstance(value, tuple) else [value]) if isinstance(x, int)]
        if not is_bearable(value, hint, conf=NUMBERS) or min(numbers, default=0) < 0:
            raise TypeError(f"{name} is {value!r}, expected {formatannotation(hint)}, not below 0")
        if hint is not float and max(numbers, default=0) > longest:
            raise TypeError(f"{name} is {max(numbers)}, and no side of its tensors is longer than {longest}")
    return config_type(**given)
