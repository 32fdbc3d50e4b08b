"""The naive twins are themselves right: their sums are the sources' own embeddings in float64."""

import pytest
import torch

from tests.decomposition.models import KINDS
from tests.reference.decomposition import naive_decomposition
from tests.tolerances import FLOAT64_TOL, assert_close


@pytest.mark.parametrize("kind", KINDS)
def test_naive_units_sum_to_the_sources_embedding_and_tokens_to_heads(kind):
    model, images = KINDS[kind].model(), KINDS[kind].images(2)
    taken_apart = KINDS[kind].plain(model, images)
    assert_close(torch.stack(list(taken_apart.units.values())).sum(dim=0), taken_apart.embedding, FLOAT64_TOL)
    assert_close(taken_apart.by_token("L1H2").sum(dim=1), taken_apart.units["L1H2"], FLOAT64_TOL)


@pytest.mark.parametrize("kind", ["coca", "layerscale", "avg-norm-before-pool", "avg-norm-after-pool"])
def test_both_naive_twins_of_open_clip_agree(kind):
    model, images = KINDS[kind].model(), KINDS[kind].images(2)
    units, others = KINDS[kind].plain(model, images).units, naive_decomposition(model, images).units
    assert set(units) == set(others)
    for name, expected in others.items():
        assert_close(units[name], expected, FLOAT64_TOL)
