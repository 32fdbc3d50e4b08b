"""train_adapter refuses what it cannot train with, before any step."""

import pytest
import torch

from residual_lens.errors import InputError
from residual_lens.text import ZeroShotClassifier
from residual_lens.training import LinearAdapter, LiveSamples, cache_samples, train_adapter
from tests.training.toy import toy_classifier, toy_split


@pytest.mark.parametrize("wrong", [{"max_epochs": 0}, {"patience": 0}, {"batch_size": 0}, {"learning_rate": 0.0}])
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
