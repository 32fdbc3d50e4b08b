"""Contexts that end in unusual ways: collected, interrupted, reset inside, copied while they are open."""

import copy
import gc
import pickle
import weakref

import pytest
import torch

from residual_lens.hooked.vit import HookedViT
from tests.hooked.test_leaks import ALL, attached, halved
from tests.tolerances import FLOAT32_TOL, assert_changed, assert_close


def test_a_context_nobody_leaves_ends_when_it_is_collected(hvit, images):
    before = hvit(images)
    context = hvit.hooks([ALL, ("hook_image_embed", halved)], bwd_hooks=[ALL])
    context.__enter__()
    assert_changed(hvit(images), before)
    del context
    gc.collect()
    assert attached(hvit) == 0
    assert hvit.context_level == 0
    assert torch.equal(hvit(images), before)


def test_a_generator_nobody_finishes_leaves_no_hook(hvit, images):
    def embeddings():
        with hvit.hooks([ALL, ("hook_image_embed", halved)]):
            while True:
                yield hvit(images)

    running = embeddings()
    next(running)
    # Part of a cycle, so that only the collector can end it.
    cycle = [running]
    cycle.append(cycle)
    del running, cycle
    gc.collect()
    assert attached(hvit) == 0
    assert hvit.context_level == 0


def test_a_wrapper_is_freed_with_the_context_that_nobody_left(tower, images):
    before = tower(images)
    hvit = HookedViT.wrap(tower)
    context = hvit.hooks([ALL])
    context.__enter__()
    reference = weakref.ref(hvit)
    del hvit
    assert reference() is not None
    del context
    gc.collect()
    assert reference() is None
    assert torch.equal(tower(images), before)
    assert all(not module._forward_hooks for module in tower.modules())


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_an_exception_that_keeps_its_frames_alive_leaves_no_hook(hvit, images, error):
    before = hvit(images)

    def fails(activation, hook):
        raise error

    kept = None
    for direction in ("fwd_hooks", "bwd_hooks"):
        try:
            with hvit.hooks([ALL], bwd_hooks=[ALL]), hvit.hooks(**{direction: [("blocks.1.hook_mlp_out", fails)]}):
                hvit(images).sum().backward()
        except error as raised:
            kept = raised
        assert kept is not None
        assert kept.__traceback__ is not None
        assert attached(hvit) == 0
        assert hvit.context_level == 0
        assert torch.equal(hvit(images), before)


def test_a_failing_predicate_leaves_no_hook(hvit):
    def fails(name):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), hvit.hooks([ALL], bwd_hooks=[(fails, halved)]):
        pass
    assert attached(hvit) == 0
    assert hvit.context_level == 0


def test_hooks_taken_away_inside_a_context_are_not_missed_at_its_end(hvit):
    with hvit.hooks([ALL], bwd_hooks=[ALL]):
        hvit.reset_hooks()
    assert attached(hvit) == 0
    assert hvit.context_level == 0


def test_hooks_kept_on_purpose_stay_until_they_are_reset(hvit, images):
    before = hvit(images)
    with hvit.hooks([("hook_image_embed", halved)], reset_hooks_end=False):
        pass
    assert_close(hvit(images), before / 2, FLOAT32_TOL)
    hvit.reset_hooks()
    assert torch.equal(hvit(images), before)


def pickled_and_back(hvit):
    return pickle.loads(pickle.dumps(hvit))  # noqa: S301 - what was written a moment ago


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled_and_back])
def test_copies_and_pickles_made_inside_a_context_come_without_its_hooks(hvit, images, duplicate):
    before = hvit(images)
    # Functions defined here could not be pickled: that this works at all shows that none is taken along.
    with hvit.hooks([ALL, ("hook_image_embed", halved)], bwd_hooks=[ALL]):
        hvit.hook_dict["hook_pooled"].register_forward_pre_hook(lambda module, args: args)
        hvit.hook_dict["hook_pooled"].ctx["seen"] = 1
        twin = duplicate(hvit)
        assert_close(hvit(images), before / 2, FLOAT32_TOL)
        assert attached(twin) == 0
        assert twin.context_level == 0
        assert twin.hook_dict["hook_pooled"].ctx == {}
        assert torch.equal(twin(images), before)
    with twin.hooks([("hook_image_embed", halved)]):
        assert_close(twin(images), before / 2, FLOAT32_TOL)
    assert hvit.hook_dict["hook_pooled"].ctx == {"seen": 1}
