"""One run: from names to a result, in a folder that says all about it."""

import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from residual_lens.activations import Store
from residual_lens.data.images.image_set import SPLITS
from residual_lens.hooked import HookedViT
from residual_lens.hooked.devices import device_named
from residual_lens.interventions import Adapter, ResiDual
from residual_lens.text import ZeroShotClassifier
from residual_lens.training.cached.coordinates import Coordinates, coordinates, width
from residual_lens.training.fitting.checkpoints import LAST, OtherRunError
from residual_lens.training.fitting.progress import TrainingLog
from residual_lens.training.fitting.train import evaluate, train_adapter
from residual_lens.training.methods import Method, Options, method_named
from residual_lens.training.runs.card import model_card
from residual_lens.training.runs.classifiers import classifier_kind, classifier_of
from residual_lens.training.runs.config import Resources, RunConfig
from residual_lens.training.runs.data import few_shot_rows, open_splits
from residual_lens.training.runs.folder import ADAPTER, claimed, run_folder, save_config
from residual_lens.training.runs.refusals import refuse_impossible, refuse_useless
from residual_lens.training.runs.result import RESULT, RunResult
from residual_lens.training.runs.stores import bases_of, open_store, require_bases
from residual_lens.training.splits.live import LiveImages

logger = logging.getLogger(__name__)

IN_MEMORY = 2**31
"""Bytes of a split's coordinates beyond which they are kept in a file while a run lasts."""
COORDINATES = "coordinates"
COMPUTED = {"start", "adapter's fixed values", "classifier", "train samples", "validation samples"}
"""What another machine computes with other last digits, as a checkpoint calls it."""


def run(config: RunConfig, out: str | Path, resources: Resources | None = None, *, progress: bool = False) -> RunResult:
    """Train one method on one data set with one model, test it, and write down all about it.

    The run's folder, `run_folder(config, out)`, holds `config.json`, `metrics.csv`, `checkpoints/`, `adapter/` and,
    once it is done, `result.json`. A finished run is not repeated; one that was stopped, in whatever way, goes on where
    it was when this is called again, with the same outcome.

    Args:
        config: what decides the numbers.
        out: folder of the folders of runs.
        resources: where things lie and run.
        progress: show progress bars.

    Raises:
        InputError: unknown names, settings that mean nothing for the method, data that cannot be trained on, or a
            folder of another run.
        MismatchError: stores or bases of another model.
        UnsupportedModelError: a classifier from text for a model without a text tower.
        ResidualLensError: the loss is not finite (see `train_adapter`).

    Example:
        >>> config = RunConfig("attribute-clip", "digits", "residual", shots=16)
        >>> run(config, Path("runs")).line  # doctest: +SKIP
        'attribute-clip, digits, residual, seed 0, shots 16: test 95.00% of 180, …'
    """
    method, folder = method_named(config.method), run_folder(config, out)
    resources = resources or Resources()
    refuse_useless(config, method)
    with claimed(folder, config, resources) as is_first:
        if (folder / RESULT).exists():
            return RunResult.load(folder)
        prepared = _Run(config, resources, method, folder, is_first=is_first, progress=progress)
        try:
            result, adapter = prepared.trained()
        finally:
            prepared.close()
        if is_first:
            adapter.card = model_card(result)
            adapter.save_pretrained(folder / ADAPTER)
            result.save(folder)
    return result


