"""Every unit equals its naive float64 twin, for every way that tokens become an embedding.

With attention pooling: patterns of the pooling and norms of the tokens frozen. `bias` is everything that adds besides.
"""

import pytest
import torch

from tests.decomposition.models import ATTENTION_POOLED, KINDS
from tests.tolerances import FLOAT32_AGAINST_FLOAT64_TOL, FLOAT32_TOL, FLOAT64_TOL, assert_close


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_every_unit_equals_its_naive_twin(kind):
    model, images = KINDS[kind].model(), KINDS[kind].images()
    naive = KINDS[kind].plain(model, images)
    parts = KINDS[kind].wrapped(model).decompose(images)
    assert parts.units.names == tuple(naive.units)
    assert_close(parts.total(), naive.embedding, FLOAT32_AGAINST_FLOAT64_TOL)
    largest = max(float(value.abs().max()) for value in naive.units.values())
    for name, expected in naive.units.items():
        gap = float((parts[name].double() - expected).abs().max()) / largest
        assert gap <= FLOAT32_AGAINST_FLOAT64_TOL, f"{name} differs by {gap:.1e}"


@torch.no_grad()
@pytest.mark.parametrize("kind", ATTENTION_POOLED)
def test_every_unit_of_attention_pooling_equals_its_naive_twin_to_float64_precision(kind):
    model, images = KINDS[kind].model(), KINDS[kind].images(2).double()
    naive = KINDS[kind].plain(model, images)
    parts = KINDS[kind].wrapped(model.double()).decompose(images)
    for name, expected in naive.units.items():
        assert_close(parts[name], expected, 10 * FLOAT64_TOL)


@torch.no_grad()
@pytest.mark.parametrize("kind", ATTENTION_POOLED)
def test_low_rank_coordinates_of_heads_lift_to_contributions(kind):
    hvit, images = KINDS[kind].wrapped(), KINDS[kind].images()
    frames = hvit.head_frames()
    lifted = frames.lift(frames.coordinates(hvit.extract(images).head_features().double()))
    assert_close(lifted, hvit.decompose(images).select("heads"), FLOAT32_TOL)


@torch.no_grad()
def test_the_bias_of_a_projection_belongs_to_the_unit_bias():
    kind = KINDS["projection-with-bias"]
    model, images = kind.model(), kind.images()
    offset, projection = model.vision_model.post_layernorm.bias, model.vision_proj
    expected = projection.weight.double() @ offset.double() + projection.bias.double()
    assert_close(kind.wrapped(model).decompose(images)["bias"], expected.expand(3, -1), FLOAT32_TOL)


@torch.no_grad()
def test_with_a_head_everything_goes_through_it_once():
    model, images = KINDS["perception-encoder"].model(), KINDS["perception-encoder"].images()
    with_head = KINDS["perception-encoder"].wrapped(model).decompose(images)
    without = type(KINDS["perception-encoder"])(lambda: model).wrapped(model).decompose(images)
    weight, bias = model.head.weight, model.head.bias
    expected = without.values @ weight.T
    expected[:, without.units.position("bias")] += bias
    assert_close(with_head.values, expected, FLOAT32_TOL)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["siglip-timm", "coca"])
def test_edits_of_the_pooling_pattern_decompose(kind):
    hvit, images = KINDS[kind].wrapped(), KINDS[kind].images()
    before = hvit.decompose(images)

    def edit(pattern, hook):
        pattern = pattern.clone()
        pattern[..., 2] = 0
        return 1.3 * pattern

    with hvit.hooks([("pool.hook_pattern", edit)]):
        parts = hvit.decompose(images)
        assert_close(parts.total(), hvit(images), FLOAT32_TOL)
    # What the values' biases add is gathered with the pattern too.
    assert float((parts["bias"] - before["bias"]).abs().max()) > 1e-2 * float(before["bias"].abs().max())
