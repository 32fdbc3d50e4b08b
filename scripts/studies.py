"""What the studies share: which data, stores made when they are needed, results kept as JSON."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from residual_lens import HookedViT, ImageSet, Store, encode, open_images
from residual_lens.errors import InputError
from residual_lens.files import write_atomically
from residual_lens.training.runs.config import file_name


@dataclass(frozen=True)
class Study:
    """What every study asks for."""

    split: str = "train"
    """Of each data set."""
    limit: int | None = 10_000
    """Samples of each data set, at most; `None` for all there are."""
    seed: int = 42
    """Of splits and of what is drawn."""
    root: Path | None = None
    """Folder that holds the data sets."""
    download: bool = False
    """Fetch data sets that are not there."""
    stores: Path = Path("studies/stores")
    """Folder of the activation stores, which studies share."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where models run."""
    batch_size: int = 32
    """Images in a forward pass."""

    def settings(self) -> dict[str, Any]:
        """What results depend on, beyond model and data set."""
        return {"split": self.split, "limit": self.limit, "seed": self.seed}


class Stores:
    """A model's stores of several data sets. The model is loaded when a store is asked for, and not before."""

    def __init__(self, model: str, data: Sequence[str], study: Study) -> None:
        self.model = model
        self._data = data
        self._study = study
        self._hvit: HookedViT | None = None
        self._images: dict[str, ImageSet] = {}

    def open(self, data: str) -> Store:
        """The store of one data set, encoded as far as it is not there.

        All data sets are opened before the first is encoded, so that one that is missing is told of at once.
        """
        if self._hvit is None:
            hvit = HookedViT.from_pretrained(self.model, device=self._study.device)
            self._images = {name: self._opened(name, hvit.cfg.image_size[0]) for name in self._data}
            self._hvit = hvit
        study = self._study
        name = f"{file_name(self.model, data)}--{study.split}-{study.limit or 'all'}-{study.seed}.h5"
        store = encode(self._hvit, self._images[data], study.stores / name, batch_size=study.batch_size, progress=True)
        # None is for shards of several processes.
        return cast(Store, store)

    def _opened(self, name: str, image_size: int) -> ImageSet:
        study = self._study

        def opened(limit: int | None) -> ImageSet:
            return open_images(
                name,
                split=study.split,
                root=study.root,
                download=study.download,
                limit=limit,
                seed=study.seed,
                image_size=image_size,
            )

        images = opened(None)
        return images if study.limit is None or len(images) <= study.limit else opened(study.limit)


class Kept:
    """Results in a JSON file, with the settings they were made with."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        """Read what is there, or begin the file: from then on its folder belongs to these settings.

        Raises:
            InputError: made with other settings, or not made by a study.
        """
        self.path = path
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.results: dict[str, Any] = {}
        if not path.exists():
            return self._write()
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            made, self.results = saved["settings"], saved["results"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} is not what a study wrote ({error}): give another --out, or delete it."
            ) from error
        if made != self.settings:
            differing = [
                f"{name} was {made.get(name)!r}, is {value!r}"
                for name, value in self.settings.items()
                if made.get(name) != value
            ]
            raise InputError(
                f"{path} was made with other settings: {'; '.join(differing)}. Give another --out, or delete it."
            )

    def get(self, name: str, compute: Callable[[], Any]) -> Any:
        """A result, computed and written down if it is not there."""
        if name not in self.results:
            self.results[name] = compute()
            self._write()
        return self.results[name]

    def _write(self) -> None:
        text = json.dumps({"settings": self.settings, "results": self.results}, indent=1, ensure_ascii=False)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, f"{text}\n".encode())


def check_names(what: str, names: Sequence[str], at_least: int) -> None:
    """Refuse lists of models or data sets that make no study.

    Raises:
        InputError: too few, or one twice.
    """
    if len(set(names)) != len(names) or len(names) < at_least:
        raise InputError(f"--{what} takes at least {at_least}, each once; got {', '.join(names) or 'none'}.")