class _Run:
    """What a run is made of. What may be wrong with model or data comes up as it is made."""

    def __init__(
        self,
        config: RunConfig,
        resources: Resources,
        method: Method,
        folder: Path,
        *,
        is_first: bool,
        progress: bool,
    ) -> None:
        self._config, self._resources, self._method, self._folder = config, resources, method, folder
        self._is_first, self._progress = is_first, progress
        # Those of a run that was killed may have been computed elsewhere, with other last digits. Before all else,
        # since other processes of this run are to use what one of them computes.
        self._forget_coordinates()
        self._hvit = HookedViT.from_pretrained(config.model, device=device_named(resources.device))
        self._kind = classifier_kind(config, self._hvit)
        refuse_impossible(config, resources, method, self._hvit, folder)
        require_bases(config)
        self._splits = open_splits(config, resources, self._hvit.cfg.image_size[0])
        train = self._splits.train
        self._rows = None if config.shots is None else few_shot_rows(train, config.shots, config.seed)
        self._stores: dict[str, Store] = {}

    def close(self) -> None:
        """Let go of the stores, and of what was computed from them."""
        for store in self._stores.values():
            store.close()
        self._forget_coordinates()

    def _forget_coordinates(self) -> None:
        if self._is_first:
            shutil.rmtree(self._folder / COORDINATES, ignore_errors=True)
            with suppress(OSError):
                # Only if it is empty.
                self._folder.rmdir()

    def trained(self) -> tuple[RunResult, Adapter]:
        """Train and test."""
        classifier = classifier_of(self._config, self._hvit, self._splits.classes, self._train_embeddings)
        adapter = self._adapter(classifier)
        is_trained = self._method.learning_rate is not None
        samples = {split: self._samples(adapter, split) for split in (SPLITS if is_trained else SPLITS[1:])}
        if self._is_first:
            # Whatever is refused before leaves no folder.
            save_config(self._folder, self._config)
        log = self._fit(adapter, classifier, samples) if is_trained else None
        accuracy = {
            split: evaluate(self._hvit, classifier, samples[split], adapter=adapter, path=self._method.path)
            for split in SPLITS[1:]
        }
        return self._result(adapter, log, accuracy), adapter

    def _fit(
        self, adapter: Adapter, classifier: ZeroShotClassifier, samples: dict[str, Coordinates | LiveImages]
    ) -> TrainingLog:
        """Train, from where an earlier run of these settings stopped."""
        config, resources = self._config, self._resources
        options: dict[str, Any] = {
            "train": samples["train"],
            "validation": samples["validation"],
            "path": self._method.path,
            "learning_rate": config.learning_rate or self._method.learning_rate,
            "max_epochs": config.epochs,
            "patience": config.patience,
            "batch_size": config.batch_size,
            "seed": config.seed,
            "l1": config.l1,
            "folder": self._folder,
            "find_learning_rate": config.find_learning_rate,
            "precision": config.precision,
            "devices": resources.devices,
            "num_nodes": resources.num_nodes,
            "logger": resources.logger,
            "progress": self._progress,
        }
        try:
            return train_adapter(adapter, self._hvit, classifier, **options)
        except OtherRunError as error:
            # A store tells its data from others before that; images are told apart by the checkpoint alone.
            if not (self._is_cached and error.differing <= COMPUTED):
                raise
            # Bases of another machine differ in the last digits, and what was begun with them cannot go on with these.
            if self._is_first:
                logger.warning("%s It was deleted, and training starts anew.", error)
                (self._folder / LAST).unlink()
            else:
                # Without looking for the checkpoint, which may not be deleted yet.
                options |= {"folder": None, "logger": "csv"}
            return train_adapter(adapter, self._hvit, classifier, **options)

    def _adapter(self, classifier: ZeroShotClassifier) -> Adapter:
        config, bases = self._config, None
        if self._method.needs_bases is not None:
            bases = bases_of(config, self._hvit, self._method.needs_bases, self._store, progress=self._progress)
        options = Options(
            units=config.units,
            explained_variance=config.explained_variance,
            scales=config.scales,
            keep_mean=config.keep_mean,
            rank=config.rank,
            seed=config.seed,
        )
        return self._method.make(self._hvit, bases, classifier, options).to(self._hvit.device)

    @property
    def _is_cached(self) -> bool:
        """Whether training reads coordinates."""
        return self._method.cached and not self._config.augment

    def _samples(self, adapter: Adapter, split: str) -> Coordinates | LiveImages:
        """What training reads of a split: coordinates where they suffice, images where not."""
        rows = self._rows if split == "train" else None
        if self._is_cached:
            store, file = self._store(split), None
            numbers = (store.layout.d_out + width(adapter, store)) * (len(store) if rows is None else len(rows))
            if 4 * numbers > IN_MEMORY:
                file = self._folder / COORDINATES / f"{split}.safetensors"
            return coordinates(adapter, store, rows=rows, file=file, progress=self._progress)
        images = getattr(self._splits, split)
        return LiveImages(
            images if rows is None else images.subset(rows, shots=len(rows)),
            self._hvit.preprocessing,
            augment=self._config.augment and split == "train",
            workers=self._workers(),
        )

    def _workers(self) -> int:
        """Processes that load images beside the model."""
        if self._resources.workers is None:
            return (os.cpu_count() or 1) if self._hvit.device.type == "cuda" else 0
        return self._resources.workers

    def _store(self, split: str) -> Store:
        """The store of a split, opened once."""
        if split not in self._stores:
            images = getattr(self._splits, split)
            self._stores[split] = open_store(
                self._config, self._resources, self._hvit, images, split, progress=self._progress
            )
        return self._stores[split]

    def _train_embeddings(self) -> tuple[Float[Tensor, "sample d_out"], Int[Tensor, "sample"]]:
        store = self._store("train")
        rows = slice(None) if self._rows is None else self._rows
        return store.embeddings(rows), store.labels[rows]

    def _result(self, adapter: Adapter, log: TrainingLog | None, accuracy: dict[str, float]) -> RunResult:
        splits = self._splits
        return RunResult(
            config=self._config,
            path=self._method.path,
            variant=adapter.config.variant if isinstance(adapter, ResiDual) else None,
            classifier=self._kind,
            n_classes=len(splits.classes),
            n_train=len(splits.train if self._rows is None else self._rows),
            n_validation=len(splits.validation),
            n_test=len(splits.test),
            parameters=adapter.parameter_count(),
            learning_rate=None if log is None else log.learning_rate,
            seconds=0.0 if log is None else log.seconds,
            epochs=0 if log is None else log.epochs,
            best_epoch=0 if log is None else log.best_epoch,
            validation_accuracy=accuracy["validation"],
            test_accuracy=accuracy["test"],
        )
