"""A small classification task for tiny models: one prototype image a class, noise, a classifier drawn at random."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from residual_lens.hooked import HookedViT
from residual_lens.text import ZeroShotClassifier
from residual_lens.training.fitting.callbacks import EachEpoch
from tests.tiny_models import tiny_images

N_CLASSES = 3


def toy_split(hvit: HookedViT, samples: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Images and labels; labels take turns."""
    prototypes = tiny_images(hvit.source, N_CLASSES, seed=100)
    labels = torch.arange(samples) % N_CLASSES
    return (prototypes[labels] + 0.7 * tiny_images(hvit.source, samples, seed=seed)).to(hvit.dtype), labels


def toy_classifier(hvit: HookedViT, *, seed: int = 0) -> ZeroShotClassifier:
    """Class embeddings that know nothing of the classes: all that is learned is learned by the adapter."""
    weights = torch.randn(N_CLASSES, hvit.cfg.d_out, generator=torch.Generator().manual_seed(seed))
    names = tuple(f"class {index}" for index in range(N_CLASSES))
    return ZeroShotClassifier(torch.nn.functional.normalize(weights, dim=-1), names, logit_scale=10.0)


def tokens_of(texts: list[str]) -> Tensor:
    """Letters, as ids that every tiny vocabulary has."""
    return torch.tensor([[1, *(ord(letter) % 40 + 3 for letter in text[:6].ljust(6)), 49] for text in texts])


def masked_tokens(texts: list[str]) -> Mapping[str, Tensor]:
    """The same as BLIP's tokenizer gives them."""
    ids = tokens_of(texts)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@contextmanager
def interrupted_after_an_epoch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Training is interrupted as soon as its first epoch is written."""
    written = EachEpoch.on_train_epoch_end

    def interrupted(self: EachEpoch, trainer: Trainer, module: LightningModule) -> None:
        written(self, trainer, module)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(EachEpoch, "on_train_epoch_end", interrupted)
        with pytest.raises(KeyboardInterrupt):
            yield


class ScriptedValidation:
    """Validation samples on which the accuracy is what a script says, call by call."""

    def __init__(self, classifier: ZeroShotClassifier, accuracies: list[float], samples: int = 10) -> None:
        self._classifier = classifier
        self._accuracies: Iterator[float] = iter(accuracies)
        self.labels = torch.arange(samples) % N_CLASSES

    def embed(self, hvit: HookedViT, rows: Tensor) -> Tensor:
        labels = self.labels[rows].clone()
        wrong = round((1 - next(self._accuracies)) * len(labels))
        labels[:wrong] = (labels[:wrong] + 1) % N_CLASSES
        return self._classifier.weights[labels]
