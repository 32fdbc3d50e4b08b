"""What the studies share: which models on which data, stores made when they are needed, results kept as JSON."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from residual_lens import HookedViT, Store, encode
from residual_lens.data import open_images
from residual_lens.errors import InputError
from residual_lens.files import write_atomically


@dataclass(frozen=True)
class Source:
    """One data set, as a study's command names it."""

    data: str
    split: str
    limit: int | None
    root: Path | None
    download: bool
    seed: int


class Encoder:
    """Stores of one model, which is loaded when the first store that is missing asks for it."""

    def __init__(self, model: str, folder: Path, *, device: str, batch_size: int) -> None:
        self.model = model
        self._folder = folder
        self._device = device
        self._batch_size = batch_size
        self._hvit: HookedViT | None = None

    def store(self, source: Source) -> Store:
        """The model's store of some data, encoded or finished if it is not there."""
        if self._hvit is None:
            self._hvit = HookedViT.from_pretrained(self.model, device=self._device)
        images = open_images(
            source.data,
            split=source.split,
            root=source.root,
            download=source.download,
            limit=source.limit,
            seed=source.seed,
            image_size=self._hvit.cfg.image_size[0],
        )
        path = self._folder / f"{file_name(self.model, source.data)}.h5"
        store = encode(self._hvit, images, path, batch_size=self._batch_size, progress=True)
        assert store is not None  # noqa: S101 - one process
        return store


def file_name(*parts: str) -> str:
    """A file name for models and data sets."""
    return "--".join("".join(c if c.isalnum() or c in "-_.@" else "-" for c in part) for part in parts)


class Kept:
    """Results in a JSON file, with the settings they were made with."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        """Read what is there.

        Raises:
            InputError: made with other settings.
        """
        self.path = path
        self.settings = json.loads(json.dumps(settings))
        self.results: dict[str, Any] = {}
        if path.exists():
            saved = json.loads(path.read_text(encoding="utf-8"))
            if saved["settings"] != self.settings:
                raise InputError(
                    f"{path} was made with {saved['settings']}, not {self.settings}: give another --out, or delete it."
                )
            self.results = saved["results"]

    def get(self, name: str, compute: Callable[[], Any]) -> Any:
        """A result, computed and written down if it is not there."""
        if name not in self.results:
            self.results[name] = compute()
            text = json.dumps({"settings": self.settings, "results": self.results}, indent=1, ensure_ascii=False)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, f"{text}\n".encode())
        return self.results[name]
