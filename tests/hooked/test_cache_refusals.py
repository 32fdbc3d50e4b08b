"""`ViTCache`: what is missing or meaningless is said, with what to do."""

import re

import pytest
import torch

from residual_lens.errors import InputError, UnsupportedModelError
from residual_lens.hooked.cache.lookup import NotCachedError
from tests.hooked.cached_by_hand import (
    CALLS,
    cached,
    wrapped,
)
from tests.tolerances import FLOAT64_TOL, assert_close

NAMES_FILTER = re.compile(r"names_filter=(lambda name: name\.endswith\(\(.*?\)\))")


@pytest.mark.parametrize(("method", "args", "options"), [*CALLS, ("compute_head_results", (), {})])
def test_what_is_missing_is_named_with_the_filter_that_caches_it(method, args, options):
    hvit = wrapped()
    cache = cached(hvit, names_filter="hook_embed")
    with pytest.raises(NotCachedError, match=r"^Not cached: (blocks\.\d|ln_final)\.") as caught:
        getattr(cache, method)(*args, **options)
    assert isinstance(caught.value, (InputError, KeyError))
    suggested = NAMES_FILTER.search(str(caught.value))
    enough = cached(hvit, names_filter=eval(suggested[1]))  # noqa: S307 - the message is ours
    expected = getattr(cached(hvit), method)(*args, **options)
    if expected is not None:
        assert_close(getattr(enough, method)(*args, **options), expected, FLOAT64_TOL)
    assert len(enough) < len(hvit.hook_dict) / 2


def test_lookups_say_what_is_missing():
    cache = cached(wrapped(), names_filter="blocks.1.attn.hook_z")
    with pytest.raises(NotCachedError, match=r"Not cached: blocks.2.attn.hook_z\..*endswith\(\('blocks.2.attn.hook_z'"):
        cache["z", -1]
    with pytest.raises(KeyError, match="hook_pattern"):
        cache["pattern", 0]
    with pytest.raises(InputError, match=r"There is no hook point 'blocks.0.attn.hook_zz'. Did you mean"):
        cache["blocks.0.attn.hook_zz"]
    assert "blocks.0.attn.hook_z" not in cache


def test_layers_and_modes_are_checked():
    cache = cached(wrapped())
    for layer in (4, -2):
        with pytest.raises(InputError, match=rf"layer={layer}: expected 0 to 3"):
            cache.decompose_resid(layer)
    for call in (cache.decompose_resid, cache.accumulated_resid, cache.get_full_resid_decomposition):
        with pytest.raises(InputError, match="the end of the stream: pass layer=0 to 2"):
            call(mlp_input=True)
    with pytest.raises(InputError, match="mode='heads': expected 'all', 'mlp' or 'attn'"):
        cache.decompose_resid(mode="heads")
    with pytest.raises(InputError, match=r"one image, got 2.*apply_slice_to_batch_dim"):
        cache.remove_batch_dim()
    with pytest.raises(InputError, match="nothing to slice"):
        cached(wrapped(), 1, remove_batch_dim=True).apply_slice_to_batch_dim(0)


@pytest.mark.parametrize("method", ["logit_lens", "logit_attrs"])
def test_logits_are_refused(method):
    with pytest.raises(UnsupportedModelError, match=r"no unembedding.*hvit.decompose"):
        getattr(cached(wrapped()), method)(torch.zeros(1), "a")


def test_stacks_hold_no_graph_and_leave_the_cache_alone():
    # Without results, so that heads need the weights.
    cache = cached(wrapped(), names_filter=lambda name: not name.endswith("hook_result"))
    before = {name: activation.clone() for name, activation in cache.items()}
    for method, args, options in CALLS:
        assert not getattr(cache, method)(*args, **options).requires_grad
    assert before.keys() == cache.keys()
    assert all(torch.equal(activation, cache[name]) for name, activation in before.items())


def test_a_stack_may_have_gradients():
    cache = cached(wrapped())
    stack = cache.decompose_resid().requires_grad_()
    cache.apply_ln_to_stack(stack).square().sum().backward()
    assert stack.grad[:, :, 0].abs().max() > 0
    assert stack.grad[:, :, 1:].abs().max() == 0
