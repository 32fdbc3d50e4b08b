"""ResiDual on the stream path: its direct effect is RD, later layers respond, everything else stays."""

import open_clip
import pytest
import torch

from residual_lens.hooked import HookedViT
from residual_lens.interventions import ResiDual
from tests.hooked.running import listening
from tests.interventions.tiny_bases import (
    DIRECT_POOLED,
    PATHS_AND_CENTERS,
    bases_for,
    scales_by_unit,
    wrapped,
)
from tests.reference.residual import rescaled
from tests.tiny_models import draw_weights, tiny_images
from tests.tolerances import FLOAT32_TOL, assert_changed, assert_close

STREAM_TOL = 10 * FLOAT32_TOL
"""Float32 edits through a pseudo-inverse whose condition is about ten."""


def stream_terms(hvit, images):
    """What every unit writes into the stream at the kept positions, heads spelled out."""
    with listening(hvit, *(f"blocks.{layer}.attn.hook_result" for layer in range(hvit.cfg.n_layers))):
        terms = hvit.extract(images)
    written = {f"{layer}_mlp_out": mlp for layer, mlp in enumerate(terms.mlps)}
    for layer, heads in enumerate(terms.heads):
        written |= {f"L{layer}H{head}": heads[:, :, head] for head in range(hvit.cfg.n_heads)}
    return written


@torch.no_grad()
@pytest.mark.parametrize("keep_mean", [False, True])
@pytest.mark.parametrize("variant", ["residual*", "residual"])
@pytest.mark.parametrize("kind", DIRECT_POOLED)
def test_the_direct_effect_of_a_stream_edit_is_rd_with_the_mean_in_the_streams_size(kind, variant, keep_mean):
    hvit = wrapped(kind)
    images = tiny_images(hvit.source)
    units = ("L2H0", "L2H2", "2_mlp_out") if variant == "residual" else ("L2H0", "L2H2")
    bases = bases_for(hvit, units=units)
    residual = ResiDual.from_bases(bases, variant=variant, keep_mean=keep_mean, seed=3)
    before = stream_terms(hvit, images)
    with residual.attached(hvit, path="stream"):
        after = stream_terms(hvit, images)
    to_embedding = hvit.direct_map().double()
    for name in ("L2H0", "L2H2"):
        assert_changed(after[name], before[name])
        direct_before = (before[name].double() @ to_embedding).flatten(0, 1)
        expected = [
            rescaled(
                x,
                bases[name],
                scales_by_unit(residual)[name],
                variant=variant,
                keep_mean=keep_mean,
                mean=bases.scale * bases[name].mean.double(),
            )
            for x in direct_before
        ]
        assert_close((after[name].double() @ to_embedding).flatten(0, 1), torch.stack(expected), STREAM_TOL)


@torch.no_grad()
@pytest.mark.parametrize("keep_mean", [False, True])
def test_an_edit_of_the_last_mlp_alone_is_the_direct_edit_at_the_samples_own_scale(keep_mean):
    hvit = wrapped()
    images = tiny_images(hvit.source)
    bases = bases_for(hvit, units="2_mlp_out")
    residual = ResiDual.from_bases(bases, variant="residual", keep_mean=keep_mean, seed=3)
    before, terms = hvit.decompose(images), hvit.extract(images)
    sigma = terms.readout.weights[:, 0].reciprocal()
    with residual.attached(hvit, path="stream"):
        after, edited_terms = hvit.decompose(images), hvit.extract(images)
    edited_sigma = edited_terms.readout.weights[:, 0].reciprocal()
    scales, mean = scales_by_unit(residual)["2_mlp_out"], bases.scale * bases["2_mlp_out"].mean.double()
    for name in set(before.units.names) - {"bias"}:
        values = (before[name] * sigma).double()
        if name == "2_mlp_out":
            rows = [
                rescaled(x, bases[name], scales, variant="residual", keep_mean=keep_mean, mean=mean) for x in values
            ]
            values = torch.stack(rows)
        assert_close(after[name] * edited_sigma, values, STREAM_TOL)


@torch.no_grad()
def test_what_the_embedding_does_not_see_of_a_term_stays_in_the_stream():
    hvit = wrapped()
    images = tiny_images(hvit.source)
    residual = ResiDual.from_bases(bases_for(hvit, units="L2H1"), variant="residual", seed=3)
    before = stream_terms(hvit, images)["L2H1"].double()
    with residual.attached(hvit, path="stream"):
        after = stream_terms(hvit, images)["L2H1"].double()
    seen = hvit.direct_map().double() @ torch.linalg.pinv(hvit.direct_map().double())
    assert_changed(after, before)
    assert_close((after - before) @ seen, after - before, STREAM_TOL)
    assert_changed((after - before) @ seen + before @ seen, after)


