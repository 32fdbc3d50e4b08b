"""Undoing a bake: exact bits, step by step, and never over what somebody changed since."""

import copy
import gc
import io

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

from residual_lens.errors import InputError, MismatchError
from residual_lens.interventions.bake import bake, unbake
from tests.interventions.drawn_edits import bits, drawn_edit, in_force, same_bits
from tests.interventions.tiny_bases import wrapped
from tests.tiny_models import source_embedding, tiny_images
from tests.tolerances import FLOAT32_TOL, assert_close


@torch.no_grad()
def test_bakes_are_a_stack():
    hvit = wrapped("layerscale")
    images = tiny_images(hvit.source)
    states, embeddings = [bits(hvit.source)], []
    for seed in (1, 2):
        edit = drawn_edit(hvit, ["L0H1", "1_mlp_out", "L2H0"], seed=seed)
        with in_force(hvit, edit):
            expected = hvit(images)
        embeddings.append(source_embedding(bake(hvit, edit), images))
        assert_close(embeddings[-1], expected, FLOAT32_TOL)
        states.append(bits(hvit.source))
    for state in reversed(states[:-1]):
        unbake(hvit.source)
        assert same_bits(hvit.source, state)
    with pytest.raises(InputError, match=r"Nothing is baked into this VisionTransformer.*saved and loaded again"):
        unbake(hvit.source)


@torch.no_grad()
def test_copies_are_unbaked_by_themselves_and_the_wrapper_stands_for_its_source():
    hvit = wrapped()
    before = bits(hvit.source)
    bake(hvit, drawn_edit(hvit, ["L0H1"]))
    baked = bits(hvit.source)
    for module in (copy.deepcopy(hvit.source), copy.deepcopy(hvit)):
        unbake(module)
        assert same_bits(getattr(module, "source", module), before)
        assert same_bits(hvit.source, baked)
    unbake(hvit)
    assert same_bits(hvit.source, before)


@torch.no_grad()
def test_what_was_kept_is_let_go_and_a_pickle_needs_no_residual_lens():
    hvit = wrapped()
    attributes = set(vars(hvit.source))
    bake(hvit, drawn_edit(hvit, ["L0H1"]))
    buffer = io.BytesIO()
    torch.save(hvit.source, buffer)
    assert b"residual_lens" not in buffer.getvalue()
    unbake(hvit.source)
    gc.collect()
    assert set(vars(hvit.source)) == attributes


def change_by_training(module: nn.Module) -> None:
    module.transformer.resblocks[0].attn.out_proj.weight.data[0, 0] += 1e-3


def change_the_shape(module: nn.Module) -> None:
    layer = module.transformer.resblocks[0].attn.out_proj
    layer.weight = nn.Parameter(layer.weight.detach().reshape(-1))


def narrow_and_widen(module: nn.Module) -> None:
    module.half().float()


def parametrize(module: nn.Module) -> None:
    register_parametrization(module.transformer.resblocks[0].attn.out_proj, "weight", nn.Tanh())


CHANGES = {
    change_by_training: r"out_proj.weight has changed since an edit was baked",
    change_the_shape: r"out_proj.weight has changed since",
    narrow_and_widen: r"has changed since .*a cast to a narrower dtype and back",
    nn.Module.double: r"was torch.float32 when an edit was baked into it and is torch.float64: cast the model back",
    parametrize: r"out_proj.weight, into which an edit was baked, is no longer a parameter",
}


@torch.no_grad()
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_weights_that_changed_after_baking_are_not_overwritten(change):
    hvit = wrapped()
    bake(hvit, drawn_edit(hvit, ["L0H1", "2_mlp_out"]))
    change(hvit.source)
    changed = bits(hvit.source)
    with pytest.raises(MismatchError, match=CHANGES[change]):
        unbake(hvit.source)
    assert same_bits(hvit.source, changed)


@torch.no_grad()
def test_a_cast_to_a_wider_dtype_and_back_is_unbaked():
    hvit = wrapped()
    before = bits(hvit.source)
    bake(hvit, drawn_edit(hvit, ["L0H1"]))
    hvit.source.double().float()
    unbake(hvit.source)
    assert same_bits(hvit.source, before)


@torch.no_grad()
def test_baking_in_inference_mode_leaves_a_model_that_can_be_unbaked_and_copied_outside():
    hvit = wrapped()
    before = bits(hvit.source)
    with torch.inference_mode():
        bake(hvit, drawn_edit(hvit, ["L0H1"]))
    for module in (copy.deepcopy(hvit.source), hvit.source):
        unbake(module)
        assert same_bits(module, before)


@torch.no_grad()
def test_a_failure_half_way_leaves_everything_as_it_was(monkeypatch):
    hvit = wrapped()
    edit, before = drawn_edit(hvit, ["L0H1", "2_mlp_out"]), bits(hvit.source)
    copies = []
    copy_ = torch.Tensor.copy_

    def failing(self, *args, **kwargs):
        copies.append(self)
        if len(copies) == 3:
            raise KeyboardInterrupt
        return copy_(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "copy_", failing)
    with pytest.raises(KeyboardInterrupt):
        bake(hvit, edit)
    assert len(copies) > 3
    assert same_bits(hvit.source, before)
    with pytest.raises(InputError, match=r"Nothing is baked"):
        unbake(hvit.source)
    bake(hvit, edit)
    baked = bits(hvit.source)
    copies.clear()
    with pytest.raises(KeyboardInterrupt):
        unbake(hvit.source)
    assert same_bits(hvit.source, baked)
    unbake(hvit.source)
    assert same_bits(hvit.source, before)
