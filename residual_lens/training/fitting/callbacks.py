"""What Lightning's Trainer is given to write checkpoints with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from residual_lens.files import remove_leftovers, replacing
from residual_lens.training.fitting.checkpoints import LAST, write_metrics
from residual_lens.training.fitting.progress import Progress


class WholeFiles(TorchCheckpointIO):
    """Checkpoints that replace the one before only when they are on the disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        with replacing(path) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> Any:
        """Tensors, numbers and texts; nothing else is ever unpickled."""
        return torch.load(path, map_location=map_location, weights_only=True)


class EachEpoch(Checkpoint):
    """Writes the checkpoint and `metrics.csv` after each epoch; both say the same, as both are made of `Progress`."""

    def __init__(self, folder: Path, run: Mapping[str, Any]) -> None:
        self._folder = folder
        self._run = dict(run)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            remove_leftovers(self._folder, (self._folder / LAST).parent)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["run"] = self._run

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self._folder / LAST)
        if trainer.is_global_zero:
            write_metrics(self._folder, cast(Progress, pl_module.progress))
