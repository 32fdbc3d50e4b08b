"""The naive twin is itself right: it is compared with open_clip in float64."""

import copy

import pytest
import torch

from tests.reference.decomposition import naive_decomposition
from tests.tiny_models import KINDS, UNIFORM_KINDS, source_embedding, tiny_images, tiny_tower
from tests.tolerances import FLOAT64_TOL, assert_close


@pytest.mark.parametrize("kind", KINDS)
def test_naive_embedding_is_that_of_open_clip(kind):
    tower = tiny_tower(kind)
    images = tiny_images(tower)
    expected = source_embedding(copy.deepcopy(tower).double(), images.double())
    assert_close(naive_decomposition(tower, images).embedding, expected, FLOAT64_TOL)


@pytest.mark.parametrize(("kind", "center"), [(k, "own") for k in KINDS] + [(k, "uniform") for k in UNIFORM_KINDS])
def test_naive_units_sum_to_the_embedding(kind, center):
    tower = tiny_tower(kind)
    naive = naive_decomposition(tower, tiny_images(tower), center)
    assert_close(torch.stack(list(naive.units.values())).sum(dim=0), naive.embedding, FLOAT64_TOL)
