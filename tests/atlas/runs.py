"""Finished runs of ResiDual, written without training."""

from pathlib import Path

import torch
from torch import Tensor

from residual_lens.hooked import HookedViT
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


@torch.no_grad()
def edited(residual: ResiDual, hvit: HookedViT, unit: str, contribution: Tensor) -> Tensor:
    """What its hook makes of one contribution of a unit."""
    hook = dict(residual.hooks(hvit, "direct"))[hvit.units[unit].direct_hook_name]
    d_out = hvit.cfg.d_out
    values = torch.zeros(1, hvit.cfg.n_heads, d_out) if unit.startswith("L") else torch.zeros(1, d_out)
    values = hvit.units[unit].replace(values, contribution)
    return hvit.units[unit].read(hook(values, None))[0]
