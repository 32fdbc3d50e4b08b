"""Adapters of every method in folders, and back."""

import json
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

from torch import Tensor, nn

from residual_lens.errors import InputError
from residual_lens.interventions import Adapter
from residual_lens.interventions.saving import save_folder


class SavedAdapter(Adapter):
    """An adapter that a configuration and its tensors tell whole."""

    @property
    @abstractmethod
    def config(self) -> Any:
        """What it is besides its tensors: a frozen dataclass."""

    def save(self, folder: str | FilePath) -> None:
        """Write `config.json` and `model.safetensors` into a folder, replacing an older save."""
        save_folder(folder, kind=type(self).__name__, config=self.config, tensors=self.state_dict())


def fill(adapter: nn.Module, tensors: Mapping[str, Tensor], folder: str | FilePath) -> None:
    """Give an adapter the tensors that were read with its configuration.

    Raises:
        InputError: others than it has.
    """
    try:
        adapter.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{folder}: config.json and model.safetensors do not belong together ({reason}).") from error


def kind_of(folder: str | FilePath) -> str:
    """Which class wrote a folder.

    Raises:
        InputError: none did.
    """
    path = FilePath(folder) / "config.json"
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} is no saved adapter: {error}.") from error
    if not isinstance(header, dict) or not isinstance(header.get("kind"), str):
        raise InputError(f"{path} names no kind of adapter: give a folder that an adapter's save wrote.")
    return header["kind"]
