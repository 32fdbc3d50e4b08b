"""Coarse and LinearAdapter are the formulas that their names say."""

import pytest
import torch

from residual_lens.errors import InputError, MismatchError
from residual_lens.training.methods import Coarse, LinearAdapter
from tests.interventions.test_residual_stream import stream_terms
from tests.interventions.tiny_bases import hooks_in_force
from tests.tolerances import FLOAT32_TOL, assert_changed, assert_close


@pytest.fixture
def factors(generator):
    return torch.randn(3, 3, generator=generator)


@pytest.fixture
def coarse(factors) -> Coarse:
    coarse = Coarse(3, 3)
    coarse.load_state_dict({"scales": factors})
    return coarse


@torch.no_grad()
def test_coarse_multiplies_each_heads_contribution(hvit, images, coarse, factors):
    before = hvit.decompose(images)
    with coarse.attached(hvit):
        after, embedding = hvit.decompose(images), hvit(images)
    expected = torch.zeros_like(before.total())
    for unit in hvit.units:
        factor = float(factors[unit.layer, unit.index]) if unit.kind == "head" else 1.0
        assert_close(after[unit.name], factor * before[unit.name], FLOAT32_TOL)
        expected += factor * before[unit.name]
    assert_close(embedding, expected, FLOAT32_TOL)


@torch.no_grad()
def test_coarse_in_the_stream_multiplies_what_a_head_adds_with_its_share_of_the_bias(hvit, images, coarse, factors):
    before = stream_terms(hvit, images)
    with coarse.attached(hvit, path="stream"):
        after = stream_terms(hvit, images)
    for head in range(3):
        name = f"L0H{head}"
        assert_close(after[name], float(factors[0, head]) * before[name], FLOAT32_TOL)
    assert_changed(after["1_mlp_out"], before["1_mlp_out"])


@pytest.mark.parametrize("path", ["direct", "stream"])
def test_coarse_starts_as_the_unedited_model(hvit, images, path):
    with Coarse(3, 3).attached(hvit, path=path):
        edited = hvit(images)
    assert_close(edited, hvit(images), FLOAT32_TOL)


@torch.no_grad()
def test_linear_is_an_affine_map_of_the_embedding(hvit, images, generator):
    linear = LinearAdapter(hvit.cfg.d_out)
    before = hvit(images)
    with linear.attached(hvit):
        assert_close(hvit(images), before, FLOAT32_TOL)
    weight, bias = torch.randn(20, 20, generator=generator), torch.randn(20, generator=generator)
    linear.load_state_dict({"weight": weight, "bias": bias})
    with linear.attached(hvit):
        edited = hvit(images)
    expected = [[float(bias[i] + sum(weight[i, j] * e[j] for j in range(20))) for i in range(20)] for e in before]
    assert_close(edited, torch.tensor(expected), FLOAT32_TOL)


@pytest.mark.parametrize(("layers", "heads", "count"), [(12, 12, 144), (24, 16, 384)], ids=["CLIP-B", "CLIP-L"])
def test_coarse_counts_of_the_real_clips(layers, heads, count):
    assert Coarse(layers, heads).parameter_count() == count


@pytest.mark.parametrize(("d_out", "count"), [(512, 512 * 513), (768, 768 * 769)], ids=["CLIP-B", "CLIP-L"])
def test_linear_counts_of_the_real_clips(d_out, count):
    assert LinearAdapter(d_out).parameter_count() == count


@pytest.mark.parametrize(
    ("adapter", "error", "path", "message"),
    [
        (Coarse(2, 3), MismatchError, "direct", r"for \[2, 3\] layers × heads, VisionTransformer has \[3, 3\]"),
        (Coarse(3, 4), MismatchError, "stream", r"for \[3, 4\] layers × heads"),
        (LinearAdapter(16), MismatchError, "direct", "embeddings of 16 dimensions, VisionTransformer has 20"),
        (LinearAdapter(20), InputError, "stream", "no stream path: use path='direct'"),
    ],
)
def test_adapters_for_another_model_or_path_are_refused(hvit, adapter, error, path, message):
    with pytest.raises(error, match=message), adapter.attached(hvit, path=path):
        pass
    assert hooks_in_force(hvit) == 0
