"""`ViTCache` at some positions, for some images, without a batch axis."""

import pytest
import torch
from transformer_lens.utilities.slice import Slice

from residual_lens.errors import InputError
from residual_lens.hooked.cache.activation_cache import ViTCache
from tests.hooked.cached_by_hand import (
    BLOCK_CALLS,
    CALLS,
    FINAL_CALLS,
    LAYERS,
    cached,
    wrapped,
    wrapped_timm,
)
from tests.tolerances import FLOAT64_TOL, assert_close


@pytest.mark.parametrize(("method", "args", "options"), CALLS)
@pytest.mark.parametrize("kind", ["ViT-B-16", "clipa", "avg-norm-before-pool"])
def test_without_a_batch_axis(method, args, options, kind):
    hvit = wrapped(kind)
    expected = getattr(cached(hvit, 1), method)(*args, **options)[:, 0]
    assert_close(getattr(cached(hvit, 1, remove_batch_dim=True), method)(*args, **options), expected, FLOAT64_TOL)
    later = cached(hvit, 1).remove_batch_dim()
    assert_close(getattr(later, method)(*args, **options), expected, FLOAT64_TOL)
    sliced = cached(hvit, 3).apply_slice_to_batch_dim(0)
    assert isinstance(sliced, ViTCache)
    # Sums over tokens depend on the batch in their last bits.
    assert_close(getattr(sliced, method)(*args, **options), expected, 10 * FLOAT64_TOL)


@pytest.mark.parametrize(("method", "args", "options"), BLOCK_CALLS)
@pytest.mark.parametrize("positions", [2, [3, 0], (1, 4), (0, 5, 2)])
@pytest.mark.parametrize("remove_batch_dim", [False, True])
def test_positions_of_a_block(method, args, options, positions, remove_batch_dim):
    cache = cached(wrapped(), 1, remove_batch_dim=remove_batch_dim)
    whole = getattr(cache, method)(*args, **options)
    if isinstance(positions, int):
        expected = whole[..., positions, :]
    else:
        expected = whole[..., slice(*positions) if isinstance(positions, tuple) else positions, :]
    assert_close(getattr(cache, method)(*args, **options, pos_slice=positions), expected, FLOAT64_TOL)
    if method == "decompose_resid" and options.get("apply_ln"):
        raw = cache.decompose_resid(*args, mlp_input=True, pos_slice=positions)
        again = cache.apply_ln_to_stack(raw, *args, mlp_input=True, pos_slice=positions)
        assert_close(again, expected, FLOAT64_TOL)


@pytest.mark.parametrize(("method", "args", "options"), FINAL_CALLS)
@pytest.mark.parametrize("positions", [0, [0], (0, 2), [3, 0]])
def test_positions_that_hold_the_class_token_are_enough_for_the_final_norm(method, args, options, positions):
    cache = cached(wrapped())
    expected = getattr(cache, method)(*args, **options)
    assert expected.ndim == 3
    assert_close(getattr(cache, method)(*args, **options, pos_slice=positions), expected, FLOAT64_TOL)
    raw = cache.decompose_resid(pos_slice=positions)
    normed = cache.apply_ln_to_stack(raw, pos_slice=positions)
    assert_close(normed, cache.decompose_resid(apply_ln=True), FLOAT64_TOL)


@pytest.mark.parametrize(
    ("kind", "positions", "which"),
    [("ViT-B-16", 1, "position 0"), ("ViT-B-16", (1, 5), "position 0"), ("clipa", (0, 4), "positions 1 to 4")],
)
def test_positions_that_the_final_norm_needs_must_be_kept(kind, positions, which):
    cache = cached(wrapped(kind))
    with pytest.raises(InputError, match=f"pooled over {which}.*does not keep each of them once"):
        cache.decompose_resid(apply_ln=True, pos_slice=positions)
    with pytest.raises(InputError, match=f"pooled over {which}"):
        cache.apply_ln_to_stack(cache.decompose_resid(pos_slice=positions), pos_slice=positions)
    with pytest.raises(InputError, match=r"expected components at 5 positions, got \d.*Pass the pos_slice"):
        cache.apply_ln_to_stack(cache.decompose_resid(pos_slice=positions)[:, :, None][:, :, :1].flatten(2, -2))


