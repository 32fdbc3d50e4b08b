"""A small task, cached."""

import pytest

from residual_lens.training import CachedSamples
from residual_lens.training.cached import cache_samples
from tests.training.toy import toy_classifier, toy_split


@pytest.fixture
def classifier(hvit):
    return toy_classifier(hvit)


@pytest.fixture
def train(hvit) -> CachedSamples:
    return cache_samples(hvit, *toy_split(hvit, 60, seed=1))


@pytest.fixture
def validation(hvit) -> CachedSamples:
    return cache_samples(hvit, *toy_split(hvit, 30, seed=2))
