"""Half precision: towers as open_clip makes them (norms in float32), and autocast around towers of float32."""

from functools import cache

import open_clip
import pytest
import timm
import torch

from residual_lens.errors import InputError
from residual_lens.hooked.vit import HookedViT
from residual_lens.interventions import ResiDual
from tests.hooked.running import unchanged
from tests.interventions.tiny_bases import bases_for
from tests.tiny_models import WIRINGS, draw_weights, source_embedding, tiny_clip, tiny_images, tiny_tower
from tests.tolerances import BFLOAT16_SUM_TOL, FLOAT32_TOL, assert_changed, assert_close, relative_gap

TIMM = {
    "dinov3": ("vit_small_patch16_dinov3", {"img_size": 64}),
    "siglip": ("vit_base_patch16_siglip_224", {"img_size": 32}),
    "perception": ("vit_pe_core_tiny_patch16_384", {"img_size": 32}),
}
AUTOCAST = (*WIRINGS, *TIMM)
AUTOCAST_SUM_TOL = 2e-3
"""Units against an embedding that one product in half precision rounded."""


@cache
def autocast_model(kind: str) -> tuple[HookedViT, torch.Tensor]:
    """A float32 model and float32 images."""
    if kind in TIMM:
        name, size = TIMM[kind]
        tower = timm.create_model(name, embed_dim=32, depth=2, num_heads=4, num_classes=0, **size).eval()
        draw_weights(tower, 0)
    else:
        tower = tiny_tower(kind)
    hvit = HookedViT.wrap(tower)
    return hvit, torch.randn(3, 3, *hvit.cfg.image_size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", ["ViT-B-16", "clipa", "avg-norm-before-pool"])
def test_mixed_precision_towers_are_taken_as_they_are(kind):
    model = tiny_clip(kind)
    open_clip.model.convert_weights_to_lp(model, torch.bfloat16)
    assert model.visual.ln_post.weight.dtype == torch.float32
    images = tiny_images(model).to(torch.bfloat16)
    hvit = HookedViT.wrap(model)
    assert hvit.dtype == torch.bfloat16
    expected = source_embedding(model, images)
    assert_close(hvit(images), expected, BFLOAT16_SUM_TOL)
    with hvit.hooks([(lambda name: True, lambda activation, hook: None)]):
        assert_close(hvit(images), expected, BFLOAT16_SUM_TOL)
    for center in ("own", "uniform"):
        total = hvit.decompose(images, center=center).values.float().sum(dim=1)
        assert_close(total, expected.float(), BFLOAT16_SUM_TOL)


def test_images_of_the_wrong_dtype_are_refused_with_the_right_one():
    model = tiny_clip("ViT-B-16")
    open_clip.model.convert_weights_to_lp(model, torch.bfloat16)
    with pytest.raises(InputError, match=r"call images.to\(torch.bfloat16\)"):
        HookedViT.wrap(model)(tiny_images(model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", AUTOCAST)
def test_autocast_gives_what_it_gives_the_source_and_units_still_sum(kind, dtype):
    hvit, images = autocast_model(kind)
    wide = hvit(images)
    with torch.autocast("cpu", dtype):
        expected, found = source_embedding(hvit.source, images), hvit(images)
        parts = hvit.decompose(images)
        with hvit.hooks([(lambda name: True, unchanged)]):
            listened = hvit(images)
    # Half precision really was in force.
    assert relative_gap(found, wide) > FLOAT32_TOL
    assert_close(found.float(), expected.float(), BFLOAT16_SUM_TOL)
    assert_close(listened.float(), expected.float(), BFLOAT16_SUM_TOL)
    assert parts.values.dtype == torch.float32
    # The sum is taken in float32, so that only the projection's own rounding is between them.
    assert_close(parts.total(), found.float(), AUTOCAST_SUM_TOL)


@pytest.mark.parametrize("kind", ["ViT-B-16", "coca", "siglip", "dinov3"])
def test_hooks_of_every_sort_act_at_every_point_under_autocast(kind):
    hvit, images = autocast_model(kind)

    def noise(activation, hook):
        drawn = torch.randn(activation.shape, generator=torch.Generator().manual_seed(11))
        return (drawn.abs() if hook.name.endswith("hook_scale") else drawn).to(activation)

    def in_place(activation, hook):
        activation.copy_(noise(activation, hook))

    def wide(activation, hook):
        return noise(activation, hook).float()

    names = [name for name in hvit.hook_dict if not name.startswith(("blocks.1", "blocks.2"))]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = hvit(images)
        for name in names:
            outputs = []
            for hook in (noise, in_place, wide):
                with hvit.hooks([(name, hook)]):
                    outputs.append(hvit(images).float())
            assert all(relative_gap(output, before.float()) > BFLOAT16_SUM_TOL for output in outputs), name
            assert torch.equal(outputs[1], outputs[0])
            # The noise itself is rounded to eight bits in one of them.
            assert_close(outputs[2], outputs[0], 2 * BFLOAT16_SUM_TOL)
        assert torch.equal(hvit(images), before)


@pytest.mark.parametrize("path", ["direct", "stream"])
def test_residual_is_trained_under_autocast(path):
    hvit, images = autocast_model("ViT-B-16")
    residual = ResiDual.from_bases(bases_for(hvit), seed=2)
    found = []
    for enabled in (False, True):
        with residual.attached(hvit, path=path):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                value = hvit(images).float().square().sum()
            found.append(torch.autograd.grad(value, residual.scales)[0])
    assert found[1].dtype == torch.float32
    # Gradients are sums of products of activations that were rounded to eight bits.
    assert_close(found[1], found[0], 5 * BFLOAT16_SUM_TOL)
    assert_changed(found[1], torch.zeros_like(found[1]) + found[0].mean())
