"""Nothing is left behind: hooks, attributes, copies, global state, memory."""

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import module as torch_module

from residual_lens.errors import InputError
from residual_lens.hooked.vit import HookedViT
from tests.tiny_models import WIRINGS, source_embedding, tiny_clip, tiny_images, tiny_tower
from tests.tolerances import FLOAT32_TOL, FLOAT64_TOL, assert_changed, assert_close


def attached(module: nn.Module) -> int:
    """Hooks of every sort on all submodules."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    listed = sum(len(point.fwd_hooks) + len(point.bwd_hooks) for point in module.hook_dict.values())
    return listed + sum(len(getattr(child, kind)) for child in module.modules() for kind in kinds)


def halved(activation, hook):
    return activation / 2


ALL = (lambda name: True, lambda activation, hook: None)


def test_a_context_leaves_no_hook(hvit, images):
    with hvit.hooks([ALL], bwd_hooks=[ALL]):
        assert attached(hvit) > 0
        hvit(images)
    assert attached(hvit) == 0
    hvit.run_with_cache(images)
    hvit.run_with_hooks(images, fwd_hooks=[ALL])
    assert attached(hvit) == 0


def test_an_exception_inside_leaves_no_hook(hvit, images):
    def fails(activation, hook):
        raise ZeroDivisionError

    before = hvit(images)
    failing = [ALL, ("blocks.1.hook_resid_mid", fails)]
    with pytest.raises(ZeroDivisionError):
        hvit.run_with_hooks(images, fwd_hooks=failing)
    assert attached(hvit) == 0
    with pytest.raises(ZeroDivisionError), hvit.hooks([ALL]), hvit.hooks(failing):
        hvit.decompose(images)
    assert attached(hvit) == 0
    assert hvit.context_level == 0
    assert torch.equal(hvit(images), before)


def test_an_unknown_hook_point_is_refused_and_the_others_are_taken_back(hvit):
    refused = pytest.raises(InputError, match=r"no hook point 'blocks.0.attn.hook_zz'. Did you mean .*attn.hook_z")
    with refused, hvit.hooks([ALL, ("blocks.0.attn.hook_zz", halved)]):
        pass
    assert attached(hvit) == 0
    assert hvit.context_level == 0


def test_nested_contexts_add_up_and_end_one_by_one(hvit, images):
    name = "blocks.1.hook_mlp_out"
    plain = hvit(images)
    with hvit.hooks([(name, halved)]):
        once = hvit(images)
        with hvit.hooks([(name, halved)]):
            twice = hvit(images)
        assert torch.equal(hvit(images), once)
    assert torch.equal(hvit(images), plain)
    assert_changed(once, plain)
    assert_changed(twice, once)


def test_contexts_that_overlap_end_each_for_itself(hvit, images):
    first, second = hvit.hooks([("hook_pooled", halved)]), hvit.hooks([("hook_image_embed", halved)])
    plain = hvit(images)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert_close(hvit(images), plain / 2, FLOAT32_TOL)
    second.__exit__(None, None, None)
    assert torch.equal(hvit(images), plain)
    assert attached(hvit) == 0


@pytest.mark.parametrize("kind", WIRINGS)
def test_the_source_keeps_weights_attributes_and_modes(kind):
    model = tiny_clip(kind)
    model.train()
    model.visual.transformer.resblocks[1].eval()
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    modes = {name: module.training for name, module in model.named_modules()}
    hvit = HookedViT.wrap(model)
    images = tiny_images(model)
    hvit(images)
    hvit.decompose(images)
    hvit.run_with_cache(images)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(not getattr(module, "_forward_hooks", None) for module in model.modules())


@pytest.mark.parametrize("kind", WIRINGS)
def test_parameters_are_the_sources_own_each_once(kind):
    model = tiny_clip(kind)
    hvit = HookedViT.wrap(model)
    ours, theirs = list(hvit.named_parameters(remove_duplicate=False)), list(model.parameters())
    assert len(ours) == len({id(parameter) for _, parameter in ours})
    assert {id(parameter) for _, parameter in ours} == {id(parameter) for parameter in theirs}
    modules = [id(module) for _, module in hvit.named_modules(remove_duplicate=False)]
    assert len(modules) == len(set(modules))
    assert set(hvit.state_dict()) == {f"source.{key}" for key in model.state_dict()}


def test_train_and_eval_reach_the_source(hvit):
    hvit.train()
    assert all(module.training for module in hvit.source.modules())
    hvit.eval()
    assert not any(module.training for module in hvit.source.modules())


def test_training_the_wrapper_trains_the_source(hvit, tower, images):
    before = source_embedding(tower, images)
    optimizer = torch.optim.SGD(hvit.parameters(), lr=0.05)
    hvit(images).square().mean().backward()
    optimizer.step()
    assert_changed(source_embedding(tower, images), before)
    assert_close(hvit(images), source_embedding(tower, images), FLOAT32_TOL)


def test_a_parameter_replaced_in_the_source_is_seen(hvit, tower, images):
    before = hvit(images)
    tower.proj = nn.Parameter(tower.proj.detach() * 2)
    assert_close(hvit(images), 2 * before, FLOAT32_TOL)


@pytest.mark.parametrize("kind", WIRINGS)
def test_deepcopy_is_independent(kind):
    hvit = HookedViT.wrap(tiny_tower(kind))
    images = tiny_images(hvit.source)
    before = hvit(images)
    twin = copy.deepcopy(hvit)
    assert torch.equal(twin(images), before)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.5)
    with twin.hooks([("hook_image_embed", halved)]):
        assert torch.equal(hvit(images), before)
    assert_changed(twin(images), before)
    assert_close(twin(images), source_embedding(twin.source, images), FLOAT32_TOL)
    shared = {id(module) for module in hvit.modules()} & {id(module) for module in twin.modules()}
    assert not shared


@pytest.mark.parametrize("kind", WIRINGS)
def test_casting_the_wrapper_casts_everything(kind):
    hvit = HookedViT.wrap(tiny_tower(kind)).to(torch.float64)
    images = tiny_images(hvit.source).double()
    assert hvit.dtype == torch.float64
    assert_close(hvit(images), source_embedding(hvit.source, images), FLOAT64_TOL)
    parts = hvit.decompose(images)
    assert parts.values.dtype == torch.float64
    assert_close(parts.total(), hvit(images), FLOAT64_TOL)


def test_a_wrapper_can_be_freed_and_leaves_the_source_usable(tower, images):
    hvit = HookedViT.wrap(tower)
    before = hvit(images).detach()
    hvit.decompose(images)
    hvit.run_with_cache(images)
    reference = weakref.ref(hvit)
    del hvit
    gc.collect()
    assert reference() is None
    assert_close(tower(images), before, FLOAT32_TOL)


def test_no_global_state_is_touched(tower, images):
    def state():
        return (
            torch.backends.mha.get_fastpath_enabled(),
            F.scaled_dot_product_attention,
            nn.MultiheadAttention.forward,
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.get_num_threads(),
            dict(torch_module._global_forward_hooks),
            dict(torch_module._global_backward_hooks),
            torch.get_rng_state().tolist(),
        )

    before = state()
    hvit = HookedViT.wrap(tower)
    with hvit.hooks([ALL]):
        hvit(images)
        hvit.decompose(images)
    hvit.head_frames()
    assert state() == before


def test_the_fast_path_of_torchs_attention_stays_in_use():
    # An even number of heads, without which torch never takes it.
    tower = tiny_tower("ViT-L-14")
    images = tiny_images(tower)
    hvit = HookedViT.wrap(tower)
    native, calls = torch._native_multi_head_attention, []
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(torch, "_native_multi_head_attention", lambda *args: calls.append(1) or native(*args))
        with hvit.hooks([ALL]):
            hvit(images)
        assert calls == []
        tower(images)
    assert len(calls) == 3


def test_two_wrappers_of_one_source_do_not_hear_each_other(tower, images):
    first, second = HookedViT.wrap(tower), HookedViT.wrap(tower)
    before = second(images)
    with first.hooks([("blocks.0.hook_mlp_out", halved)]):
        assert torch.equal(second(images), before)
        assert_changed(first(images), before)
