"""What a run is: everything that decides its numbers, and where and how it is made."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from residual_lens.errors import InputError

Classifier = Literal["auto", "text", "means"]
Start = Literal["randn", "ones", "spectrum"]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
Logger = Literal["csv", "tensorboard", "wandb"]
NAMED = ("model", "data", "method", "seed")
"""Settings that a run's folder is called by."""
PATHS = ("folder:", "hf:")
"""What stands before the places of data without a name of their own."""


@dataclass(frozen=True)
class RunConfig:
    """One method on one data set with one model: everything that decides the numbers.

    Example:
        >>> RunConfig("attribute-clip", "digits", "residual").folder_name
        'attribute-clip--digits--residual--0'
        >>> RunConfig("open_clip:ViT-B-16/openai", "attributes:shape", "residual*", seed=2, shots=4).folder_name
        'open_clip-ViT-B-16-openai--attributes-shape--residual-star--2--cc71abf3'
    """

    model: str
    """A name as in `residual-lens models`."""
    data: str
    """A name as in `residual-lens data`, `folder:PATH` (one subfolder a class, split by us where it is not), or
    `hf:ORG/REPO`."""
    method: str
    """zero-shot, coarse, residual*, residual, residual-stream, spectral-output, linear, linear-probe, lora, svd or
    finetune."""
    seed: int = 0
    """Of λ's start, of the order of samples, of what `shots` chooses."""
    data_seed: int = 42
    """Of splits, of `limit` and of what is drawn or rendered; 42 in the paper."""
    limit: int | None = None
    """At most so many samples of each split, in proportion to the classes."""
    shots: int | None = None
    """Train on so many samples of each class. Bases are fitted on the whole training split, whose labels they do not
    see; validation and test stay whole."""
    classifier: Classifier = "auto"
    """text: prompts through the text tower. means: the unit-norm class means of the training samples' embeddings.
    auto: text where the model has a text tower, else means."""
    templates: str = "auto"
    """imagenet (CLIP's 80), imagenet-simple (7 of them), or a text with one {} for the class, as in 'a photo of a {}.'.
    auto: the captions' own for digits and attributes, else imagenet."""
    bases: str = "own"
    """own: fitted on the training split. Or the path of a store, or of a file that Bases.save wrote: ImageNet's."""
    units: tuple[str, ...] = ()
    """Units whose components ResiDual rescales, such as heads, L11 or L3H5; by default all that its variant is for."""
    explained_variance: float = 0.9
    """Share of a head's variance that the components of residual* reach."""
    scales: Start = "randn"
    """Where λ starts: randn is 1 + N(0, 1) as in the paper, or ones, or spectrum."""
    keep_mean: bool = False
    """Add the mean back, which the paper does not."""
    rank: int = 8
    """Of lora: the rank of what is added to a weight."""
    l1: float = 0.0
    """Weight of Σ|λ| in the loss."""
    epochs: int = 30
    """At most so many passes over the training samples."""
    patience: int = 5
    """Epochs without a rise of the validation accuracy before training stops."""
    batch_size: int = 64
    """Samples in a step, on all devices together."""
    learning_rate: float | None = None
    """Of schedule-free AdamW; the method's own by default."""
    find_learning_rate: bool = False
    """Take the rate that a range test finds (Smith 2017)."""
    precision: Precision = "32-true"
    """Of the arithmetic, as Lightning calls it; parameters stay as they are."""
    augment: bool = False
    """Random crops and reflections of the training images, which then run through the model at each step."""
    image_column: str | None = None
    """Of a Hugging Face data set with several image columns."""
    label_column: str | None = None
    """Of a Hugging Face data set with several label columns."""

    def __post_init__(self) -> None:
        _check_numbers(self, 1, "limit", "shots", "rank", "epochs", "patience", "batch_size")
        _check_numbers(self, 0, "seed", "data_seed")
        _check_names(self, classifier=Classifier, scales=Start, precision=Precision)
        if not 0 < self.explained_variance <= 1:
            raise InputError(f"explained_variance is a share in (0, 1], got {self.explained_variance}.")
        if not 0 <= self.l1 < float("inf"):
            raise InputError(f"l1 is a weight of 0 or more, got {self.l1}.")
        if self.learning_rate is not None and not 0 < self.learning_rate <= 1e38:
            raise InputError(f"learning_rate is a number up to 1e38 and above 0, got {self.learning_rate}.")
        if self.learning_rate is not None and self.find_learning_rate:
            raise InputError(f"Got learning_rate={self.learning_rate} and find_learning_rate: give one of them.")

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunConfig":
        """What `to_dict` gave; fields that are not there have their default.

        Raises:
            InputError: fields that no run has.
        """
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise InputError(f"A run has no setting {', '.join(sorted(unknown))}.")
        given: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in values.items()}
        return cls(**given)

    @property
    def options(self) -> dict[str, Any]:
        """Settings other than model, data, method and seed that are not the defaults, as JSON has them."""
        values = self.to_dict()
        default = RunConfig(self.model, self.data, self.method).to_dict()
        return {name: value for name, value in values.items() if name not in NAMED and value != default[name]}

    @property
    def folder_name(self) -> str:
        """What the run's folder is called: model, data, method, seed, and a digest of what else is not the default."""
        parts = [self.model, _called(self.data), self.method, str(self.seed)]
        others = self.options | ({"data": self.data} if _called(self.data) != self.data else {})
        if others:
            parts.append(hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()[:8])
        return file_name(*parts)


