"""What a run has reached: its epochs, and the weights that were best."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class TrainingLog:
    """What happened in a training run."""

    validation_accuracy: tuple[float, ...]
    """Before training, then after every epoch; in [0, 1]."""
    train_loss: tuple[float, ...]
    """Mean cross-entropy of every epoch, in nats."""
    best_epoch: int
    """Epoch whose weights were kept; 0 is the start."""
    seconds: float
    """Wall-clock time, without interruptions."""
    learning_rate: float
    """What AdamW was given, or what the range test found."""
    epochs: int
    """Passes over the training samples."""
    steps: int
    """Updates of the parameters."""


@dataclass
class Progress:
    """Grows by a row an epoch; a checkpoint holds it whole."""

    learning_rate: float
    """What AdamW is given."""
    accuracies: list[float] = field(default_factory=list)
    """On validation, the start first."""
    losses: list[float] = field(default_factory=list)
    """Mean cross-entropy of each epoch."""
    seconds: list[float] = field(default_factory=list)
    """From the call to the end of each epoch, the start first."""
    steps: int = 0
    """Updates so far."""
    best_epoch: int = 0
    """Epoch of the best accuracy, the first of equals."""
    best: list[Tensor] = field(default_factory=list)
    """The parameters then, on the CPU."""

    def add(self, accuracy: float, seconds: float, parameters: Sequence[nn.Parameter]) -> None:
        """An epoch's validation; its parameters are kept if it is the best."""
        if not self.accuracies or accuracy > self.accuracies[self.best_epoch]:
            self.best_epoch = len(self.accuracies)
            self.best = snapshot(parameters)
        self.accuracies.append(accuracy)
        self.seconds.append(seconds)

    def ended(self, max_epochs: int, patience: int) -> bool:
        """Whether the last epoch is done, or the accuracy has not risen for so many."""
        epoch = len(self.losses)
        return epoch >= max_epochs or epoch - self.best_epoch >= patience

    def state(self) -> dict[str, Any]:
        """Numbers and tensors, for a checkpoint."""
        return dict(vars(self))

    def load(self, state: dict[str, Any]) -> None:
        """What `state` gave."""
        vars(self).update(state)

    def rows(self) -> list[tuple[int, float | None, float, float]]:
        """Epoch, training loss, validation accuracy, seconds, for each epoch and the start."""
        losses = [None, *self.losses]
        return list(zip(range(len(self.accuracies)), losses, self.accuracies, self.seconds, strict=True))

    def log(self) -> TrainingLog:
        """For the caller."""
        return TrainingLog(
            validation_accuracy=tuple(self.accuracies),
            train_loss=tuple(self.losses),
            best_epoch=self.best_epoch,
            seconds=self.seconds[-1],
            learning_rate=self.learning_rate,
            epochs=len(self.losses),
            steps=self.steps,
        )


def snapshot(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Copies on the CPU: on an accelerator a second model would take the room of batches."""
    return [parameter.detach().to("cpu", copy=True) for parameter in parameters]


@torch.no_grad()
def restore(parameters: Sequence[nn.Parameter], kept: Sequence[Tensor], device: torch.device) -> None:
    """Put a snapshot back, onto the device where the parameters were: Lightning leaves them on the CPU."""
    for parameter, value in zip(parameters, kept, strict=True):
        if parameter.device != device:
            parameter.data = parameter.data.to(device)
        parameter.copy_(value)