@torch.no_grad()
@pytest.mark.parametrize("variant", ["residual*", "residual"])
def test_later_layers_respond_to_a_stream_edit_and_not_to_a_direct_one(variant):
    hvit = wrapped()
    images = tiny_images(hvit.source)
    residual = ResiDual.from_bases(bases_for(hvit, units="L0"), variant=variant, seed=3)
    later = ("blocks.1.attn.hook_z", "blocks.2.hook_mlp_out")
    before = [hvit.run_with_cache(images)[1][name] for name in later]
    with residual.attached(hvit, path="direct"):
        cache = hvit.run_with_cache(images)[1]
        for name, expected in zip(later, before, strict=True):
            assert torch.equal(cache[name], expected)
    with residual.attached(hvit, path="stream"):
        cache = hvit.run_with_cache(images)[1]
        for name, expected in zip(later, before, strict=True):
            assert_changed(cache[name], expected)


@torch.no_grad()
def test_units_still_sum_to_the_embedding_under_a_stream_edit():
    for kind in DIRECT_POOLED:
        hvit = wrapped(kind)
        images = tiny_images(hvit.source)
        with ResiDual.from_bases(bases_for(hvit), seed=3).attached(hvit, path="stream"):
            assert_close(hvit.decompose(images).total(), hvit(images), STREAM_TOL)


@torch.no_grad()
@pytest.mark.parametrize(("path", "center"), PATHS_AND_CENTERS)
@pytest.mark.parametrize("units", ["heads", ("L0H1", "L2")])
def test_residual_star_drops_every_other_unit_from_the_embedding(units, center, path):
    hvit = wrapped(center=center)
    images = tiny_images(hvit.source)
    residual = ResiDual.from_bases(bases_for(hvit, units=units), variant="residual*", seed=3)
    with residual.attached(hvit, path=path):
        parts, embedding = hvit.decompose(images), hvit(images)
    for name in parts.units.names:
        assert bool(parts[name].any()) == (name in residual.config.units), name
    assert_close(embedding, parts.select(residual.config.units).sum(dim=1), STREAM_TOL)


@torch.no_grad()
def test_residual_star_leaves_the_other_units_in_the_stream():
    hvit = wrapped()
    images = tiny_images(hvit.source)
    residual = ResiDual.from_bases(bases_for(hvit, units=("L1H0", "L1H2")), variant="residual*", seed=3)
    before = stream_terms(hvit, images)
    with residual.attached(hvit, path="stream"):
        after = stream_terms(hvit, images)
    for name in ("L0H0", "0_mlp_out", "L1H1"):
        assert_close(after[name], before[name], FLOAT32_TOL)
    for name in ("1_mlp_out", "L2H1", "2_mlp_out"):
        assert after[name].abs().amax() > 0
        assert_changed(after[name], before[name])


@torch.no_grad()
@pytest.mark.parametrize("d_out", [24, 30])
def test_an_embedding_as_wide_as_the_stream_blows_nothing_up(d_out):
    """Centring makes the map singular; its pseudo-inverse must not amplify what float32 leaves of that direction."""
    config = open_clip.get_model_config("ViT-B-16")
    vision = config["vision_cfg"] | {"width": 24, "head_width": 8, "layers": 2, "image_size": 32}
    tower = open_clip.model._build_vision_tower(d_out, vision).eval()
    draw_weights(tower, seed=0)
    hvit = HookedViT.wrap(tower)
    images = tiny_images(tower)
    residual = ResiDual.from_bases(bases_for(hvit), seed=3)
    for hook_name, _ in residual.hooks(hvit, "stream"):
        assert hook_name in hvit.hook_dict
    frames = [rescaling.stream_frame(*maps(hvit), 1.0) for rescaling in residual._rescalings]
    assert max(float(frame.writing.abs().max()) for frame in frames) < 100
    with residual.attached(hvit, path="stream"), torch.autocast("cpu", torch.bfloat16):
        assert hvit(images).isfinite().all()


def maps(hvit):
    """The map to the embedding and its inverse, as ResiDual takes them."""
    to_embedding = hvit.direct_map()
    return to_embedding, torch.linalg.pinv(to_embedding, rtol=1e-6)
