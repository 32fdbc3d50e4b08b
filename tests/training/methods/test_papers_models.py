"""Every method trains on a tiny version of each of the paper's seven models, of its real class with all its flags."""

from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor

from residual_lens.bases import fit_bases
from residual_lens.hooked import HookedViT
from residual_lens.hooked.loading import PAPER_MODELS
from residual_lens.text import ZeroShotClassifier, zero_shot_classifier
from residual_lens.training import LiveSamples, cache_samples, evaluate, train_adapter
from residual_lens.training.methods import METHODS, Options, embedding_basis
from residual_lens.training.runs.classifiers import class_means
from tests.backbones.backbone import draw_parameters, images_of
from tests.backbones.models import BY_NAME
from tests.backbones.open_clip_rows import scaled_down
from tests.interventions.drawn_edits import bits, same_bits
from tests.interventions.tiny_bases import hooks_in_force
from tests.training.toy import masked_tokens, tokens_of

CLASSES, SAMPLES = ("cat", "dog"), 12
OPEN_CLIP = {
    "clip-b": "ViT-B-16-quickgelu",
    "clip-l": "ViT-L-14-quickgelu",
    "openclip-b": "ViT-B-16",
    "openclip-l": "ViT-L-14",
}
HUGGING_FACE = {
    "blip-l": "BlipForImageTextRetrieval (projection with bias)",
    "vit-l": "ViTModel (class token, not square)",
    "dinov2-l": "Dinov2Model (LayerScale)",
}


def tiny(name: str) -> Any:
    if name in HUGGING_FACE:
        return BY_NAME[f"Hugging Face: {HUGGING_FACE[name]}"].build()
    model = open_clip.CLIP(**scaled_down(OPEN_CLIP[name])).eval()
    draw_parameters(model)
    return model


def classifier_of(hvit: HookedViT, images: Tensor, labels: Tensor) -> ZeroShotClassifier:
    if hvit.parts.text is None:
        return class_means(hvit(images).detach(), labels, CLASSES, logit_scale=20.0)
    return zero_shot_classifier(hvit.encode_text, CLASSES, logit_scale=20.0)


def test_all_seven_are_here():
    assert set(OPEN_CLIP) | set(HUGGING_FACE) == set(PAPER_MODELS)


@pytest.mark.parametrize("model", PAPER_MODELS)
def test_all_methods_train(model):
    source = tiny(model)
    hvit = HookedViT.wrap(source, tokenizer=masked_tokens if model == "blip-l" else tokens_of)
    assert (hvit.parts.text is None) == (model in ("vit-l", "dinov2-l"))
    images, labels = images_of(hvit.cfg.image_size, SAMPLES), torch.arange(SAMPLES) % len(CLASSES)
    classifier, live, cached = classifier_of(hvit, images, labels), LiveSamples(images, labels), None
    cached = cache_samples(hvit, images, labels)
    with torch.no_grad():
        bases = {"units": fit_bases(hvit, images), "embedding": embedding_basis(hvit(images)), None: None}
    before, modules = bits(source), [type(module) for module in source.modules()]
    for name, method in METHODS.items():
        adapter = method.make(hvit, bases[method.needs_bases], classifier, Options(rank=2))
        samples = cached if method.cached else live
        if method.learning_rate is not None:
            start = [parameter.detach().clone() for parameter in adapter.parameters()]
            log = train_adapter(
                adapter,
                hvit,
                classifier,
                train=samples,
                validation=samples,
                path=method.path,
                learning_rate=method.learning_rate,
                max_epochs=1,
                batch_size=8,
            )
            assert log.epochs == 1, name
            assert torch.tensor(log.train_loss).isfinite().all(), name
            moved = [not torch.equal(old, new) for old, new in zip(start, adapter.parameters(), strict=True)]
            assert any(moved) == (log.best_epoch == 1), name
            assert log.validation_accuracy[log.best_epoch] == max(log.validation_accuracy), name
        accuracy = evaluate(hvit, classifier, samples, adapter=adapter, path=method.path)
        assert 0 <= accuracy <= 1, name
    assert same_bits(source, before)
    assert [type(module) for module in source.modules()] == modules
    assert hooks_in_force(hvit) == 0
