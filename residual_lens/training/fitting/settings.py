"""What `train_adapter` was asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import torch
from torch import nn

from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT
from residual_lens.interventions import Adapter, Path
from residual_lens.text import ZeroShotClassifier
from residual_lens.training.splits.batches import Split

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""Lightning's names; parameters stay as they are in all of them."""


@dataclass(frozen=True)
class Settings:
    """Numbers and names that decide a run beside its adapter, model and samples."""

    path: str
    """As for `Adapter.attached`."""
    learning_rate: float
    """Of AdamW, unless a range test finds it."""
    find_learning_rate: bool
    """Whether one does."""
    max_epochs: int
    """At most so many passes."""
    patience: int
    """Epochs without a rise."""
    batch_size: int
    """Samples per step, over all processes."""
    seed: int
    """Of the order of samples, of crops and of dropout."""
    l1: float
    """Factor on Σ|λ|."""
    precision: str
    """One of `PRECISIONS`."""
    devices: int
    """Processes on a node."""
    num_nodes: int
    """Nodes."""

    def __post_init__(self) -> None:
        counts = {
            name: getattr(self, name) for name in ("max_epochs", "patience", "batch_size", "devices", "num_nodes")
        }
        # Beyond, float32 holds no step of it.
        if min(counts.values()) < 1 or not 0 < self.learning_rate <= 1e38:
            raise InputError(
                f"Epochs, patience, batch size, devices and nodes start at 1, the rate above 0, up to 1e38; got "
                f"{counts}, learning_rate={self.learning_rate}."
            )
        if not 0 <= self.l1 < float("inf"):
            raise InputError(f"l1 is a factor on Σ|λ|, 0 or more; got {self.l1}.")
        if self.path not in get_args(Path):
            raise InputError(f"path must be 'direct' or 'stream', got {self.path!r}.")
        if self.precision not in PRECISIONS:
            raise InputError(
                f"precision is one of {', '.join(PRECISIONS)}, got {self.precision!r}; for another dtype throughout, "
                "cast the model."
            )


@dataclass(frozen=True, eq=False)
class Job:
    """What is trained, on what, and how."""

    adapter: Adapter
    """Trained in place."""
    hvit: HookedViT
    """What it is an edit of."""
    classifier: ZeroShotClassifier
    """Of the task."""
    splits: Mapping[str, Split]
    """By name: train, validation."""
    settings: Settings
    """The rest."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained, in one order."""
        return [parameter for parameter in self.adapter.parameters() if parameter.requires_grad]

    @cached_property
    def device(self) -> torch.device:
        """Where the model is when the job is made."""
        return self.hvit.device
