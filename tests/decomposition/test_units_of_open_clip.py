"""Units sum to the embedding and equal their naive float64 twins, for every kind of config and both centrings."""

from dataclasses import replace

import pytest
import torch

from residual_lens.decomposition import Decomposition
from residual_lens.errors import InputError, UnsupportedModelError
from residual_lens.hooked.vit import HookedViT
from residual_lens.units import Units
from tests.reference.decomposition import naive_decomposition
from tests.tiny_models import KINDS, UNIFORM_KINDS, WIRINGS, tiny_images, tiny_tower
from tests.tolerances import (
    BFLOAT16_SUM_TOL,
    FLOAT32_AGAINST_FLOAT64_TOL,
    FLOAT32_TOL,
    FLOAT64_TOL,
    assert_close,
    relative_gap,
)

CENTRED = [(kind, "own") for kind in KINDS] + [(kind, "uniform") for kind in UNIFORM_KINDS]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("kind", "center"), CENTRED)
def test_units_sum_to_the_embedding(kind, center, training):
    hvit = HookedViT.wrap(tiny_tower(kind).train(training), center=center)
    images = tiny_images(hvit.parts.tower)
    torch.manual_seed(3)
    expected = hvit(images)
    torch.manual_seed(3)
    parts = hvit.decompose(images)
    assert parts.values.shape == (3, len(hvit.units), hvit.cfg.d_out)
    assert parts.units == hvit.units
    assert_close(parts.total(), expected, FLOAT32_TOL)


@pytest.mark.parametrize(("kind", "center"), CENTRED)
def test_every_unit_equals_its_naive_twin(kind, center):
    tower = tiny_tower(kind)
    images = tiny_images(tower)
    naive = naive_decomposition(tower, images, center)
    parts = HookedViT.wrap(tower).decompose(images, center=center)
    assert set(parts.units.names) == set(naive.units)
    largest = max(float(value.abs().max()) for value in naive.units.values())
    for name, expected in naive.units.items():
        gap = float((parts[name].detach().double() - expected).abs().max()) / largest
        assert gap <= FLOAT32_AGAINST_FLOAT64_TOL, f"{name} differs by {gap:.1e}"


@pytest.mark.parametrize(("kind", "center"), [(kind, "own") for kind in WIRINGS] + [("ViT-B-16", "uniform")])
def test_every_unit_equals_its_naive_twin_to_float64_precision(kind, center):
    tower = tiny_tower(kind)
    images = tiny_images(tower).double()
    naive = naive_decomposition(tower, images, center)
    parts = HookedViT.wrap(tower.double()).decompose(images, center=center)
    for name, expected in naive.units.items():
        assert_close(parts[name], expected, 10 * FLOAT64_TOL)


@pytest.mark.parametrize("kind", WIRINGS)
def test_heads_and_stream_terms_equal_the_naive_ones(kind):
    tower = tiny_tower(kind)
    images = tiny_images(tower).double()
    naive = naive_decomposition(tower, images)
    hvit = HookedViT.wrap(tower.double())
    _, cache = hvit.run_with_cache(images)
    for unit in hvit.units.select("heads"):
        block = f"blocks.{unit.layer}.attn"
        assert_close(unit.read(cache[unit.hook_name]), naive.z[unit.name], FLOAT64_TOL)
        assert_close(cache[f"{block}.hook_pattern"][:, unit.index], naive.patterns[unit.name], FLOAT64_TOL)
        bias = hvit.blocks[unit.layer].attn.b_O / hvit.cfg.n_heads
        written = unit.read(cache[f"{block}.hook_result"]) + bias
        assert_close(written, naive.terms[unit.name], FLOAT64_TOL)
    for unit in (hvit.units["embed"], *hvit.units.select("mlps")):
        assert_close(cache[unit.hook_name], naive.terms[unit.name], FLOAT64_TOL)


@pytest.mark.parametrize("kind", UNIFORM_KINDS)
def test_centrings_differ_and_shares_are_even(kind):
    hvit = HookedViT.wrap(tiny_tower(kind))
    images = tiny_images(hvit.parts.tower)
    own, uniform = (hvit.decompose(images, center=center) for center in ("own", "uniform"))
    assert "bias" in own.units.names
    assert "bias" not in uniform.units.names
    # What the two differ by in a unit, gains centred out of both, is what it shares of the constant part.
    shares = uniform.values - own.values[:, :-1]
    assert shares.abs().max() > 1e-3
    assert_close(shares.sum(dim=1), own["bias"], 10 * FLOAT32_TOL)


def test_uniform_centring_is_refused_for_attention_pooling():
    tower = tiny_tower("coca")
    with pytest.raises(UnsupportedModelError, match=r"uniform.*attention pooling"):
        HookedViT.wrap(tower, center="uniform")
    hvit = HookedViT.wrap(tower)
    for call in (hvit.decompose, hvit.extract):
        with pytest.raises(UnsupportedModelError, match="Use center='own'"):
            call(tiny_images(tower), center="uniform")
    with pytest.raises(UnsupportedModelError, match="Use center='own'"):
        hvit.head_frames(center="uniform")


