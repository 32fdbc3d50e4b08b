"""What a run found, as one flat JSON object."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from residual_lens.errors import InputError
from residual_lens.files import write_atomically
from residual_lens.training.runs.config import RunConfig

CONFIG = "config.json"
"""What a run was asked for."""
RESULT = "result.json"
"""What it reached; it is there once the run has finished."""


@dataclass(frozen=True)
class RunResult:
    """What a run found; `line` says it in one line."""

    config: RunConfig
    """The run's settings."""
    path: str
    """"direct" or "stream"."""
    variant: str | None
    """Of ResiDual: "residual*" or "residual"."""
    classifier: str
    """What `config.classifier` came to: "text" or "means"."""
    n_classes: int
    """Classes."""
    n_train: int
    """Samples that were trained on."""
    n_validation: int
    """Samples that decided when to stop."""
    n_test: int
    """Samples that were tested on."""
    parameters: int
    """Numbers trained."""
    learning_rate: float | None
    """The rate that was used; `None` where nothing is trained."""
    seconds: float
    """Wall-clock time of training, without stores, bases and the test."""
    epochs: int
    """Passes over the training samples."""
    best_epoch: int
    """Epoch whose weights were kept; 0 is the start."""
    validation_accuracy: float
    """Of the weights that were kept, in [0, 1]."""
    test_accuracy: float
    """In [0, 1]."""

    @property
    def line(self) -> str:
        """All in one readable line."""
        config = self.config
        start = f"none of {self.epochs} epochs better than the untrained start"
        best = f"best epoch {self.best_epoch} of {self.epochs}" if self.best_epoch else start
        trained = f"{self.parameters:,} parameters, {best}, {self.seconds:.1f} s"
        options = "".join(f", {name} {_said(value)}" for name, value in config.options.items())
        return (
            f"{config.model}, {config.data}, {config.method}, seed {config.seed}{options}: "
            f"test {self.test_accuracy:.2%} of {self.n_test:,}, validation {self.validation_accuracy:.2%} "
            f"({trained if self.parameters else 'nothing trained'})"
        )

    def to_dict(self) -> dict[str, Any]:
        """One flat object: settings, and what came of them (of the learning rate, the one that was used)."""
        found = asdict(self)
        del found["config"]
        found["classifier"] = self.classifier
        return {**self.config.to_dict(), **found}

    def save(self, folder: str | Path) -> None:
        """Write `result.json`."""
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False)
        write_atomically(Path(folder) / RESULT, f"{text}\n".encode())

    @classmethod
    def load(cls, folder: str | Path) -> "RunResult":
        """Read a finished run's folder.

        Raises:
            InputError: no folder of a finished run.
        """
        folder = Path(folder)
        config, found = load_config(folder), read_json(folder / RESULT)
        names = {field.name for field in fields(cls)} - {"config"}
        if not names <= set(found):
            raise InputError(
                f"{folder / RESULT} lacks {', '.join(sorted(names - set(found)))}: delete it, and run again."
            )
        return cls(config=config, **{name: found[name] for name in names})


def load_config(folder: Path) -> RunConfig:
    """The settings of a run that was begun.

    Raises:
        InputError: no run's folder, or settings that no run has.
    """
    saved = read_json(folder / CONFIG)
    try:
        return RunConfig.from_dict(saved)
    except (TypeError, InputError) as error:
        raise InputError(f"{folder / CONFIG} is no run's: {error} Delete the folder, or give another.") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InputError: no such file, or something else.
    """
    if not path.is_file():
        raise InputError(f"There is no {path}: give the folder of a run that `residual-lens train` finished.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): delete it, and run again.") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} is no JSON object: delete it, and run again.")
    return found


def _said(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)
