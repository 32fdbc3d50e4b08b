"""One run of Lightning's Trainer, from where an earlier call was interrupted if there was one."""

import contextlib
import io
import logging
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch.tuner.tuning import Tuner
from torch.multiprocessing.spawn import ProcessRaisedException

from residual_lens.errors import ResidualLensError
from residual_lens.training.cached import Coordinates
from residual_lens.training.fitting.callbacks import EachEpoch
from residual_lens.training.fitting.checkpoints import LAST, checkpoint_to_resume, saved_state, write_metrics
from residual_lens.training.fitting.identity import identity
from residual_lens.training.fitting.module import AdapterTraining
from residual_lens.training.fitting.progress import Progress, restore, snapshot
from residual_lens.training.fitting.settings import Job
from residual_lens.training.fitting.trainer import logger_named, trainer_for, undisturbed
from residual_lens.training.splits.batches import embed, evaluation_batches, on_device

RATES = (1e-6, 10.0)
"""Lowest and highest rate of the range test."""
RANGE_STEPS = 100
"""Steps between them, at rates that grow by one factor."""
SKIPPED = 10
"""Steps at the lowest rates that are left out: the running mean is of too few losses there."""
SPAN = 10
"""Steps over which the loss must have fallen most: one of them alone falls by noise."""


def fit(job: Job, started: float, *, folder: Path | None, logger: str, progress: bool) -> Progress:
    """Train, and leave the adapter with the best weights, also after an exception.

    Args:
        job: checked.
        started: when the call was made, by `time.perf_counter`.
        folder: see `train_adapter`, as all that follow.
        logger: see there.
        progress: see there.
    """
    start = snapshot(job.parameters)
    reached = Progress(job.settings.learning_rate, best=start)
    with TemporaryDirectory() as scratch, undisturbed():
        logs = logger_named(logger, folder)
        # Several processes leave their state somewhere in any case.
        state = folder or (Path(scratch) if job.settings.devices * job.settings.num_nodes > 1 else None)
        run = {} if folder is None else identity(job)
        resumed = folder is not None and checkpoint_to_resume(folder / LAST, run, job.parameters)
        if job.settings.find_learning_rate and not resumed:
            reached.learning_rate = found_rate(job, Path(scratch), progress=progress)
        module = AdapterTraining(job, reached, started=started)
        trainer = trainer_for(
            job,
            callback=None if state is None else EachEpoch(state, run),
            logger=logs,
            progress=progress,
            resumed=resumed,
            scratch=Path(scratch),
        )
        try:
            trainer.fit(module, ckpt_path=state / LAST if resumed and state else None, weights_only=True)
        except BaseException as error:
            # The checkpoint alone tells what other processes have reached, and what the same call can go on from.
            if state is not None:
                found = (state / LAST).exists()
                reached.best = saved_state(state / LAST)["state_dict"]["_extra_state"]["best"] if found else start
            if isinstance(error, ProcessRaisedException):
                raise ResidualLensError(f"Training failed in another process: {error}") from error
            raise
        finally:
            module.detach()
            restore(job.parameters, reached.best, job.device)
        if folder is not None:
            write_metrics(folder, reached)
        _warn_if_diverged(job, reached)
    return reached


def _warn_if_diverged(job: Job, reached: Progress) -> None:
    """Numbers may stay finite, and the start the best: then the loss alone tells that the steps were too long."""
    if reached.best_epoch or reached.losses[-1] <= (before := mean_loss(job, "train")):
        return
    logging.getLogger(__name__).warning(
        "Training diverged: the mean loss over the training samples was %.4g at the start and %.4g in epoch %d, and no "
        "epoch did better on validation. The adapter is as it started; lower learning_rate (it is %g).",
        before,
        reached.losses[-1],
        len(reached.losses),
        reached.learning_rate,
    )


@torch.no_grad()
def mean_loss(job: Job, name: str) -> float:
    """Mean cross-entropy of a split in nats, the adapter as it is."""
    split = on_device(job.splits[name], job.device)
    is_live = not isinstance(split, Coordinates)
    total = 0.0
    with job.adapter.attached(job.hvit, job.settings.path) if is_live else contextlib.nullcontext():
        for batch in (batch for block in evaluation_batches(split) for batch in block):
            embedding = embed(split, job.adapter, job.hvit, batch)
            labels = split.labels[batch.rows.to(split.labels.device)].to(embedding.device)
            total += float(job.adapter.cross_entropy(embedding, job.classifier, labels))
    return total / len(split.labels)


def found_rate(job: Job, scratch: Path, *, progress: bool) -> float:
    """The rate at which the loss falls fastest while the rate rises (Smith 2017); the weights stay as they are.

    Raises:
        ResidualLensError: the loss never fell.
    """
    before = snapshot(job.parameters)
    job = replace(job, settings=replace(job.settings, devices=1, num_nodes=1, max_epochs=RANGE_STEPS))
    module = AdapterTraining(job, Progress(RATES[0]), started=0.0, range_test=True)
    trainer = trainer_for(job, callback=None, logger=None, progress=progress, resumed=True, scratch=scratch)
    # Its bar cannot be turned off otherwise.
    silenced = contextlib.nullcontext() if progress else contextlib.redirect_stderr(io.StringIO())
    try:
        with silenced:
            finder = Tuner(trainer).lr_find(
                module, min_lr=RATES[0], max_lr=RATES[1], num_training=RANGE_STEPS, update_attr=False
            )
    finally:
        module.detach()
        restore(job.parameters, before, job.device)
    # Lightning's own suggestion is the steepest slope by the rate itself, which noise at the lowest rates wins: they
    # lie closest together. Rates grow by a factor, so that a difference is the slope by their logarithm.
    results = cast(Any, finder).results
    losses = np.array(results["loss"][SKIPPED:])
    slopes = losses[SPAN:] - losses[:-SPAN]
    falling = np.flatnonzero(slopes < 0)
    if len(falling) == 0:
        raise ResidualLensError(
            f"The range test saw no falling loss at rates from {RATES[0]:g} to {RATES[1]:g}: give learning_rate."
        )
    steepest = falling[np.argmin(slopes[falling])]
    return float(results["lr"][SKIPPED + steepest + SPAN // 2])
