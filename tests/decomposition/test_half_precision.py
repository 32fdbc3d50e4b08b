"""Half precision: units are float32, sum exactly, are close to their naive twins; only rounding counts to `bias`."""

import open_clip
import pytest
import torch

from residual_lens.bases import fit_bases
from residual_lens.errors import MismatchError
from residual_lens.interventions import ResiDual
from tests.decomposition.models import KINDS, Kind
from tests.tiny_models import source_embedding, tiny_clip
from tests.tolerances import BFLOAT16_SUM_TOL, assert_changed, assert_close

HALF_SUM_TOL = 2e-3
"""What is asked of units' sums; they are exact up to float32."""

EXACT_TOL = 1e-5
"""Float32 sums of what the model rounded."""

HALF_KINDS = (
    "ViT-B-16",
    "layerscale",
    "avg-norm-before-pool",
    "avg-norm-after-pool",
    "coca",
    "siglip-timm",
    "siglip-hf",
    "perception-encoder",
    "rms-mean-after-norm",
    "rotary-timm",
    "dinov3-hf",
    "projection-with-bias",
)


def half(kind, dtype=torch.bfloat16):
    model, images = KINDS[kind].model().to(dtype), KINDS[kind].images().to(dtype)
    return model, images, KINDS[kind].wrapped(model)


def gap_to_embedding(actual, expected, embedding):
    return float((actual.double() - expected.double()).abs().max() / embedding.double().abs().max())


@torch.no_grad()
@pytest.mark.parametrize("kind", HALF_KINDS)
def test_bfloat16_units_sum_exactly_and_each_is_close_to_its_twin(kind):
    model, images, hvit = half(kind)
    naive = KINDS[kind].plain(model, images)
    parts, terms, embedding = hvit.decompose(images), hvit.extract(images), hvit(images)
    assert embedding.dtype == torch.bfloat16
    assert parts.values.dtype == torch.float32
    assert_close(parts.total(), embedding.float(), HALF_SUM_TOL)
    assert_close(parts.total(), embedding.float(), EXACT_TOL)
    for name, expected in naive.units.items():
        if name == "bias":
            continue
        gap = gap_to_embedding(parts[name], expected, naive.embedding)
        assert gap <= BFLOAT16_SUM_TOL, f"{name} differs by {gap:.1e} of the embedding"
    # What counts to bias is what rounding adds, and no unit in disguise.
    assert gap_to_embedding(terms.rounding, torch.zeros_like(terms.rounding), naive.embedding) <= BFLOAT16_SUM_TOL
    assert gap_to_embedding(parts["bias"] - terms.rounding, naive.units["bias"], naive.embedding) <= BFLOAT16_SUM_TOL
    assert torch.equal(parts["bias"], terms.readout.bias() + terms.rounding)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["ViT-B-16", "siglip-timm", "dinov3-hf"])
def test_float16_units_sum_exactly_with_less_rounding(kind):
    model, images, hvit = half(kind, torch.float16)
    naive = KINDS[kind].plain(model, images)
    parts = hvit.decompose(images)
    assert_close(parts.total(), hvit(images).float(), EXACT_TOL)
    for name, expected in naive.units.items():
        assert gap_to_embedding(parts[name], expected, naive.embedding) <= HALF_SUM_TOL * 2


@torch.no_grad()
@pytest.mark.parametrize("kind", ["ViT-B-16", "avg-norm-before-pool", "projection-with-bias"])
def test_uniform_shares_sum_exactly_too(kind):
    _, images, hvit = half(kind)
    parts = hvit.decompose(images, center="uniform")
    assert "bias" not in parts.units
    assert_close(parts.total(), hvit(images).float(), EXACT_TOL)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["ViT-B-16", "siglip-timm", "dinov3-hf"])
@pytest.mark.parametrize("point", ["blocks.0.hook_resid_mid", "blocks.1.hook_attn_out", "hook_pooled"])
def test_unowned_edits_are_refused_though_rounding_counts_to_bias(kind, point):
    _, images, hvit = half(kind)
    with hvit.hooks([(point, lambda activation, hook: activation + activation.roll(1, dims=-1))]):
        for call in (hvit.decompose, hvit.extract):
            with pytest.raises(MismatchError, match="no unit owns the change"):
                call(images)
    with hvit.hooks([(point, lambda activation, hook: None)]):
        assert_close(hvit.decompose(images).total(), hvit(images).float(), EXACT_TOL)


