"""`run_with_cache` and gradients, as TransformerLens users know them."""

import pytest
import torch
from transformer_lens import ActivationCache

from residual_lens.errors import InputError
from residual_lens.hooked.vit import HookedViT
from tests.hooked.running import counted_attention, counted_blocks
from tests.tiny_models import tiny_images, tiny_tower
from tests.tolerances import FLOAT32_TOL, FLOAT64_TOL, assert_close


def test_the_cache_is_transformer_lens_own_and_understands_short_names(hvit, images):
    embedding, cache = hvit.run_with_cache(images)
    assert isinstance(cache, ActivationCache)
    assert set(cache.keys()) == set(hvit.hook_dict)
    assert cache["pattern", 0] is cache["blocks.0.attn.hook_pattern"]
    assert cache["z", 2].shape == (3, 5, 3, 8)
    assert cache["resid_post", 1] is cache["blocks.1.hook_resid_post"]
    assert cache["normalized", 1, "ln2"] is cache["blocks.1.ln2.hook_normalized"]
    assert_close(cache["pattern", 0].sum(dim=-1), torch.ones(3, 3, 5), FLOAT32_TOL)
    assert_close(embedding, hvit(images), FLOAT32_TOL)


def test_cached_parts_of_a_block_add_up(hvit, images):
    _, cache = hvit.run_with_cache(images)
    for layer, block in enumerate(hvit.blocks):
        mid = cache["resid_pre", layer] + cache["attn_out", layer]
        assert_close(cache["resid_mid", layer], mid, FLOAT32_TOL)
        assert_close(cache["resid_post", layer], mid + cache["mlp_out", layer], FLOAT32_TOL)
        written = cache["result", layer].sum(dim=2) + block.attn.b_O
        assert_close(cache["attn_out", layer], written, FLOAT32_TOL)
        by_weights = torch.einsum("bphd,hdm->bphm", cache["z", layer], block.attn.W_O)
        assert_close(cache["result", layer], by_weights, FLOAT32_TOL)
        scores = torch.einsum("bqhd,bkhd->bhqk", cache["q", layer], cache["k", layer]) / hvit.cfg.d_head**0.5
        assert_close(cache["attn_scores", layer], scores, FLOAT32_TOL)
        assert_close(cache["pattern", layer], scores.softmax(dim=-1), FLOAT32_TOL)
    tokens = cache["hook_embed"] + cache["hook_pos_embed"]
    assert_close(cache["hook_full_embed"], tokens, FLOAT32_TOL)
    assert_close(cache["hook_pooled"], cache["resid_post", 2][:, 0], FLOAT32_TOL)


@pytest.mark.parametrize(
    "names_filter", ["blocks.1.attn.hook_z", ["blocks.1.attn.hook_z"], lambda name: name == "blocks.1.attn.hook_z"]
)
def test_names_filter_caches_nothing_else_and_computes_nothing_else(hvit, images, names_filter):
    with counted_blocks(hvit) as positions, counted_attention() as attention:
        _, cache = hvit.run_with_cache(images, names_filter=names_filter)
    assert list(cache.keys()) == ["blocks.1.attn.hook_z"]
    assert positions == [5, 5, 1]
    assert attention == {"fused": 3}


def test_remove_batch_dim_drops_the_batch_axis_of_one_image(hvit, images):
    _, cache = hvit.run_with_cache(images[:1], remove_batch_dim=True)
    assert cache["z", 0].shape == (5, 3, 8)
    assert cache["hook_image_embed"].shape == (20,)
    assert not cache.has_batch_dim


def test_transformer_lens_stacks_activations(hvit, images):
    _, cache = hvit.run_with_cache(images)
    assert cache.stack_activation("resid_pre").shape == (3, 3, 5, 24)
    accumulated, labels = cache.accumulated_resid(return_labels=True)
    assert labels[-1] == "final_post"
    assert_close(accumulated[-1], cache["resid_post", 2], FLOAT32_TOL)


@pytest.mark.parametrize("name", ["blocks.0.attn.hook_pattern", "blocks.1.attn.hook_z", "blocks.2.attn.hook_direct"])
def test_backward_hooks_see_the_gradient(name):
    hvit = HookedViT.wrap(tiny_tower("ViT-B-16").double())
    images = tiny_images(hvit.source).double()
    seen, kept = [], []

    def keep(activation, hook):
        activation.retain_grad()
        kept.append(activation)

    with hvit.hooks([(name, keep)], bwd_hooks=[(name, lambda gradient, hook: seen.append(gradient.clone()))]):
        hvit(images).square().sum().backward()
    assert len(seen) == 1
    assert seen[0].abs().max() > 0
    assert_close(seen[0], kept[0].grad, FLOAT64_TOL)


def test_backward_hooks_edit_the_gradient(hvit, images):
    images = images.requires_grad_()
    with hvit.hooks(bwd_hooks=[("hook_full_embed", lambda gradient, hook: torch.zeros_like(gradient))]):
        hvit(images).square().sum().backward()
    assert images.grad.abs().max() == 0


def test_unknown_hook_points_are_refused_by_run_with_hooks(hvit, images):
    with pytest.raises(InputError, match=r"There is no hook point 'nonsense'\. hvit.hook_dict lists them"):
        hvit.run_with_hooks(images, fwd_hooks=[("nonsense", lambda activation, hook: None)])


def test_pos_slice_cuts_token_positions_and_nothing_else(hvit):
    # As many images as tokens, so that a cut along the wrong axis could pass unnoticed elsewhere.
    images = tiny_images(hvit.source, 5)
    _, whole = hvit.run_with_cache(images)
    _, cut = hvit.run_with_cache(images, pos_slice=0)
    for name, activation in whole.items():
        if name.endswith("_direct") or name in ("hook_pooled", "hook_image_embed") or name.startswith("ln_final"):
            expected = activation
        elif name.endswith(("hook_attn_scores", "hook_pattern")):
            expected = activation[:, :, :1]
        else:
            expected = activation[:, :1]
        assert_close(cut[name], expected, FLOAT32_TOL)
    _, first_two = hvit.run_with_cache(images, pos_slice=(0, 2), names_filter="blocks.0.attn.hook_z")
    assert_close(first_two["z", 0], whole["z", 0][:, :2], FLOAT32_TOL)


@pytest.mark.parametrize("names", ["blocks.0.attn.hook_zz", ["hook_embed", "nothing"], lambda name: False])
def test_a_names_filter_that_matches_nothing_is_refused(hvit, images, names):
    with pytest.raises(InputError, match=r"no hook point|No hook point"):
        hvit.run_with_cache(images, names_filter=names)
    with pytest.raises(InputError, match=r"no hook point|No hook point"):
        hvit.add_hook(names[-1] if isinstance(names, list) else names, lambda x, hook: None)


def test_hooks_added_for_good_stay_until_reset(hvit, images):
    before = hvit(images)
    hvit.add_hook("hook_image_embed", lambda x, hook: 2 * x)
    assert_close(hvit(images), 2 * before, FLOAT32_TOL)
    hvit.reset_hooks()
    assert torch.equal(hvit(images), before)
