"""What tests of coordinates share."""

import pytest

from tests.training.cached.tiny import adapters, sources


@pytest.fixture(scope="package")
def made(tmp_path_factory):
    """Model, store, samples in memory and a ResiDual for them."""
    hvit, store, samples, _ = sources("ViT-B-16", "own", tmp_path_factory.mktemp("made"))
    return hvit, store, samples, next(iter(adapters(hvit, store)))