def test_the_mean_needs_only_the_positions_that_it_takes():
    cache = cached(wrapped("clipa"))
    expected = cache.decompose_resid(apply_ln=True)
    assert_close(cache.decompose_resid(apply_ln=True, pos_slice=(1, 5)), expected, FLOAT64_TOL)
    assert_close(cache.decompose_resid(apply_ln=True, pos_slice=[4, 2, 3, 1]), expected, FLOAT64_TOL)
    with pytest.raises(InputError, match="keep each of them once"):
        cache.decompose_resid(apply_ln=True, pos_slice=[1, 2, 3, 4, 4])


def test_a_cache_cut_in_caching_says_how_to_go_on():
    hvit = wrapped()
    expected = cached(hvit).decompose_resid(apply_ln=True)
    cut = cached(hvit, pos_slice=0)
    with pytest.raises(InputError, match=r"holds 1 of 5 positions.*apply_ln_to_stack\(stack, pos_slice"):
        cut.decompose_resid(apply_ln=True)
    assert_close(cut.apply_ln_to_stack(cut.decompose_resid(), pos_slice=0), expected, FLOAT64_TOL)
    assert_close(cut.apply_ln_to_stack(cut.decompose_resid(), pos_slice=[0]), expected, FLOAT64_TOL)
    with pytest.raises(InputError, match="pooled over position 0"):
        cut.apply_ln_to_stack(cut.decompose_resid(), pos_slice=3)
    stack = cut.decompose_resid(2, apply_ln=True)
    assert_close(stack.sum(dim=0), cut["normalized", 2, "ln1"], FLOAT64_TOL)


@pytest.mark.parametrize("kind", ["ViT-B-16", "avg-norm-before-pool"])
@pytest.mark.parametrize("layer", [1, LAYERS])
def test_images_may_be_cut_from_a_stack(kind, layer):
    cache = cached(wrapped(kind), 4)
    raw = cache.decompose_resid(layer)
    expected = cache.decompose_resid(layer, apply_ln=True)
    assert_close(cache.apply_ln_to_stack(raw, layer, batch_slice=(1, 3)), expected[:, 1:3], FLOAT64_TOL)
    assert_close(cache.apply_ln_to_stack(raw, layer, batch_slice=2), expected[:, 2], FLOAT64_TOL)
    one = cache.apply_ln_to_stack(raw[:, 2], layer, batch_slice=2, has_batch_dim=False)
    assert_close(one, expected[:, 2], FLOAT64_TOL)
    with pytest.raises(InputError, match="do not fit the norm's scale"):
        cache.apply_ln_to_stack(raw[:, 2], layer, has_batch_dim=False)
    with pytest.raises(InputError, match="do not fit the norm's scale"):
        cache.apply_ln_to_stack(raw[:, :2], layer)
    some = cache.apply_slice_to_batch_dim([3, 1])
    assert_close(some.decompose_resid(layer, apply_ln=True), expected[:, [3, 1]], FLOAT64_TOL)


def test_a_stack_of_one_image_needs_no_batch_axis():
    cache = cached(wrapped(), 1)
    for layer in (1, LAYERS):
        expected = cache.decompose_resid(layer, apply_ln=True)[:, 0]
        raw = cache.decompose_resid(layer)[:, 0]
        assert_close(cache.apply_ln_to_stack(raw, layer, has_batch_dim=False), expected, FLOAT64_TOL)


def test_images_of_another_size(generator):
    hvit = wrapped_timm(dynamic_img_size=True, global_pool="avg", fc_norm=True)
    images = torch.randn(2, 3, 48, 32, dtype=torch.float64, generator=generator)
    _, whole = hvit.run_with_cache(images)
    whole = ViTCache(whole.cache_dict, hvit, pos_slice=Slice(None))
    assert_close(whole.decompose_resid(apply_ln=True).sum(dim=0), whole["ln_final.hook_normalized"], FLOAT64_TOL)
    later = whole.apply_slice_to_batch_dim([1])
    assert_close(later.decompose_resid(apply_ln=True).sum(dim=0), later["ln_final.hook_normalized"], FLOAT64_TOL)
    # As many positions as an image of the usual size has: what was cut must be known.
    _, cut = hvit.run_with_cache(images, pos_slice=(0, hvit.cfg.n_ctx))
    cut = ViTCache(cut.cache_dict, hvit, pos_slice=(0, hvit.cfg.n_ctx))
    for cache in (cut, cut.apply_slice_to_batch_dim([0])):
        with pytest.raises(InputError, match="Cache without pos_slice"):
            cache.decompose_resid(apply_ln=True)
