"""Cached and live samples are the same samples, for training and for evaluation."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from residual_lens.errors import InputError
from residual_lens.interventions import ResiDual
from residual_lens.training import Coarse, LinearAdapter, LiveSamples, cache_samples, evaluate, train_adapter
from tests.interventions.tiny_bases import bases_for, wrapped
from tests.tolerances import FLOAT32_TOL, assert_close
from tests.training.toy import toy_classifier, toy_split

MAKE = {
    "coarse": lambda hvit: Coarse(3, 3),
    "residual*": lambda hvit: ResiDual.from_bases(bases_for(hvit), variant="residual*", seed=3),
    "residual": lambda hvit: ResiDual.from_bases(bases_for(hvit), variant="residual", seed=3),
    "linear": lambda hvit: LinearAdapter(hvit.cfg.d_out),
}


def both_samples(hvit, n: int = 24):
    images, labels = toy_split(hvit, n, seed=1)
    return cache_samples(hvit, images, labels, batch_size=10), LiveSamples(images, labels)


@pytest.mark.parametrize("kind", ["ViT-B-16", "avg-norm-before-pool", "coca"])
@pytest.mark.parametrize("name", MAKE)
def test_cached_and_live_batches_give_the_same_loss_and_gradient(kind, name):
    hvit = wrapped(kind)
    classifier, adapter = toy_classifier(hvit), MAKE[name](hvit)
    parameters = list(adapter.parameters())
    rows = torch.tensor([3, 17, 0, 9, 8])
    results, both = [], both_samples(hvit)
    with adapter.attached(hvit):
        for samples in both:
            loss = cross_entropy(classifier.logits(samples.embed(hvit, rows)), samples.labels[rows])
            results.append((loss, torch.autograd.grad(loss, parameters)))
    (cached_loss, cached), (live_loss, live) = results
    assert_close(cached_loss, live_loss, FLOAT32_TOL)
    for ours, theirs in zip(cached, live, strict=True):
        assert theirs.abs().amax() > 0
        # Derivatives pass through the norm of the embedding and add up to ten terms of either sign.
        assert_close(ours, theirs, 10 * FLOAT32_TOL)


@pytest.mark.parametrize("name", [None, *MAKE])
def test_accuracy_of_cached_samples_is_that_of_the_hooked_model(hvit, name):
    classifier = toy_classifier(hvit)
    adapter = MAKE[name](hvit) if name else None
    cached, live = both_samples(hvit, 90)
    accuracy = evaluate(hvit, classifier, cached, adapter=adapter)
    assert accuracy == evaluate(hvit, classifier, live, adapter=adapter)
    assert 0 < accuracy < 1


@torch.no_grad()
def test_evaluation_covers_every_sample_once(hvit):
    classifier = toy_classifier(hvit)
    images, labels = toy_split(hvit, 300, seed=1)
    expected = float((classifier.logits(hvit(images)).argmax(dim=-1) == labels).double().mean())
    assert evaluate(hvit, classifier, LiveSamples(images, labels)) == pytest.approx(expected, abs=1e-9)


def test_cached_values_are_the_decomposition_in_batches_of_any_size(hvit):
    images, labels = toy_split(hvit, 11, seed=1)
    cached = cache_samples(hvit, images, labels, batch_size=4)
    assert cached.decomposition.units == hvit.units
    assert torch.equal(cached.labels, labels)
    assert not cached.decomposition.values.requires_grad
    assert_close(cached.decomposition.values, hvit.decompose(images).values, FLOAT32_TOL)


def test_released_bug_cached_training_runs_the_backbone_once_and_not_every_epoch(hvit):
    runs = []
    handle = hvit.source.conv1.register_forward_hook(lambda module, args, out: runs.append(len(out)))
    train, validation = (cache_samples(hvit, *toy_split(hvit, n, seed=n), batch_size=10) for n in (30, 20))
    assert sum(runs) == 50
    for name in ("coarse", "linear"):
        train_adapter(MAKE[name](hvit), hvit, toy_classifier(hvit), train=train, validation=validation, max_epochs=3)
    handle.remove()
    assert sum(runs) == 50


def test_live_training_runs_the_backbone(hvit):
    runs = []
    handle = hvit.source.conv1.register_forward_hook(lambda module, args, out: runs.append(len(out)))
    samples = LiveSamples(*toy_split(hvit, 6, seed=1))
    train_adapter(Coarse(3, 3), hvit, toy_classifier(hvit), train=samples, validation=samples, max_epochs=2)
    handle.remove()
    assert sum(runs) == 6 + 2 * (6 + 6)


def test_samples_without_one_label_each_are_refused(hvit):
    images, labels = toy_split(hvit, 4, seed=1)
    with pytest.raises(InputError, match="one label each, got 4 and 3"):
        cache_samples(hvit, images, labels[:3])
    with pytest.raises(InputError, match="at least one image and one label each, got 0 and 0"):
        cache_samples(hvit, images[:0], labels[:0])
