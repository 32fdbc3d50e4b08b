"""Lightning's Trainer for one call: on the model's device, silent, and leaving the process as it was."""

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger

from residual_lens.errors import InputError
from residual_lens.training.fitting.callbacks import EachEpoch, WholeFiles
from residual_lens.training.fitting.settings import Job

CHATTER = ("lightning", "lightning.pytorch", "lightning.fabric")
"""Loggers that tell of devices, of how many parameters there are and of how training ended."""
ADVICE = (
    "The '.*dataloader' does not have many workers",
    "The `srun` command is available",
    "Total length of `list` across ranks is zero",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
)
"""Beginnings of warnings about what is meant, and about Lightning's own use of torch."""


def trainer_for(
    job: Job,
    *,
    callback: EachEpoch | None,
    logger: Logger | None,
    progress: bool,
    resumed: bool,
    scratch: Path,
) -> Trainer:
    """A Trainer that does what `train_adapter` was asked for.

    Args:
        job: says on which device, and how long.
        callback: writes checkpoints, if any are wanted.
        logger: beside `metrics.csv`.
        progress: show a bar.
        resumed: validation before training was already done.
        scratch: folder for what nobody keeps.
    """
    device, settings = job.device, job.settings
    several = settings.devices > 1 or settings.num_nodes > 1
    # Processes that Lightning starts itself end with the call; under torchrun or Slurm there are some already.
    are_started = TorchElasticEnvironment.detect() or SLURMEnvironment.detect()
    return Trainer(
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=[device.index or 0] if device.type == "cuda" and not several else settings.devices,
        num_nodes=settings.num_nodes,
        strategy=("ddp" if are_started else "ddp_spawn") if several else "auto",
        precision=cast(Any, settings.precision),
        max_epochs=settings.max_epochs,
        num_sanity_val_steps=0 if resumed else -1,
        use_distributed_sampler=False,
        callbacks=[] if callback is None else [callback],
        plugins=[WholeFiles()],
        enable_checkpointing=callback is not None,
        enable_progress_bar=progress,
        enable_model_summary=False,
        logger=logger or False,
        log_every_n_steps=1,
        default_root_dir=scratch,
    )


@contextmanager
def undisturbed() -> Iterator[None]:
    """Lightning without its chatter; random generators, gradient mode, environment and Ctrl-C as they were before.

    Lightning makes a `SystemExit` of a KeyboardInterrupt and ignores further ones for good.
    """
    levels = {name: logging.getLogger(name).level for name in CHATTER}
    environment = dict(os.environ)
    in_main = threading.current_thread() is threading.main_thread()
    on_interrupt = signal.getsignal(signal.SIGINT)
    with warnings.catch_warnings(), torch.random.fork_rng(), torch.enable_grad():
        try:
            silence()
            yield
        except SystemExit as stop:
            if isinstance(stop.__context__, KeyboardInterrupt):
                raise stop.__context__ from None
            raise
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
            for name in set(os.environ) - set(environment):
                del os.environ[name]
            os.environ.update(environment)
            if in_main:
                signal.signal(signal.SIGINT, on_interrupt)


def silence() -> None:
    """No chatter from here on; for good in a process that only trains."""
    for advice in ADVICE:
        warnings.filterwarnings("ignore", advice)
    for name in CHATTER:
        logging.getLogger(name).setLevel(logging.WARNING)


def logger_named(name: str, folder: Path | None) -> Logger | None:
    """What Lightning logs to; `metrics.csv` is written in any case.

    Raises:
        InputError: no such logger, not installed, no folder to write to, or no key for what it writes to.
    """
    if name == "csv":
        return None
    if name not in ("tensorboard", "wandb"):
        raise InputError(f"logger is 'csv', 'tensorboard' or 'wandb', got {name!r}.")
    if folder is None:
        raise InputError(f"logger={name!r} writes into a folder: pass folder=.")
    from lightning.pytorch import loggers

    options: dict[str, Any] = {"save_dir": folder}
    try:
        if name == "tensorboard":
            return loggers.TensorBoardLogger(**options, name="", version="tensorboard")
        logger = loggers.WandbLogger(**options, project="residual_lens", name=folder.name)
    except ModuleNotFoundError as error:
        raise InputError(f"logger={name!r} needs a package that is not installed: pip install {name}.") from error
    from wandb import login
    from wandb.errors import Error

    try:
        # Without a key the first thing logged would fail.
        login()
    except Error as error:
        raise InputError(f"logger='wandb' cannot log in: {error} Or set WANDB_MODE=offline.") from error
    return logger