@pytest.mark.parametrize("call", ["decompose", "extract"])
def test_unknown_centrings_are_refused(hvit, images, call):
    with pytest.raises(InputError, match="'own' or 'uniform', got 'other'"):
        getattr(hvit, call)(images, center="other")
    with pytest.raises(InputError, match="'own' or 'uniform', got 'other'"):
        HookedViT.wrap(hvit.source, center="other")
    with pytest.raises(InputError, match="'own' or 'uniform', got 'other'"):
        hvit.head_frames(center="other")


@pytest.mark.parametrize("kind", WIRINGS)
def test_bfloat16_units_sum_to_the_embedding(kind):
    tower = tiny_tower(kind).to(torch.bfloat16)
    hvit = HookedViT.wrap(tower)
    images = tiny_images(tower).to(torch.bfloat16)
    parts = hvit.decompose(images)
    assert parts.values.dtype == torch.float32
    assert_close(parts.total(), hvit(images).float(), BFLOAT16_SUM_TOL)


@pytest.mark.parametrize(("kind", "center"), [("layerscale", "own"), ("clipa", "uniform"), ("coca", "own")])
def test_units_are_differentiable_in_images_and_every_weight(kind, center):
    tower = tiny_tower(kind).double()
    hvit = HookedViT.wrap(tower, center=center)
    images = tiny_images(tower, batch=1).double().requires_grad_()
    weights = [parameter for parameter in tower.parameters() if parameter.requires_grad]
    # Perturbs along random directions instead of entry by entry.
    assert torch.autograd.gradcheck(
        lambda images, *weights: hvit.decompose(images).values, (images, *weights), fast_mode=True, atol=1e-5
    )


def test_gradients_of_the_total_are_those_of_the_embedding():
    tower = tiny_tower("ViT-B-16").double()
    hvit = HookedViT.wrap(tower)
    images = tiny_images(tower).double().requires_grad_()
    weights = [images, *tower.parameters()]
    expected = torch.autograd.grad(hvit(images).square().sum(), weights)
    actual = torch.autograd.grad(hvit.decompose(images).total().square().sum(), weights)
    largest = max(float(gradient.abs().max()) for gradient in expected)
    for ours, theirs in zip(actual, expected, strict=True):
        assert float((ours - theirs).abs().max()) <= 1e-10 * largest


def test_a_decomposition_names_selects_and_sums_its_units(hvit, images):
    parts = hvit.decompose(images)
    assert torch.equal(parts["L1H2"], parts.values[:, parts.units.position("L1H2")])
    heads = parts.select("heads")
    assert heads.shape == (3, 9, hvit.cfg.d_out)
    assert torch.equal(heads[:, 5], parts["L1H2"])
    assert torch.equal(parts.select(["bias", "embed"]), parts.values[:, [0, -1]])
    assert_close(parts.total(), parts.values.sum(dim=1), FLOAT32_TOL)
    with pytest.raises(InputError, match="no unit 'L7H0'"):
        parts["L7H0"]


def test_values_that_do_not_match_their_units_are_refused():
    units = Units.of_vit(n_layers=1, n_heads=2)
    with pytest.raises(InputError, match=r"5 units, got \(2, 4, 3\)"):
        Decomposition(torch.zeros(2, 4, 3), units)


def test_head_contributions_come_from_z_without_a_stream_sized_tensor_per_head(hvit, images):
    terms = hvit.extract(images)
    assert [tuple(z.shape) for z in terms.heads] == [(3, 1, 3, 8)] * 3
    assert terms.written == [False] * 3
    assert relative_gap(terms.contributions(), hvit.decompose(images).values) == 0


@pytest.mark.parametrize("kind", ["ViT-B-16", "layerscale", "clipa"])
def test_direct_map_takes_a_stream_term_to_its_contribution(kind):
    tower = tiny_tower(kind)
    hvit = HookedViT.wrap(tower)
    images = tiny_images(tower)
    _, cache = hvit.run_with_cache(images, names_filter=["blocks.1.hook_mlp_out", "ln_final.hook_scale"])
    term = cache["mlp_out", 1]
    pooled = term[:, 1:].mean(dim=1) if kind == "clipa" else term[:, 0]
    expected = pooled.double() @ hvit.direct_map() / cache["ln_final.hook_scale"]
    assert_close(hvit.decompose(images)["1_mlp_out"], expected, FLOAT32_TOL)


def test_the_direct_map_of_attention_pooling_is_that_of_a_term_equal_at_all_tokens():
    tower = tiny_tower("coca")
    hvit = HookedViT.wrap(tower)
    terms = hvit.extract(tiny_images(tower))
    # Frozen weights that are the same for every pooling head, as they are for such a term.
    weights = terms.readout.weights.mean(dim=1, keepdim=True).expand_as(terms.readout.weights)
    readout = replace(terms.readout, weights=weights)
    pooled = torch.einsum("bp,bpm->bm", weights[:, 0], terms.mlps[1])
    assert_close(readout.of_terms(terms.mlps[1]), pooled.double() @ hvit.direct_map(), FLOAT32_TOL)
