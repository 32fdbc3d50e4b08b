"""The LightningModule of all training: cached coordinates and live images, one loss, schedule-free AdamW."""

import math
import time
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing import parent_process
from typing import Any, cast

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from schedulefree import AdamWScheduleFree
from torch import Tensor, nn
from torch.utils.data import DataLoader

from residual_lens.training.cached import Coordinates
from residual_lens.training.fitting.not_finite import not_finite
from residual_lens.training.fitting.progress import Progress
from residual_lens.training.fitting.settings import Job
from residual_lens.training.fitting.trainer import silence
from residual_lens.training.splits.batches import embed, evaluation_batches, hits, on_device, training_batches
from residual_lens.training.splits.sampler import Batch, seed_of


class AdapterTraining(LightningModule):
    """Trains an adapter's parameters; what they act on is held by reference and in no checkpoint.

    A training step takes a block of batches and optimises by hand: the Trainer's own work, up to a millisecond a step
    and so a fifth of a cached one, is then shared by the block.
    """

    def __init__(
        self,
        job: Job,
        progress: Progress,
        *,
        started: float,
        range_test: bool = False,
    ) -> None:
        """A module for one `Trainer.fit`; with `range_test` Lightning optimises, one batch a block."""
        super().__init__()
        self.trained = nn.ParameterList(job.parameters)
        # In a job: as attributes adapter and model would be submodules, saved as a whole.
        self._job = job
        self.progress = progress
        self.automatic_optimization = range_test
        self._attached = ExitStack()
        self._started = started
        self._loss_sum = self._hits = 0.0
        self._step = 0

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if parent_process() is not None:
            # In a process that the Trainer has started, before it says so.
            silence()

    def train_dataloader(self) -> DataLoader[list[Batch]]:
        settings, trainer = self._job.settings, self.trainer
        return training_batches(
            self._job.splits["train"],
            settings.batch_size,
            settings.seed,
            one_at_a_time=self.automatic_optimization,
            rank=trainer.global_rank,
            world=trainer.world_size,
        )

    def val_dataloader(self) -> list[DataLoader[list[Batch]]]:
        trainer = self.trainer
        if self.automatic_optimization:
            return []
        return [evaluation_batches(self._job.splits["validation"], rank=trainer.global_rank, world=trainer.world_size)]

    def configure_optimizers(self) -> AdamWScheduleFree:
        return AdamWScheduleFree(self.trained.parameters(), lr=self.progress.learning_rate)

    @property
    def _schedule_free(self) -> AdamWScheduleFree:
        return cast(AdamWScheduleFree, self.optimizers(use_pl_optimizer=False))

    def get_extra_state(self) -> dict[str, Any]:
        """Goes with the parameters into checkpoints, and from a child process to the one that called."""
        return self.progress.state()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.progress.load(state)

    def setup(self, stage: str) -> None:
        """Before anything else in this process, the range test included: the hooks, and all of it on one device."""
        adapter, hvit, splits = self._job.adapter, self._job.hvit, self._job.splits
        if self.device != hvit.device:
            hvit.to(self.device)
        adapter.to(self.device)
        self._job = replace(self._job, splits={name: on_device(split, self.device) for name, split in splits.items()})
        # Under torchrun each process had a range test of its own, and an accelerator's may differ in the last digits.
        self.progress.learning_rate = self.trainer.strategy.broadcast(self.progress.learning_rate)
        if any(not isinstance(split, Coordinates) for split in splits.values()):
            self._attached.enter_context(adapter.attached(hvit, self._job.settings.path))

    def on_fit_start(self) -> None:
        # The time of earlier calls, which a checkpoint has brought along, counts as well.
        self._started -= self.progress.seconds[-1] if self.progress.seconds else 0.0

    def detach(self) -> None:
        """Take the hooks off; to be called whatever happened."""
        self._attached.close()

    def on_train_start(self) -> None:
        self.trainer.should_stop = self.progress.ended(self._job.settings.max_epochs, self._job.settings.patience)

    def on_train_epoch_start(self) -> None:
        self._schedule_free.train()
        self._job.adapter.train()
        # Dropout of this epoch is the same after an interruption.
        torch.manual_seed(seed_of(self._job.settings.seed, self.current_epoch, self.global_rank))
        self._loss_sum, self._step = 0.0, 0

    def training_step(self, block: list[Batch], _: int) -> Tensor | None:
        if self.automatic_optimization:
            return self._loss(block[0])[0]
        optimizer = cast(LightningOptimizer, self.optimizers())
        for batch in block:
            self._step += 1
            loss, entropy = self._loss(batch)
            if not math.isfinite(entropy):
                what = f"The loss is {entropy} at step {self._step} of epoch {len(self.progress.losses) + 1}"
                raise not_finite(what, "train", self._job, batch, self.progress.learning_rate)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self._loss_sum += entropy
        self.progress.steps += len(block)
        return None

    def _loss(self, batch: Batch) -> tuple[Float[Tensor, ""], float]:
        """What is minimised, and the sum of this process' cross-entropies."""
        job = self._job
        split = job.splits["train"]
        embedding = embed(split, job.adapter, job.hvit, batch)
        labels = split.labels[batch.rows.to(split.labels.device)].to(embedding.device)
        share = batch.share
        entropy = job.adapter.cross_entropy(embedding[:share], job.classifier, labels[:share])
        # Gradients are averaged over processes, whose shares of a batch may differ by one sample.
        loss = entropy * self.trainer.world_size / batch.size
        if job.settings.l1:
            loss = loss + job.settings.l1 * job.adapter.scales.abs().sum()
        return loss, entropy.item()

    def on_validation_epoch_start(self) -> None:
        # A schedule-free optimizer holds the weights to evaluate and to save in eval mode only; it is left there until
        # the next epoch, so that checkpoints are written in it as well.
        self._schedule_free.eval()
        self._job.adapter.eval()
        self._hits = 0.0

    def validation_step(self, block: list[Batch], _: int) -> None:
        job = self._job
        for batch in block:
            found = hits(job.splits["validation"], job.adapter, job.hvit, job.classifier, batch)
            if math.isnan(found):
                epoch = len(self.progress.losses) + 1
                place = "before training" if self.trainer.sanity_checking else f"after epoch {epoch}"
                what = f"Embeddings of the validation split have no finite length or logits {place}"
                raise not_finite(what, "validation", job, batch, self.progress.learning_rate)
            self._hits += found

    def on_validation_epoch_end(self) -> None:
        counts = torch.tensor([self._hits, self._loss_sum], dtype=torch.float64, device=self.device)
        n_hits, loss_sum = self.trainer.strategy.reduce(counts, reduce_op="sum").tolist()
        accuracy = n_hits / len(self._job.splits["validation"].labels)
        if not self.trainer.sanity_checking:
            self.progress.losses.append(loss_sum / len(self._job.splits["train"].labels))
        self.progress.add(accuracy, time.perf_counter() - self._started, list(self.trained))
        if self.progress.losses:
            values = {"train_loss": self.progress.losses[-1], "validation_accuracy": accuracy}
            self.log_dict(values, prog_bar=True, sync_dist=True)
            self.trainer.should_stop = self.progress.ended(self._job.settings.max_epochs, self._job.settings.patience)
