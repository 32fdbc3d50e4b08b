"""Direct hook points: what a hook returns there replaces a contribution to the embedding and nothing else."""

import pytest
import torch

from residual_lens.errors import InputError, MismatchError
from residual_lens.hooked.vit import HookedViT
from tests.hooked.running import counted_blocks, listening
from tests.tiny_models import UNIFORM_KINDS, WIRINGS, tiny_images, tiny_tower
from tests.tolerances import FLOAT32_TOL, assert_changed, assert_close

CENTRED = [(kind, "own") for kind in WIRINGS] + [(kind, "uniform") for kind in WIRINGS if kind in UNIFORM_KINDS]
EDITS = ("L1H2", "1_mlp_out", "embed")


def replaced_by_ones(unit):
    return (unit.direct_hook_name, lambda values, hook: unit.replace(values, 1.0))


@pytest.mark.parametrize(("kind", "center"), CENTRED)
def test_every_direct_hook_sees_its_units_contributions(kind, center):
    hvit = HookedViT.wrap(tiny_tower(kind), center=center)
    images = tiny_images(hvit.parts.tower)
    parts = hvit.decompose(images)
    _, cache = hvit.run_with_cache(images, names_filter=lambda name: name.endswith("direct"))
    for unit in hvit.units:
        assert_close(unit.read(cache[unit.direct_hook_name]), parts[unit.name], FLOAT32_TOL)


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize(("kind", "center"), CENTRED)
def test_a_direct_edit_replaces_one_contribution_and_nothing_else(kind, center, name):
    hvit = HookedViT.wrap(tiny_tower(kind), center=center)
    images = tiny_images(hvit.parts.tower)
    parts, before = hvit.decompose(images), hvit(images)
    stream = {}

    def record(key):
        return lambda activation, hook: stream.setdefault(key, activation)

    with hvit.hooks([("blocks.2.hook_resid_post", record("before"))]):
        hvit(images)
    with hvit.hooks([replaced_by_ones(hvit.units[name]), ("blocks.2.hook_resid_post", record("after"))]):
        edited = hvit(images)
        edited_parts = hvit.decompose(images)
    assert_close(edited, before - parts[name] + 1.0, FLOAT32_TOL)
    assert_close(stream["after"], stream["before"], FLOAT32_TOL)
    expected = parts.values.clone()
    expected[:, parts.units.position(name)] = 1.0
    assert_close(edited_parts.values, expected, FLOAT32_TOL)


def test_direct_edits_at_several_points_add_up(hvit, images):
    parts = hvit.decompose(images)
    with hvit.hooks([replaced_by_ones(hvit.units[name]) for name in (*EDITS, "bias")]):
        edited = hvit(images)
    left = sum(parts[name] for name in parts.units.names if name not in (*EDITS, "bias"))
    assert_close(edited, left + 4.0, FLOAT32_TOL)


def test_direct_and_stream_edits_meet(hvit, images):
    ablated = ("blocks.0.attn.hook_z", lambda z, hook: torch.zeros_like(z))
    with hvit.hooks([ablated]):
        parts = hvit.decompose(images)
        with hvit.hooks([replaced_by_ones(hvit.units["L1H2"])]):
            assert_close(hvit(images), parts.total() - parts["L1H2"] + 1.0, FLOAT32_TOL)


def test_direct_hooks_leave_the_last_block_short_and_attention_fused(hvit, images):
    with hvit.hooks([replaced_by_ones(unit) for unit in hvit.units]), counted_blocks(hvit) as positions:
        assert_close(hvit(images), torch.full((3, 20), float(len(hvit.units))), FLOAT32_TOL)
    assert positions == [5, 5, 1]


def test_gradients_reach_what_a_direct_hook_uses(hvit, images):
    scale = torch.ones(20, requires_grad=True)
    parts = hvit.decompose(images)
    unit = hvit.units["L2H0"]
    hook = (unit.direct_hook_name, lambda values, hook: unit.replace(values, unit.read(values) * scale))
    with hvit.hooks([hook]):
        (gradient,) = torch.autograd.grad(hvit(images).sum(), scale)
    assert_close(gradient, parts["L2H0"].sum(dim=0), FLOAT32_TOL)


@pytest.mark.parametrize("name", ["L1H2", "1_mlp_out"])
def test_a_direct_hook_that_returns_another_shape_is_refused(hvit, images, name):
    unit = hvit.units[name]
    refused = pytest.raises(InputError, match=rf"{unit.direct_hook_name} returned .* must keep")
    with hvit.hooks([(unit.direct_hook_name, lambda values, hook: values[..., :-1])]), refused:
        hvit(images)


@pytest.mark.parametrize("center", ["own", "uniform"])
def test_recompose_equals_the_forward_pass_with_and_without_direct_hooks(tower, images, center):
    hvit = HookedViT.wrap(tower, center=center)
    parts = hvit.decompose(images)
    kept = parts.values.clone()
    assert_close(hvit.recompose(parts), hvit(images), FLOAT32_TOL)

    def in_place(values, hook):
        values[..., ::2] *= -2

    hooks = [(lambda name: name.endswith("direct"), in_place), ("hook_image_embed", lambda x, hook: x + 1)]
    with hvit.hooks(hooks), counted_blocks(hvit) as positions:
        recomposed = hvit.recompose(parts)
    assert positions == []
    with hvit.hooks(hooks):
        assert_close(recomposed, hvit(images), FLOAT32_TOL)
    assert_changed(recomposed, hvit(images))
    assert torch.equal(parts.values, kept)


def test_recompose_refuses_units_of_another_model_or_centring(hvit, images):
    with pytest.raises(MismatchError, match=r"this model \(center='own'\)"):
        hvit.recompose(hvit.decompose(images, center="uniform"))


def test_recompose_refuses_hooks_that_would_act_before_the_decomposition(hvit, images):
    parts = hvit.decompose(images)
    refused = pytest.raises(MismatchError, match=r"A hook at blocks.1.attn.hook_z is in force")
    with listening(hvit, "blocks.1.attn.hook_z"), refused:
        hvit.recompose(parts)


def test_decompose_refuses_another_centring_while_direct_points_are_hooked(hvit, images):
    with listening(hvit, "blocks.1.attn.hook_direct"):
        hvit.decompose(images)
        with pytest.raises(MismatchError, match="decompose with that centring"):
            hvit.decompose(images, center="uniform")
    hvit.decompose(images, center="uniform")
