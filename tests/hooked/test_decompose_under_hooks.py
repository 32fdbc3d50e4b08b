"""Edits in the stream: those that a unit owns keep the sum exact, others are refused."""

import pytest

from residual_lens.errors import MismatchError
from residual_lens.hooked.vit import HookedViT
from tests.tiny_models import WIRINGS, tiny_images, tiny_tower
from tests.tolerances import FLOAT32_TOL, assert_changed, assert_close

OWNED = (
    "hook_embed",
    "hook_pos_embed",
    "hook_full_embed",
    "blocks.0.hook_resid_pre",
    "blocks.1.ln1.hook_scale",
    "blocks.1.ln1.hook_normalized",
    "blocks.1.attn.hook_q",
    "blocks.1.attn.hook_pattern",
    "blocks.1.attn.hook_z",
    "blocks.1.attn.hook_result",
    "blocks.2.attn.hook_z",
    "blocks.2.attn.hook_result",
    "blocks.1.mlp.hook_post",
    "blocks.1.hook_mlp_out",
    "blocks.2.hook_mlp_out",
    "ln_final.hook_scale",
)
UNOWNED = (
    "blocks.1.hook_attn_out",
    "blocks.1.hook_resid_pre",
    "blocks.1.hook_resid_mid",
    "blocks.1.hook_resid_post",
    "blocks.2.hook_resid_post",
    "hook_pooled",
    "ln_final.hook_normalized",
)


def edit(activation, hook):
    return activation.flip(0) * 1.3 + 0.5


@pytest.mark.parametrize("name", OWNED)
@pytest.mark.parametrize("kind", WIRINGS)
def test_units_sum_to_the_edited_embedding_where_a_unit_owns_the_edit(kind, name):
    hvit = HookedViT.wrap(tiny_tower(kind))
    images = tiny_images(hvit.parts.tower)
    before = hvit(images)
    with hvit.hooks([(name, edit)]):
        edited = hvit(images)
        assert_changed(edited, before)
        assert_close(hvit.decompose(images).total(), edited, FLOAT32_TOL)


@pytest.mark.parametrize("name", UNOWNED)
@pytest.mark.parametrize("kind", WIRINGS)
def test_edits_that_no_unit_owns_are_refused(kind, name):
    hvit = HookedViT.wrap(tiny_tower(kind))
    images = tiny_images(hvit.parts.tower)
    with hvit.hooks([(name, edit)]), pytest.raises(MismatchError, match="where no unit owns the change"):
        hvit.decompose(images)
    assert_close(hvit.decompose(images).total(), hvit(images), FLOAT32_TOL)


@pytest.mark.parametrize("point", ["attn.hook_z", "attn.hook_result"])
def test_ablating_one_head_of_the_last_layer_leaves_its_bias_share_alone(point):
    hvit = HookedViT.wrap(tiny_tower("layerscale"))
    images = tiny_images(hvit.parts.tower)
    unit = hvit.units["L2H1"]
    with hvit.hooks([(f"blocks.2.{point}", lambda x, hook: unit.replace(x, 0.0))]):
        terms = hvit.extract(images)
        contribution = hvit.decompose(images)["L2H1"]
    bias = hvit.blocks[2].attn.b_O / hvit.cfg.n_heads
    expected = terms.readout.of_terms(bias.expand(3, 1, -1))
    assert_close(contribution, expected, FLOAT32_TOL)
    assert contribution.abs().max() > 1e-2