@dataclass(frozen=True)
class Resources:
    """Where a run finds what it needs and what it runs on; no ground for other numbers than those of rounding."""

    stores: Path = Path("stores")
    """Folder of the activation stores, which runs share."""
    root: Path | None = None
    """Folder that holds the data, or is to hold them."""
    download: bool = False
    """Fetch the data if they are not there."""
    device: str | None = None
    """Where models run; a GPU if there is one."""
    devices: int = 1
    """Devices to train on, on each node; they share each batch."""
    num_nodes: int = 1
    """Nodes to train on."""
    workers: int | None = None
    """Processes that load images; one for each CPU on a GPU, else none."""
    encode_batch_size: int = 32
    """Images in a forward pass when a store is made."""
    logger: Logger = "csv"
    """Where metrics go besides metrics.csv: tensorboard and wandb must be installed."""

    def __post_init__(self) -> None:
        _check_numbers(self, 1, "devices", "num_nodes", "encode_batch_size")
        _check_numbers(self, 0, "workers")
        # Frozen; texts are taken as well.
        object.__setattr__(self, "stores", Path(self.stores))
        object.__setattr__(self, "root", None if self.root is None else Path(self.root))
        _check_names(self, logger=Logger)


def file_name(*parts: str) -> str:
    """A name for files, of models, data sets and the like.

    >>> file_name("clip-l", "attributes:shape@sketch")
    'clip-l--attributes-shape@sketch'
    """
    safe = ("".join(c if c.isalnum() or c in "-_.@" else "-" for c in part.replace("*", "-star")) for part in parts)
    return "--".join(safe)


def _check_numbers(settings: RunConfig | Resources, lowest: int, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is None and type(settings).__dataclass_fields__[name].default is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool):
            raise InputError(f"{name} is a whole number, got {value!r}.")
        if value < lowest:
            raise InputError(f"{name} starts at {lowest}, got {value}.")


def _check_names(settings: RunConfig | Resources, **known: Any) -> None:
    for name, names in known.items():
        value = getattr(settings, name)
        if value not in get_args(names):
            raise InputError(f"{name} is one of {', '.join(get_args(names))}, got {value!r}.")


def _called(data: str) -> str:
    """A data set's name without the folders that lead to it."""
    kind = next((prefix for prefix in PATHS if data.startswith(prefix)), "")
    rest = data.removeprefix(kind)
    # A repository's name is no path.
    return data if kind == "hf:" and not os.path.isdir(rest) else kind + Path(rest).name
