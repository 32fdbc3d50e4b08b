"""Finished runs of ResiDual, written without training."""

from pathlib import Path

import torch

from residual_lens.interventions import ResiDual
from residual_lens.training.runs import ADAPTER, RunConfig, RunResult
from residual_lens.training.runs.folder import save_config


def finished(residual: ResiDual, folder: Path, config: RunConfig) -> Path:
    """A folder as `residual-lens train` leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_config(folder, config)
    residual.save(folder / ADAPTER)
    RunResult(
        config=config,
        path="direct",
        variant=residual.config.variant,
        classifier="text",
        n_classes=3,
        n_train=9,
        n_validation=9,
        n_test=9,
        parameters=residual.parameter_count(),
        learning_rate=0.8,
        seconds=1.0,
        epochs=1,
        best_epoch=1,
        validation_accuracy=0.5,
        test_accuracy=0.5,
    ).save(folder)
    return folder


def trained(residual: ResiDual) -> ResiDual:
    """λ far from where they started, in both directions."""
    draw = torch.randn(residual.scales.shape, generator=torch.Generator().manual_seed(8))
    residual.scales.data.add_(draw)
    return residual
