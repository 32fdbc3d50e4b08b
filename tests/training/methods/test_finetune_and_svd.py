"""Which weights fine-tuning copies, and what moves along which singular vectors."""

import pytest
import torch

from residual_lens.hooked import HookedViT
from residual_lens.training.methods import FineTune, SingularValues
from tests.backbones.backbone import images_of
from tests.backbones.models import BY_NAME
from tests.tiny_models import tiny_tower
from tests.tolerances import FLOAT32_TOL, assert_close


def test_all_weights_of_the_embedding_are_copied_and_what_plays_no_part_is_not():
    tower = tiny_tower("ViT-B-16")
    copied = {key.replace("/", ".") for key in FineTune(HookedViT.wrap(tower)).weights}
    assert copied == set(dict(tower.named_parameters()))
    for name, left_out in (
        ("Hugging Face: Dinov2Model (LayerScale)", {"embeddings.mask_token"}),
        ("timm: vit_tiny_patch16_224 (AugReg)", {"head.weight", "head.bias"}),
    ):
        model = BY_NAME[name].build()
        copied = {key.replace("/", ".") for key in FineTune(HookedViT.wrap(model)).weights}
        assert {key for key, _ in model.named_parameters()} - copied == left_out


def test_a_projection_outside_the_tower_is_trained_too():
    model = BY_NAME["Hugging Face: BlipForImageTextRetrieval (projection with bias)"].build()
    finetune = FineTune(HookedViT.wrap(model))
    assert torch.equal(finetune.weights["projection"], model.vision_proj.weight)
    assert torch.equal(finetune.weights["projection_bias"], model.vision_proj.bias)


def test_weights_that_the_user_froze_are_trained_as_well():
    tower = tiny_tower("ViT-B-16").requires_grad_(False)
    hvit = HookedViT.wrap(tower)
    finetune = FineTune(hvit)
    assert finetune.parameter_count() == sum(parameter.numel() for parameter in tower.parameters())
    assert not any(parameter.requires_grad for parameter in tower.parameters())


@torch.no_grad()
def test_a_weight_that_is_used_twice_is_copied_once():
    tower = tiny_tower("ViT-B-16")
    blocks = tower.transformer.resblocks
    blocks[1].mlp.c_fc.weight = blocks[0].mlp.c_fc.weight
    hvit = HookedViT.wrap(tower)
    finetune, images = FineTune(hvit), images_of(hvit.cfg.image_size)
    assert finetune.parameter_count() == sum(parameter.numel() for parameter in tower.parameters())
    finetune.weights["transformer/resblocks/0/mlp/c_fc/weight"] *= 1.5
    with finetune.attached(hvit):
        edited = hvit(images)
    blocks[0].mlp.c_fc.weight *= 1.5
    assert_close(edited, tower(images), FLOAT32_TOL)


@pytest.mark.parametrize("name", ["open_clip: ViT-B-16", "timm: vit_giant_patch14_dinov2 (packed SwiGLU)"])
@torch.no_grad()
def test_changes_move_singular_values_of_each_matrix_and_nothing_else(name, generator):
    model = BY_NAME[name].build().double()
    hvit = HookedViT.wrap(model)
    svd = SingularValues(hvit)
    for change in svd.changes.values():
        change += 0.05 * torch.rand(change.shape, generator=generator, dtype=torch.float64)
    for key, value in svd.values().items():
        weight, change = hvit.parts.tower.get_parameter(key), svd.changes[key.replace(".", "/")]
        for before, after, moved in zip(
            weight.chunk(len(change)), value(weight).chunk(len(change)), change, strict=True
        ):
            expected = (torch.linalg.svdvals(before) + moved).sort(descending=True).values
            assert_close(torch.linalg.svdvals(after), expected, 1e-10)


def test_a_model_has_as_many_singular_values_whatever_library_holds_it():
    """Queries, keys, values, output: 32 each; both layers of the MLP: 32 each; in two layers."""
    for name in ("open_clip: ViT-B-16", "Hugging Face: CLIPModel", "timm: vit_tiny_patch16_224 (AugReg)"):
        model = BY_NAME[name].build()
        assert SingularValues(HookedViT.wrap(model)).parameter_count() == 2 * 6 * 32


def test_only_changes_are_saved(hvit):
    assert set(SingularValues(hvit).state_dict()) == {f"changes.{key}" for key in SingularValues(hvit).changes}
