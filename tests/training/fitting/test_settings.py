"""train_adapter refuses what it cannot train with, before any step."""

import pytest
import torch

from residual_lens.errors import InputError, MismatchError
from residual_lens.hooked import HookedViT
from residual_lens.text import ZeroShotClassifier
from residual_lens.training import CachedSamples, LinearAdapter, LiveSamples, cache_samples, train_adapter
from residual_lens.training.cached import coordinates
from tests.training.toy import toy_classifier, toy_split


@pytest.mark.parametrize(
    "wrong", [{"max_epochs": 0}, {"patience": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"learning_rate": 1e39}]
)
def test_settings_out_of_range_are_refused(hvit, wrong):
    samples = cache_samples(hvit, *toy_split(hvit, 10, seed=1))
    with pytest.raises(InputError, match="start at 1, the rate above 0"):
        train_adapter(
            LinearAdapter(hvit.cfg.d_out), hvit, toy_classifier(hvit), train=samples, validation=samples, **wrong
        )


def test_an_adapter_without_trainable_parameters_is_refused(hvit):
    samples = cache_samples(hvit, *toy_split(hvit, 10, seed=1))
    frozen = LinearAdapter(hvit.cfg.d_out).requires_grad_(False)
    with pytest.raises(InputError, match="LinearAdapter has no parameter that requires a gradient"):
        train_adapter(frozen, hvit, toy_classifier(hvit), train=samples, validation=samples)


def test_training_turns_gradients_on_for_itself_and_refuses_inference_mode(hvit):
    samples, adapter = cache_samples(hvit, *toy_split(hvit, 10, seed=1)), LinearAdapter(hvit.cfg.d_out)
    with torch.no_grad():
        log = train_adapter(adapter, hvit, toy_classifier(hvit), train=samples, validation=samples, max_epochs=1)
    assert len(log.train_loss) == 1
    with torch.inference_mode(), pytest.raises(InputError, match="inference_mode"):
        train_adapter(adapter, hvit, toy_classifier(hvit), train=samples, validation=samples)


def test_a_classifier_of_another_width_is_refused(hvit):
    samples = cache_samples(hvit, *toy_split(hvit, 10, seed=1))
    other = ZeroShotClassifier(torch.eye(7), tuple("abcdefg"), 1.0)
    with pytest.raises(InputError, match="classifier is for embeddings of 7 dimensions"):
        train_adapter(LinearAdapter(hvit.cfg.d_out), hvit, other, train=samples, validation=samples)


def test_live_samples_need_one_label_an_image(hvit):
    with pytest.raises(InputError, match="got 3 images, 2 labels"):
        LiveSamples(torch.zeros(3, 3, *hvit.cfg.image_size), torch.tensor([0, 1]))


@pytest.mark.parametrize("labels", [[0, 5], [-1, 0]])
def test_labels_that_are_no_classes_are_refused_where_they_are_scored(labels):
    classifier = ZeroShotClassifier(torch.eye(3), ("a", "b", "c"), 1.0)
    with pytest.raises(InputError, match="but there are 3 classes"):
        classifier.accuracy(torch.ones(2, 3), torch.tensor(labels))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"path": "sideways"}, "path must be 'direct' or 'stream', got 'sideways'"),
        ({"precision": "64-true"}, "precision is one of 32-true, bf16-mixed, 16-mixed, got '64-true'"),
        ({"precision": "16-mixed"}, "'16-mixed' needs an accelerator"),
        ({"l1": -0.1}, "l1 is a factor"),
        ({"l1": 0.1}, "l1 penalises scales, and LinearAdapter has none"),
        ({"devices": 0}, "devices and nodes start at 1"),
    ],
)
def test_options_that_cannot_be_are_refused(hvit, wrong, message):
    samples = cache_samples(hvit, *toy_split(hvit, 10, seed=1))
    with pytest.raises(InputError, match=message):
        train_adapter(
            LinearAdapter(hvit.cfg.d_out), hvit, toy_classifier(hvit), train=samples, validation=samples, **wrong
        )


def test_classes_without_training_samples_are_named_unless_they_may_be_missing(hvit):
    samples = cache_samples(hvit, *toy_split(hvit, 10, seed=1))
    some = CachedSamples(samples.decomposition, samples.labels.clamp(max=1))
    options = {"train": some, "validation": samples, "max_epochs": 1}
    with pytest.raises(InputError, match="no image of 1 of 3 classes: class 2"):
        train_adapter(LinearAdapter(hvit.cfg.d_out), hvit, toy_classifier(hvit), **options)
    adapter = LinearAdapter(hvit.cfg.d_out)
    assert train_adapter(adapter, hvit, toy_classifier(hvit), **options, allow_missing_classes=True).epochs == 1


def test_coordinates_on_the_stream_path_and_samples_of_another_model_are_refused(hvit):
    adapter, other = LinearAdapter(hvit.cfg.d_out), HookedViT.wrap(hvit.source, center="uniform")
    samples = cache_samples(hvit, *toy_split(hvit, 10, seed=1))
    direct = coordinates(adapter, samples)
    with pytest.raises(InputError, match="know nothing of the stream"):
        train_adapter(adapter, hvit, toy_classifier(hvit), train=direct, validation=direct, path="stream")
    foreign = cache_samples(other, *toy_split(other, 10, seed=1))
    with pytest.raises(MismatchError, match="validation split has contributions of"):
        train_adapter(adapter, hvit, toy_classifier(hvit), train=samples, validation=foreign)