@torch.no_grad()
@pytest.mark.parametrize("point", ["blocks.0.hook_mlp_out", "blocks.0.attn.hook_z", "blocks.0.attn.hook_result"])
@pytest.mark.parametrize("kind", ["ViT-B-16", "siglip-timm"])
def test_owned_edits_are_the_units(kind, point):
    _, images, hvit = half(kind)
    before = hvit.decompose(images)
    with hvit.hooks([(point, lambda activation, hook: 0 * activation)]):
        after = hvit.decompose(images)
        assert_close(after.total(), hvit(images).float(), EXACT_TOL)
    name = "0_mlp_out" if "mlp" in point else "L0H1"
    assert_changed(after[name], before[name])
    if "mlp" in point:
        assert after[name].abs().max() <= BFLOAT16_SUM_TOL * before[name].abs().max()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["ViT-B-16", "siglip-timm"])
def test_direct_edits_bases_and_residual_work_in_bfloat16(kind):
    _, images, hvit = half(kind)
    frames, parts = hvit.head_frames(), hvit.decompose(images)
    lifted = frames.lift(frames.coordinates(hvit.extract(images).head_features()))
    assert lifted.dtype == torch.float32
    assert gap_to_embedding(lifted, parts.select("heads"), parts.total()) <= BFLOAT16_SUM_TOL
    many = KINDS[kind].images(30, seed=5)
    bases = fit_bases(hvit, many.to(torch.bfloat16))
    wide = fit_bases(KINDS[kind].wrapped(), many)
    for name in ("L1H1", "0_mlp_out"):
        assert_close(bases[name].variances[:2], wide[name].variances[:2], 5 * BFLOAT16_SUM_TOL)
    embedding = hvit(images).float()
    identity = ResiDual.from_bases(bases, variant="residual", scales="ones", keep_mean=True)
    edited = ResiDual.from_bases(bases, variant="residual", seed=3)
    for path, tolerance in (("direct", HALF_SUM_TOL), ("stream", 2 * BFLOAT16_SUM_TOL)):
        with identity.attached(hvit, path=path):
            assert hvit(images).dtype == torch.bfloat16
            assert_close(hvit(images).float(), embedding, tolerance)
        with edited.attached(hvit, path=path):
            assert_changed(hvit(images).float(), embedding)
            # The embedding is rounded once more after direct edits.
            assert_close(hvit.decompose(images).total(), hvit(images).float(), 2 * BFLOAT16_SUM_TOL)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["ViT-B-16", "clipa", "avg-norm-before-pool"])
def test_towers_with_norms_in_float32_sum_exactly(kind):
    model = tiny_clip(kind)
    open_clip.model.convert_weights_to_lp(model, torch.bfloat16)
    images = torch.randn(3, 3, *model.visual.image_size, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    hvit = Kind(lambda: model).wrapped()
    parts = hvit.decompose(images)
    assert_close(parts.total(), hvit(images).float(), EXACT_TOL)
    # torch computes open_clip's attention in another order.
    assert_close(parts.total(), source_embedding(model, images).float(), BFLOAT16_SUM_TOL)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["ViT-B-16", "siglip-timm", "avg-norm-after-pool"])
def test_autocast_sums_exactly_and_knows_unowned_edits(kind):
    hvit, images = KINDS[kind].wrapped(), KINDS[kind].images()
    with torch.autocast("cpu", torch.bfloat16):
        parts, embedding = hvit.decompose(images), hvit(images)
        assert_close(parts.total(), embedding.float(), HALF_SUM_TOL)
        with hvit.hooks([("blocks.0.attn.hook_z", lambda activation, hook: None)]):
            hvit.decompose(images)
        with (
            hvit.hooks([("blocks.0.hook_resid_mid", lambda activation, hook: 1.5 * activation.roll(1, dims=-1))]),
            pytest.raises(MismatchError, match="no unit owns"),
        ):
            hvit.decompose(images)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["ViT-B-16", "layerscale", "avg-norm-before-pool", "siglip-hf"])
def test_terms_of_the_stream_sum_to_the_stream_as_it_was_rounded(kind):
    _, images, hvit = half(kind)
    seen = []
    last = f"blocks.{hvit.cfg.n_layers - 1}.hook_resid_post"
    with hvit.hooks([(last, lambda stream, hook: seen.append(stream.float()))]):
        terms = hvit.extract(images)
        values = hvit.decompose(images).values
    of_stream = terms.readout.of_terms(hvit.pool.keep(seen[0]))
    besides = [name for name in hvit.units.names if name in ("bias", "pool_mlp_out")]
    assert_close(values[:, : len(hvit.units) - len(besides)].sum(dim=1), of_stream, EXACT_TOL)
