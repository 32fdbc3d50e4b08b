"""LoRA is peft's: its files, its start, and the same outputs with peft alone."""

import copy
import warnings

import peft
import pytest
import torch
from torch import nn

from residual_lens.errors import InputError
from residual_lens.hooked import HookedViT
from residual_lens.training.methods import LoRA
from tests.backbones.backbone import images_of
from tests.backbones.models import BY_NAME
from tests.tolerances import FLOAT32_TOL, assert_changed, assert_close
from tests.training.methods.weight_methods import drawn


def peft_model(tower, make, *arguments):
    """A model of peft, without what its constructor warns of in transformers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return make(tower, *arguments)


@pytest.mark.parametrize(
    "name", ["Hugging Face: CLIPVisionModel (no projection)", "timm: vit_small_patch14_dinov2 (LayerScale)"]
)
@torch.no_grad()
def test_peft_alone_loads_what_was_saved_and_computes_the_same(name, tmp_path):
    backbone = BY_NAME[name]
    model = backbone.build()
    hvit = HookedViT.wrap(model)
    lora, images = drawn("lora", hvit), images_of(hvit.cfg.image_size)
    with lora.attached(hvit):
        expected = hvit(images)
    lora.save_for_peft(tmp_path)
    alone = peft_model(copy.deepcopy(hvit.parts.tower), peft.PeftModel.from_pretrained, str(tmp_path))
    assert_close(backbone.embedding(alone.merge_and_unload(), images), expected, FLOAT32_TOL)
    assert_changed(expected, hvit(images))


def test_a_tower_that_peft_computes_wrong_is_refused_until_peft_is_right(hvit, images, tmp_path):
    """When the second half fails, peft adds once and the refusal can go."""
    with pytest.raises(InputError, match=r"adds to the output projection of nn\.MultiheadAttention twice"):
        drawn("lora", hvit).save_for_peft(tmp_path)
    attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    layer = peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["0"]), nn.Sequential(attention))[0]
    out = layer.base_layer.out_proj
    with torch.no_grad():
        out.lora_B["default"].weight.normal_(generator=torch.Generator().manual_seed(0))
    before, added = out.base_layer.weight.clone(), out.get_delta_weight("default")
    layer.merge()
    assert_close(out.base_layer.weight, before + 2 * added, FLOAT32_TOL)


@pytest.mark.parametrize("name", ["open_clip: ViT-B-16", "timm: vit_small_patch14_dinov2 (LayerScale)"])
@torch.no_grad()
def test_names_and_shapes_are_those_that_peft_gives_by_itself(name):
    model = BY_NAME[name].build()
    hvit = HookedViT.wrap(model)
    lora = LoRA(hvit, rank=2)
    targets = lora._peft_config.target_modules
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=targets)
    assert lora._peft_config.to_dict() == config.to_dict() | {"target_modules": targets}
    by_itself = peft_model(copy.deepcopy(hvit.parts.tower), peft.get_peft_model, config)
    expected = {key: value for key, value in by_itself.named_parameters() if value.requires_grad}
    ours = {f"base_model.model.{key}".replace("/", "."): value for key, value in lora.trained.items()}
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in expected.items()}
    assert all(bool((value == 0).all()) == (".lora_B." in key) for key, value in ours.items())


def test_the_seed_decides_the_start_and_torchs_own_randomness_stays(hvit):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    starts = [torch.cat([p.detach().flatten() for p in LoRA(hvit, seed=seed).parameters()]) for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_the_copy_that_peft_works_on_has_no_weights(hvit):
    lora = LoRA(hvit)
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in lora.parameters()}
    layer = next(iter(lora._layers.values()))
    assert layer.get_base_layer().in_proj_weight.untyped_storage().nbytes() == 4
    assert sum(held.values()) == 4 * lora.parameter_count()


def test_every_matrix_of_attention_and_mlp_is_added_to_and_no_module_is_replaced(hvit):
    before = [type(module) for module in hvit.source.modules()]
    changed = set(LoRA(hvit).values())
    linear = {
        f"{name}.{weight}"
        for name, module in hvit.source.transformer.named_modules(prefix="transformer")
        for weight in ("weight", "in_proj_weight")
        if isinstance(module, (nn.Linear, nn.MultiheadAttention))
        and isinstance(getattr(module, weight, None), nn.Parameter)
    }
    assert changed == linear
    assert [type(module) for module in hvit.source.modules()] == before


@torch.no_grad()
def test_half_precision_weights_get_factors_of_float32():
    backbone = BY_NAME["open_clip: ViT-B-16"]
    model = backbone.build().bfloat16()
    hvit = HookedViT.wrap(model)
    lora, images = drawn("lora", hvit), images_of(hvit.cfg.image_size).bfloat16()
    assert {parameter.dtype for parameter in lora.parameters()} == {torch.float32}
    plain = hvit(images)
    with lora.attached(hvit):
        edited = hvit(images)
    assert edited.dtype == torch.bfloat16
    assert_changed(edited, plain)


def test_a_rank_of_zero_is_refused(hvit):
    with pytest.raises(InputError, match="rank starts at 1, got 0"):
        LoRA(hvit, rank=0)
